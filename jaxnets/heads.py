"""Heads: where every backward pass begins.

Symbols of one example; a batch is rows, and any number of leading axes may precede them:

    h [H]      the hidden vector              v [H], c []     logistic head (one output)
    t []       target in [0, 1]               V [H, C], c [C] softmax head (C classes)
    k []       target class                   a [] or z [C]   logits;  y = σ(a),  ŷ = softmax(z)

Forward                                          Backward (ℓ̄ = 1 for the loss of one example)
    (H1) a = h·v + c,  y = σ(a)                      (H3) ā = y − t
    (H2) ℓ = softplus(a) − t a                       (H4) v̄ = hᵀ ā,  c̄ = Σ ā,  h̄ = ā vᵀ
    (H5) z = h V + c,  ŷ = softmax(z),               (H6) z̄ = ŷ − onehot(k)
         ℓ = logsumexp(z) − z_k                      (H7) V̄ = hᵀ z̄,  c̄ = Σ z̄,  h̄ = z̄ Vᵀ

One product serves both heads (`_affine`: H1 and H5 forward, H4 and H7 backward) and one rule each loss. Losses are
float32 at least. Neither loss divides by y, so no logit, however large, makes a NaN or an infinite gradient; a logit
that has overflowed counts as the largest finite number. A target or class out of range makes its loss NaN.

Reference: C. M. Bishop, Pattern Recognition and Machine Learning (2006), sections 4.3.2 and 4.3.4.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets._arrays import compiled, dot, nan_unless, on_same_axes, wide
from jaxnets._shapes import Call

REDUCTIONS = ("mean", "sum", "none")


# The plain way, without rules.


def reference_logistic(h: Any, v: Any, c: Any, t: Any, *, weights: Any = None, reduction: str = "mean") -> jax.Array:
    """`logistic` as the page writes it; autodiff goes through this one."""
    h, v, c, t, weights = _check_logistic("reference_logistic", h, v, c, t, weights, reduction)
    return _reference_head(h, v, c, t, weights, reduction)


def reference_softmax(h: Any, V: Any, c: Any, k: Any, *, weights: Any = None, reduction: str = "mean") -> jax.Array:
    """`softmax` as the page writes it; autodiff goes through this one."""
    h, V, c, k, weights = _check_softmax("reference_softmax", h, V, c, k, weights, reduction)
    return _reference_head(h, V, c, k, weights, reduction)


@partial(compiled, static=(5,), rows=0)
def _reference_head(h: jax.Array, V: jax.Array, c: Any, y: jax.Array, weights: Any, reduction: str) -> jax.Array:
    return _reference_loss(_reference_logits(h, V, c), y, weights, reduction)


def _reference_logits(h: jax.Array, V: jax.Array, c: jax.Array | None) -> jax.Array:
    """(H1, H5) in plain `jnp`, without a rule: `[…]` for a vector `V`, `[…, C]` for a matrix."""
    h, V, c = jax.tree.map(lambda a: a.astype(wide(a.dtype)), (h, V, c))
    z = h @ V
    return z if c is None else z + c.reshape((1,) * (z.ndim - c.ndim) + c.shape)


def reference_loss(z: Any, y: Any, *, weights: Any = None, reduction: str = "mean") -> jax.Array:
    """(H2, H5) of logits, in plain `jnp` without a rule: logistic if `z` has the axes of `y`, otherwise softmax."""
    call = Call("heads.reference_loss")
    batch, softmax = _batch_axes(call.axes("y", y)), call.axes("z", z) == call.axes("y", y) + 1
    z = call.floats("z", z, f"{batch} C" if softmax else batch)
    if softmax and z.shape[-1] == 1:
        call.fail(ValueError, "z", "of two classes at least", list(z.shape), "One output is logistic: give z[..., 0].")
    y, weights = _check_targets(call, "y", y, z.shape[-1] if softmax else None, (batch,), weights, reduction)
    return _reference_loss(z, y, weights, reduction)


@partial(compiled, static=(3,), rows=0)
def _reference_loss(z: jax.Array, y: jax.Array, weights: Any, reduction: str) -> jax.Array:
    z = z.astype(wide(z.dtype))
    y, weights, scored = _split_mask(y, weights, None)
    if z.ndim == y.ndim:
        losses = jax.nn.softplus(z) - y.astype(z.dtype) * z
    else:
        z_k = jnp.take_along_axis(z, y[..., None], -1, mode="fill", fill_value=jnp.nan)[..., 0]
        losses = jax.nn.logsumexp(z, axis=-1) - z_k
    return _reduce(losses, weights, scored, reduction)


# The affine map under both heads.


@jax.custom_vjp
def _affine(h: jax.Array, V: jax.Array, c: jax.Array | None) -> jax.Array:
    return _affine_fwd(h, V, c)[0]


def _affine_fwd(h, V, c):
    """h [N, H], V [H, C], c [C] -> z [N, C], wide. Saves its inputs, which are there anyway."""
    z = dot(h, V)  # (H1, H5)
    return z if c is None else z + c.astype(z.dtype)[None], (h, V, c)


def _affine_bwd(saved, z_bar):
    h, V, c = saved
    h_bar, V_bar, c_bar = _affine_adjoints(saved, z_bar)
    return h_bar.astype(h.dtype), V_bar.astype(V.dtype), None if c is None else c_bar.astype(c.dtype)


def _affine_adjoints(saved, z_bar):
    """All of them wide."""
    h, V, _ = saved
    V_bar = dot(h.T, z_bar)  # (H4, H7)
    c_bar = jnp.sum(z_bar, 0)  # (H4, H7)
    h_bar = dot(z_bar, V.T)  # (H4, H7)
    return h_bar, V_bar, c_bar


_affine.defvjp(compiled(_affine_fwd), compiled(_affine_bwd))


def _logits(h: jax.Array, V: jax.Array, c: jax.Array | None) -> jax.Array:
    """`[…, H] -> […]` for a vector `V`, `[…, C]` for a matrix; in the dtype of sums."""
    batch = h.shape[:-1]
    h, V, c = on_same_axes(h.reshape(-1, h.shape[-1]), V, c)
    if V.ndim == 1:
        return _affine(h, V.reshape(-1, 1), None if c is None else c.reshape(1)).reshape(batch)
    return _affine(h, V, c).reshape(*batch, V.shape[1])


# The logistic loss.


@jax.custom_vjp
def _logistic(a: jax.Array, t: jax.Array) -> jax.Array:
    return _logistic_fwd(a, t)[0]


def _logistic_fwd(a, t):
    """a, t -> ℓ, all of one shape. Saves both: y costs less to compute again than to keep."""
    a = _finite(a)
    return _logistic_loss(a, t), (a, t)


@jax.custom_jvp
def _logistic_loss(a, t):
    """(H2), with softplus written so that nothing cancels."""
    return (jnp.maximum(a, 0) - t * a) + jnp.log1p(jnp.exp(-jnp.abs(a)))


@_logistic_loss.defjvp
def _logistic_loss_jvp(primals, tangents):
    """For second derivatives: at a = 0 maximum and absolute value have none that fit together, their sum has."""
    (a, t), (a_dot, t_dot) = primals, tangents
    return _logistic_loss(a, t), (jax.nn.sigmoid(a) - t) * a_dot - a * t_dot  # (H3)


def _logistic_bwd(saved, loss_bar):
    a, t = saved
    a_bar = loss_bar * (jax.nn.sigmoid(a) - t)  # (H3, G3, D2)
    t_bar = -loss_bar * a  # (H2): ∂ℓ/∂t
    return a_bar, t_bar


_logistic.defvjp(compiled(_logistic_fwd), compiled(_logistic_bwd))


# The softmax loss.


@jax.custom_vjp
def _softmax(z: jax.Array, k: jax.Array) -> jax.Array:
    return _softmax_fwd(z, k)[0]


def _softmax_fwd(z, k):
    """z [N, C], k [N] -> ℓ [N]. Saves ŷ."""
    z = _finite(z)
    # What is subtracted cancels. Its derivative would look for the logits that equal it, and find none, 0 / 0, where a
    # compiler computes them twice and rounds them differently.
    below = z - lax.stop_gradient(jnp.max(z, -1, keepdims=True))
    above = jnp.exp(below)
    total = jnp.sum(above, -1, keepdims=True)
    below_k = jnp.sum(jnp.where(_one_hot(k, z), below, 0), -1)
    loss = jnp.log(total[:, 0]) - below_k  # (H5): logsumexp(z) − z_k = −log ŷ_k
    known = (k >= 0) & (k < z.shape[-1])
    return nan_unless(known, loss), (above / total, k, known)  # (H5): ŷ


def _softmax_bwd(saved, loss_bar):
    y, k, known = saved
    loss_bar = nan_unless(known, loss_bar)[:, None]
    z_bar = loss_bar * (y - _one_hot(k, y).astype(y.dtype))  # (H6, D2)
    return z_bar, None


_softmax.defvjp(compiled(_softmax_fwd), compiled(_softmax_bwd))


def _one_hot(k: jax.Array, z: jax.Array) -> jax.Array:
    return k[:, None] == jnp.arange(z.shape[-1], dtype=k.dtype)[None]


def _finite(z: jax.Array) -> jax.Array:
    """An overflowed logit as the largest finite one; NaN stays NaN."""
    largest = float(jnp.finfo(z.dtype).max)
    return jnp.clip(z, -largest, largest)


# Head and loss in one, forward and backward, for a net whose rule runs them stretch by stretch.


def _losses_fwd(h, V, c, y):
    """h […, H], y […] -> ℓ […], wide: logistic where V is a vector. Saves what `_losses_bwd` reads."""
    H, one_output = V.shape[0], V.ndim == 1
    z, of_head = _affine_fwd(h.reshape(y.size, H), V.reshape(H, -1), None if c is None else c.reshape(-1))
    losses, of_loss = _logistic_fwd(z[:, 0], y.reshape(-1)) if one_output else _softmax_fwd(z, y.reshape(-1))
    return losses.reshape(y.shape), (h, V, c, of_head, of_loss)


def _losses_bwd(saved, losses_bar):
    """ℓ̄ […] -> the adjoints of h, V, c and of y (None for classes), wide."""
    h, V, c, of_head, of_loss = saved
    bwd = _logistic_bwd if V.ndim == 1 else _softmax_bwd
    z_bar, y_bar = bwd(of_loss, losses_bar.reshape(-1))
    h_bar, V_bar, c_bar = _affine_adjoints(of_head, z_bar.reshape(losses_bar.size, V.size // V.shape[0]))
    c_bar = None if c is None else c_bar.reshape(c.shape)
    return h_bar.reshape(h.shape), V_bar.reshape(V.shape), c_bar, None if y_bar is None else y_bar.reshape(h.shape[:-1])


# What users and nets call.


def logistic(h: Any, v: Any, c: Any, t: Any, *, weights: Any = None, reduction: str = "mean") -> jax.Array:
    """Logistic loss (H1, H2) of `h […, H]` with `v [H]`, `c []` or None, and targets `t […]` anywhere in [0, 1].

    Args:
      weights: `[…]` as `t`. Booleans are a mask: entries that are False are never read and do not count. Numbers
        multiply each loss.
      reduction: `"mean"` (over what is scored: the sum of weighted losses over the sum of weights, 0 where that is
        0), `"sum"`, or `"none"` for a loss per example. For a mean of float32 the weights add up to something between
        1e-19 and 1e19, so that nothing overflows or vanishes.

    Returns:
      The loss, float32 or wider. Its gradients with respect to `h`, `v`, `c` are H3 and H4 by hand.

    >>> import jax.numpy as jnp
    >>> round(float(logistic(jnp.ones((2, 3)), jnp.zeros(3), None, jnp.array([0.0, 1.0]))), 6)  # log 2
    0.693147
    """
    h, v, c, t, weights = _check_logistic("logistic", h, v, c, t, weights, reduction)
    return _loss(h, v, c, t, weights, reduction)


def softmax(h: Any, V: Any, c: Any, k: Any, *, weights: Any = None, reduction: str = "mean") -> jax.Array:
    """Softmax loss (H5) of `h […, H]` with `V [H, C]`, `c [C]` or None, and classes `k […]` from 0 to C−1.

    `weights` and `reduction` as for `logistic`. Gradients with respect to `h`, `V`, `c` are H6 and H7 by hand.
    """
    h, V, c, k, weights = _check_softmax("softmax", h, V, c, k, weights, reduction)
    return _loss(h, V, c, k, weights, reduction)


# What the nets share: unchecked, because they check under their own callers' names.


@partial(compiled, static=(5,), rows=0)
def _loss(h: jax.Array, V: jax.Array, c: jax.Array | None, y: jax.Array, weights: Any, reduction: str) -> jax.Array:
    """The head's loss: `V` a vector, logistic, else softmax."""
    if weights is not None and weights.dtype == jnp.bool_:  # what the caller masks may be anything
        h = jnp.where(weights[..., None], h, jnp.zeros_like(h))
    return _loss_of_logits(_logits(h, V, c), y, weights, reduction)


