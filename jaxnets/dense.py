"""Dense net: the chain rule layer by layer.

Symbols; a batch is rows, the batch axis may be absent:

    x = a_0 [B, n_0]     input                       W_l [n_{l−1}, n_l], b_l [n_l]   layer l = 1 … L
    s_l     [B, n_l]     sums of layer l             a_l [B, n_l]                    its outputs, l < L

Forward                                          Backward
    (D1) s_l = a_{l−1} W_l + b_l,                    (D2) δ_L = the head's ā or z̄ (H3, H6)
         a_l = tanh(s_l) for l < L,                  (D3) δ_l = (δ_{l+1} W_{l+1}ᵀ) ⊙ (1 − a_l²)
         s_L goes into a head                        (D4) W̄_l = a_{l−1}ᵀ δ_l,  b̄_l = Σ δ_l

Reference: D. E. Rumelhart, G. E. Hinton, R. J. Williams, Learning representations by back-propagating errors,
Nature 323 (1986).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxnets import heads
from jaxnets._arrays import compiled, dot, normal, on_same_axes, wide
from jaxnets._shapes import Call


class Params(NamedTuple):
    """Weights of L layers."""

    W: tuple[jax.Array, ...]  # W_l [n_{l−1}, n_l], from a layer's inputs to its sums
    b: tuple[jax.Array, ...] | None  # b_l [n_l], the sums' bias


def init(key: Any, sizes: Any = (784, 128, 10), *, bias: bool = True, dtype: Any = jnp.float32) -> Params:
    """Random weights for layers of `sizes = (n_0, …, n_L)`; `n_L = 1` makes the net logistic, more make it softmax.

    W_l is normal with variance 1/n_{l−1}, which keeps activations in the linear part of tanh from layer to layer;
    b_l is zero.

    >>> import jax
    >>> init(jax.random.key(0), sizes=(4, 3, 2)).W[1].shape
    (3, 2)
    """
    call = Call("dense.init")
    key, dtype, bias = call.key(key), call.float_dtype(dtype), call.flag("bias", bias)
    n = call.sizes_of("sizes", sizes, "a sequence of two layer sizes or more", least=2)
    keys = jax.random.split(key, len(n) - 1)
    W = tuple(normal(k, (rows, cols), rows, dtype) for k, rows, cols in zip(keys, n, n[1:], strict=False))
    return Params(W, tuple(jnp.zeros(cols, dtype) for cols in n[1:]) if bias else None)


def reference(params: Params, x: Any) -> jax.Array:
    """The forward pass as the page writes it, without a rule; same call as `forward`."""
    return _reference(*_check(Call("dense.reference"), params, x))


@partial(compiled, rows=1)
def _reference(params: Params, x: jax.Array) -> jax.Array:
    sums_wide = wide(x.dtype)
    a = x.astype(sums_wide)
    for layer, W in enumerate(params.W, 1):
        s = checkpoint_name(a @ W.astype(sums_wide), f"s{layer}")
        if params.b is not None:
            s = s + params.b[layer - 1].astype(sums_wide).reshape((1,) * (s.ndim - 1) + (-1,))
        a = checkpoint_name(jnp.tanh(s), f"a{layer}") if layer < len(params.W) else s
    return _squeeze(params, a).astype(x.dtype)


@jax.custom_vjp
def _layers(x: jax.Array, W: tuple[jax.Array, ...], b: tuple[jax.Array, ...] | None) -> jax.Array:
    return _layers_fwd(x, W, b)[0]


def _layers_fwd(x, W, b):
    """x [B, n_0] -> s_L [B, n_L], wide. Saves what enters each layer, in the dtype of x: a_l is all that D3 and D4
    need, since tanh′ is a function of tanh."""
    entered: list[Any] = []
    s: Any = None
    for layer, W_l in enumerate(W):
        a = x if layer == 0 else jnp.tanh(s).astype(x.dtype)  # (D1)
        entered.append(a)
        s = dot(a, W_l)  # (D1)
        if b is not None:
            s = s + b[layer].astype(s.dtype)[None]  # (D1)
    return s, (entered, W, b)


def _layers_bwd(saved, delta):
    entered, W, b = saved  # delta is δ_L (D2), the adjoint that the head hands down
    x, W_bar, b_bar = entered[0], [], []
    for layer in reversed(range(len(W))):
        a = entered[layer]
        W_bar = [dot(a.T, delta).astype(x.dtype), *W_bar]  # (D4)
        b_bar = [jnp.sum(delta, 0).astype(x.dtype), *b_bar]  # (D4)
        a_bar = dot(delta, W[layer].T)
        delta = a_bar * (1 - jnp.square(a.astype(a_bar.dtype))) if layer else a_bar  # (D3); x has no tanh
    return delta.astype(x.dtype), tuple(W_bar), None if b is None else tuple(b_bar)


_layers.defvjp(compiled(_layers_fwd), compiled(_layers_bwd))


def layers(x: Any, W: Any, b: Any = None) -> jax.Array:
    """The operation: `x [B, n_0]` (or `[n_0]`) through the layers `W` and `b`, tuples of L arrays, to the last sums
    `s_L [B, n_L]`. Its gradients are D3 and D4 by hand."""
    call = Call("dense.layers")
    W, b = _check_layers(call, "W", W, "b", b)
    x = _check_input(call, x)
    return _sums(x, W, b).astype(x.dtype)


def forward(params: Params, x: Any) -> jax.Array:
    """Logits of `x [B, n_0]` (or `[n_0]`): `[B, n_L]`, or `[B]` where n_L is 1."""
    params, x = _check(Call("dense.forward"), params, x)
    return _logits(params, x).astype(x.dtype)


def loss(params: Params, x: Any, y: Any, *, weights: Any = None, reduction: str = "mean") -> jax.Array:
    """Loss over the batch, float32 or wider: targets `y [B]` in [0, 1] if n_L is 1, otherwise classes.

    `weights` and `reduction` as for `heads.logistic`; a mask hides targets, not inputs. `jax.grad(loss)` runs the
    hand-written rule.
    """
    call = Call("dense.loss")
    params, x = _check(call, params, x)
    outputs = params.W[-1].shape[1]
    y, weights = heads._check_targets(
        call, "y", y, None if outputs == 1 else outputs, ("B",) if x.ndim == 2 else ("",), weights, reduction
    )
    return heads._loss_of_logits(_logits(params, x), y, weights, reduction)


def predict(params: Params, x: Any) -> jax.Array:
    """Probabilities: `[B]` for one output, else `[B, n_L]`."""
    params, x = _check(Call("dense.predict"), params, x)
    return heads._probabilities(_logits(params, x), params.W[-1].shape[1] == 1).astype(x.dtype)


@partial(compiled, rows=0)
def _sums(x: jax.Array, W: tuple[jax.Array, ...], b: tuple[jax.Array, ...] | None) -> jax.Array:
    batch = x.shape[:-1]
    return _layers(*on_same_axes(x.reshape(-1, x.shape[-1]), W, b)).reshape(*batch, W[-1].shape[1])


@partial(compiled, rows=1)
def _logits(params: Params, x: jax.Array) -> jax.Array:
    return _squeeze(params, _sums(x, params.W, params.b))


def _squeeze(params: Params, z: jax.Array) -> jax.Array:
    return z[..., 0] if params.W[-1].shape[1] == 1 else z


def _check(call: Call, params: Params, x: Any) -> tuple[Params, jax.Array]:
    call.instance("params", params, Params)
    W, b = _check_layers(call, "params.W", params.W, "params.b", params.b)
    return Params(W, b), _check_input(call, x)


def _check_input(call: Call, x: Any) -> jax.Array:
    x = call.floats("x", x, "B n0", "n0")
    call.no_nan("x", x)
    return x


def _check_layers(call: Call, W_name: str, W: Any, b_name: str, b: Any) -> tuple[Any, Any]:
    W = call.arrays(W_name, W)
    W = tuple(call.floats(f"{W_name}[{i}]", a, f"n{i} n{i + 1}") for i, a in enumerate(W))
    if b is None:
        return W, None
    b = call.arrays(b_name, b, like=W_name, count=len(W))
    return W, tuple(call.floats(f"{b_name}[{i}]", a, f"n{i + 1}") for i, a in enumerate(b))
