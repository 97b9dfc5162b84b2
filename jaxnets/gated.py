"""Gated net: two inputs, each through its own matrix, multiplied.

Symbols; a batch is rows, the batch axis may be absent:

    x   [B, a]  first input               W [a, c]  its matrix             v [c]   from h to the logit
    eta [B, b]  second input (η)          U [b, c]  its matrix             r [a]   from x straight to the logit
    h   [B, c]  hidden vector             c []      bias of the logit      z_y [B] logit

Forward                                          Backward
    (G1) z = x W,  s = η U,  h = z ⊙ s               (G3) z̄_y = y − t  (the head's ā, H3)
    (G2) z_y = h·v + x·r (+ bias),                   (G4) h̄ = z̄_y v,  v̄ = z̄_y h,  r̄ = z̄_y x
         y = σ(z_y), target t, loss H2               (G5) z̄ = h̄ ⊙ s,  s̄ = h̄ ⊙ z
                                                     (G6) W̄ = xᵀ z̄,  Ū = ηᵀ s̄
                                                     (G7) x̄ = z̄ Wᵀ + z̄_y r,  η̄ = s̄ Uᵀ

The hidden vector has no nonlinearity of its own: h·v = x M ηᵀ with M = W diag(v) Uᵀ [a, b]. For many rows the rule
uses this form and never builds [B, c]: the same equations, with the sum over rows taken first (`_folds`).

Reference: R. Memisevic, Learning to relate images, IEEE TPAMI 35 (2013), for nets that multiply two inputs.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxnets import heads
from jaxnets._arrays import compiled, dot, is_known, normal, on_same_axes, wide
from jaxnets._shapes import Call


class Params(NamedTuple):
    """Weights of the net."""

    W: jax.Array  # [a, c] from x to z
    U: jax.Array  # [b, c] from η to s
    v: jax.Array  # [c] from h to the logit
    r: jax.Array  # [a] from x straight to the logit
    c: jax.Array | None  # [] bias of the logit


def init(key: Any, x: int, eta: int, hidden: int, *, bias: bool = True, dtype: Any = jnp.float32) -> Params:
    """Random weights for inputs of widths `x` and `eta` and a hidden vector of width `hidden`.

    Each weight is normal with variance one over the width that it sums over (x for W and r, eta for U, hidden for v),
    so that inputs of unit size give z, s and both terms of the logit unit size; the bias is zero.

    >>> import jax
    >>> init(jax.random.key(0), x=4, eta=3, hidden=5).U.shape
    (3, 5)
    """
    call = Call("gated.init")
    key, dtype, bias = call.key(key), call.float_dtype(dtype), call.flag("bias", bias)
    x, eta, hidden = call.size("x", x), call.size("eta", eta), call.size("hidden", hidden)
    key_W, key_U, key_v, key_r = jax.random.split(key, 4)
    return Params(
        W=normal(key_W, (x, hidden), x, dtype),
        U=normal(key_U, (eta, hidden), eta, dtype),
        v=normal(key_v, (hidden,), hidden, dtype),
        r=normal(key_r, (x,), x, dtype),
        c=jnp.zeros((), dtype) if bias else None,
    )


def reference(params: Params, x: Any, eta: Any) -> jax.Array:
    """The forward pass as the page writes it, without a rule; same call as `forward`."""
    return _reference(*_check(Call("gated.reference"), params, x, eta))


@partial(compiled, rows=1)
def _reference(params: Params, x: jax.Array, eta: jax.Array) -> jax.Array:
    W, U, v, r, c = jax.tree.map(lambda p: p.astype(wide(p.dtype)), params)
    x_wide, eta_wide = x.astype(W.dtype), eta.astype(W.dtype)
    z = checkpoint_name(x_wide @ W, "z")
    s = checkpoint_name(eta_wide @ U, "s")
    h = checkpoint_name(z * s, "h")
    z_y = checkpoint_name(h @ v + x_wide @ r, "z_y")
    return (z_y if c is None else z_y + c).astype(x.dtype)


def _folds(B: int, a: int, b: int, c: int) -> bool:
    """The cost formula: operations of a step (of the parameters' gradients) folded, against those in full. In full for
    any number of rows, where it is not known."""
    return is_known(B) and 4 * B * a * b + 6 * a * b * c < 4 * B * c * (a + b)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logit(fold: bool, x: Any, eta: Any, W: Any, U: Any, v: Any, r: Any, c: Any) -> jax.Array:
    return _logit_fwd(fold, x, eta, W, U, v, r, c)[0]


def _logit_fwd(fold, x, eta, W, U, v, r, c):
    """x [B, a], eta [B, b] -> z_y [B], wide. Saves z and s, in the dtype of x (float16 would overflow where these sums
    do not: wide), and makes h, their product, again; folded it saves M alone."""
    h_v, kept = _folded(x, eta, W, U, v) if fold else _in_full(x, eta, W, U, v)
    z_y = h_v + dot(x, r)  # (G2)
    if c is not None:
        z_y = z_y + c.astype(z_y.dtype)  # (G2)
    return z_y, (x, eta, W, U, v, r, c, kept)


def _in_full(x, eta, W, U, v):
    z = dot(x, W)  # (G1)
    s = dot(eta, U)  # (G1)
    h = z * s  # (G1)
    kept = z.dtype if x.dtype == jnp.float16 else x.dtype
    return dot(h, v), (z.astype(kept), s.astype(kept))  # (G2)


def _folded(x, eta, W, U, v):
    sums = wide(x.dtype)
    M = dot(W.astype(sums) * v.astype(sums)[None], U.T)  # W diag(v) Uᵀ
    return jnp.sum(dot(x, M) * eta.astype(sums), 1), M  # (G1, G2): h·v = (x M)·η


def _logit_bwd(fold, saved, z_y_bar):
    x, eta, W, U, v, r, c, kept = saved  # z_y_bar is z̄_y (G3)
    bwd = _folded_bwd if fold else _in_full_bwd
    x_bar, eta_bar, W_bar, U_bar, v_bar = bwd(x, eta, W, U, v, kept, z_y_bar)
    r_bar = dot(z_y_bar, x)  # (G4)
    x_bar = x_bar + z_y_bar[:, None] * r.astype(z_y_bar.dtype)[None]  # (G7), the second path
    c_bar = None if c is None else jnp.sum(z_y_bar).astype(c.dtype)  # the bias of G2
    return *(g.astype(x.dtype) for g in (x_bar, eta_bar, W_bar, U_bar, v_bar, r_bar)), c_bar


def _in_full_bwd(x, eta, W, U, v, kept, z_y_bar):
    z, s = (a.astype(z_y_bar.dtype) for a in kept)
    h_bar = z_y_bar[:, None] * v.astype(z_y_bar.dtype)[None]  # (G4)
    v_bar = dot(z_y_bar, z * s)  # (G4)
    z_bar = h_bar * s  # (G5)
    s_bar = h_bar * z  # (G5)
    W_bar = dot(x.T, z_bar)  # (G6)
    U_bar = dot(eta.T, s_bar)  # (G6)
    return dot(z_bar, W.T), dot(s_bar, U.T), W_bar, U_bar, v_bar  # (G7)


def _folded_bwd(x, eta, W, U, v, kept, z_y_bar):
    M = kept
    W, U, v = (a.astype(z_y_bar.dtype) for a in (W, U, v))
    by_row = z_y_bar[:, None]
    M_bar = dot(x.T, by_row * eta.astype(by_row.dtype))  # M̄ = xᵀ (z̄_y ⊙ η)
    P = dot(M_bar, U)
    v_bar = jnp.sum(W * P, 0)  # (G4)
    W_bar = P * v[None]  # (G5, G6): M̄ U diag(v)
    U_bar = dot(M_bar.T, W * v[None])  # (G5, G6): M̄ᵀ W diag(v)
    return by_row * dot(eta, M.T), by_row * dot(x, M), W_bar, U_bar, v_bar  # (G7)


_logit.defvjp(compiled(_logit_fwd, static=(0,)), compiled(_logit_bwd, static=(0,)))


def logit(x: Any, eta: Any, W: Any, U: Any, v: Any, r: Any, c: Any = None) -> jax.Array:
    """The operation: the logit `z_y [B]` of `x [B, a]` and `eta [B, b]` (or of `[a]` and `[b]`). Its gradients are
    G4 to G7 by hand."""
    params, x, eta = _check(Call("gated.logit"), Params(W, U, v, r, c), x, eta, prefix="")
    return _logits(params, x, eta).astype(x.dtype)


def forward(params: Params, x: Any, eta: Any) -> jax.Array:
    """Logits `[B]` of `x [B, a]` and `eta [B, b]`; or one logit of `[a]` and `[b]`."""
    params, x, eta = _check(Call("gated.forward"), params, x, eta)
    return _logits(params, x, eta).astype(x.dtype)


def loss(params: Params, x: Any, eta: Any, y: Any, *, weights: Any = None, reduction: str = "mean") -> jax.Array:
    """Logistic loss over the batch for targets `y [B]` anywhere in [0, 1], float32 or wider.

    `weights` and `reduction` as for `heads.logistic`; a mask hides targets, not inputs. `jax.grad(loss)` runs the
    hand-written rule.
    """
    call = Call("gated.loss")
    params, x, eta = _check(call, params, x, eta)
    y, weights = heads._check_targets(call, "y", y, None, ("B",) if x.ndim == 2 else ("",), weights, reduction)
    return heads._loss_of_logits(_logits(params, x, eta), y, weights, reduction)


def predict(params: Params, x: Any, eta: Any) -> jax.Array:
    """Probabilities `[B]` of target 1."""
    params, x, eta = _check(Call("gated.predict"), params, x, eta)
    return heads._probabilities(_logits(params, x, eta), True).astype(x.dtype)


@partial(compiled, rows=1)
def _logits(params: Params, x: jax.Array, eta: jax.Array) -> jax.Array:
    x_rows, eta_rows = x.reshape(-1, x.shape[-1]), eta.reshape(-1, eta.shape[-1])
    fold = _folds(x_rows.shape[0], x_rows.shape[1], eta_rows.shape[1], params.v.shape[0])
    z_y: Any = _logit(fold, *on_same_axes(x_rows, eta_rows, *params))
    return z_y.reshape(x.shape[:-1])


def _check(
    call: Call, params: Params, x: Any, eta: Any, prefix: str = "params."
) -> tuple[Params, jax.Array, jax.Array]:
    call.instance("params", params, Params)
    W, U, v, r, c = params
    checked = Params(
        call.floats(f"{prefix}W", W, "a c"),
        call.floats(f"{prefix}U", U, "b c"),
        call.floats(f"{prefix}v", v, "c"),
        call.floats(f"{prefix}r", r, "a"),
        call.optional(f"{prefix}c", c, ""),
    )
    x = call.floats("x", x, "B a", "a")
    eta = call.floats("eta", eta, "B b" if x.ndim == 2 else "b")
    call.no_nan("x", x)
    call.no_nan("eta", eta)
    return checked, x, eta