@partial(compiled, static=(3,), rows=0)
def _loss_of_logits(z: jax.Array, y: jax.Array, weights: Any, reduction: str) -> jax.Array:
    """The loss of wide logits: logistic where they have the axes of `y`, else softmax."""
    y, weights, scored = _split_mask(y, weights, None)
    if z.ndim == y.ndim:
        losses = _logistic(*on_same_axes(z, _probability(y, z)))
    else:
        z, k = on_same_axes(z.reshape(-1, z.shape[-1]), y.reshape(-1))
        losses = _softmax(z, k).reshape(y.shape)
    return _reduce(losses, weights, scored, reduction)


def _probability(t: jax.Array, like: jax.Array) -> jax.Array:
    """Targets of the logistic head, as wide as sums are; NaN for what is no probability."""
    t = t.astype(wide(like.dtype))
    return nan_unless((t >= 0) & (t <= 1), t)


@partial(compiled, static=(1,))
def _probabilities(z: jax.Array, one_output: bool) -> jax.Array:
    """(H1, H5): y = σ(a), or ŷ = softmax(z) over the last axis."""
    z = _finite(z)
    return jax.nn.sigmoid(z) if one_output else jax.nn.softmax(z, -1)


def _split_mask(y: jax.Array, weights: Any, scored: Any) -> tuple[jax.Array, Any, Any]:
    """Boolean weights join the mask `scored`; targets outside the mask are replaced, never read."""
    if weights is not None and weights.dtype == jnp.bool_:
        scored = weights if scored is None else scored & weights
        weights = None
    if scored is not None:
        y = jnp.where(scored, y, jnp.zeros_like(y))
    return y, weights, scored


def _reduce(losses: jax.Array, weights: Any, scored: Any, reduction: str) -> jax.Array:
    """Losses weighted and reduced; a mean over nothing is 0, so that an all-padded batch moves nothing."""
    share = jnp.ones_like(losses) if weights is None else weights.astype(losses.dtype)
    if scored is not None:  # what is not scored may be anything
        losses, share = jnp.where(scored, losses, 0), jnp.where(scored, share, 0)
    if weights is not None:
        losses = losses * share
    if reduction == "none":
        return losses
    if reduction == "sum":
        return jnp.sum(losses)
    total = jnp.sum(share)
    return jnp.sum(losses) / jnp.where(total == 0, 1, total)


def _check_logistic(name: str, h: Any, v: Any, c: Any, t: Any, weights: Any, reduction: str) -> tuple[Any, ...]:
    call = Call(f"heads.{name}")
    v, c = call.floats("v", v, "H"), call.optional("c", c, "")
    h, batch = _check_hidden(call, h)
    t, weights = _check_targets(call, "t", t, None, (batch,), weights, reduction)
    return h, v, c, t, weights


def _check_softmax(name: str, h: Any, V: Any, c: Any, k: Any, weights: Any, reduction: str) -> tuple[Any, ...]:
    call = Call(f"heads.{name}")
    V, c = call.floats("V", V, "H C"), call.optional("c", c, "C")
    _check_classes(call, "V", V)
    h, batch = _check_hidden(call, h)
    k, weights = _check_targets(call, "k", k, V.shape[1], (batch,), weights, reduction)
    return h, V, c, k, weights


def _batch_axes(count: int) -> str:
    """Letters for the axes before the last: rows, steps, and any more."""
    return " ".join(["B", "T", *(f"B{i}" for i in range(2, count))][: max(count, 0)])


def _check_hidden(call: Call, h: Any) -> tuple[jax.Array, str]:
    batch = _batch_axes(call.axes("h", h) - 1)
    h = call.floats("h", h, batch + " H")
    call.no_nan("h", h)
    return h, batch


def _check_head(call: Call, V: Any, c: Any) -> tuple[jax.Array, jax.Array | None]:
    """The head of a net's `params`: `V [H]` and `c []` for one output, `V [H, C]` and `c [C]` for more."""
    V = call.floats("params.V", V, "H", "H C")
    _check_classes(call, "params.V", V)
    return V, call.optional("params.c", c, "" if V.ndim == 1 else "C")


def _check_classes(call: Call, name: str, V: jax.Array) -> None:
    if V.ndim == 2 and V.shape[1] == 1:
        remedy = "One output is the logistic head, whose V is a vector."
        call.fail(ValueError, name, "of shape [H, C] with C at least 2", list(V.shape), remedy)


def _check_targets(
    call: Call,
    name: str,
    y: Any,
    classes: int | None,
    shapes: tuple[str, ...],
    weights: Any,
    reduction: str,
    valid: Any = None,
) -> tuple[jax.Array, Any]:
    """Targets and weights of a net or head: for one output (`classes` None) in [0, 1], else class numbers.
    `valid` is the concrete mask of what is read at all."""
    call.choice("reduction", reduction, *REDUCTIONS)
    y = call.targets(name, y, *shapes) if classes is None else call.integers(name, y, *shapes)
    if weights is not None:
        weights = call.targets("weights", weights, next(s for s in shapes if len(s.split()) == y.ndim))
        if weights.dtype == jnp.bool_:
            valid = weights if valid is None else weights & valid
        else:
            call.no_nan("weights", weights, valid)
            if reduction == "mean":
                whole = jnp.issubdtype(weights.dtype, jnp.integer)
                most = np.asarray(jnp.iinfo(weights.dtype).max, weights.dtype) if whole else np.inf
                call.within("weights", weights, 0, most, "a mean has no negative weights; a sum may", valid)
                call.adds_up("weights", weights, valid)
    if classes is None:
        call.within(name, y, 0, 1, "a probability", valid)
    else:
        call.within(name, y, 0, classes - 1, f"one of {classes} classes", valid)
    return y, weights
