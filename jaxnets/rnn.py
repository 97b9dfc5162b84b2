"""Recurrent net: tanh states, the chain rule through time, in full or truncated.

Symbols; a batch is rows, the batch axis may be absent; t = 1 … T:

    x [B, T, D]  inputs, x_t [B, D]              U [D, H]  from input to state     b [H]  bias of the state
    h [B, T, H]  states, h_t [B, H]              W [H, H]  from state to state     c      bias of the head
    h0 [B, H]    state before the first step     V [H, C]  from state to head (or [H], one output)

Integer x [B, T] picks rows of U: one-hot inputs without the one-hot. Steps beyond a row's length do not change its
state.

Forward                                          Backward; g_t = ∂ℓ/∂h_t through the head at t alone (H4, H7)
    (R1) a_t = x_t U + h_{t−1} W (+ b),              (R3) δ_t = (g_t + δ_{t+1} Wᵀ) ⊙ (1 − h_t²),  δ_{T+1} = 0
         h_t = tanh(a_t)                             (R4) W̄ = Σ_t h_{t−1}ᵀ δ_t,  Ū = Σ_t x_tᵀ δ_t,  b̄ = Σ_t δ_t
    (R2) z_t = h_t V (+ c), a head at every          (R5) x̄_t = δ_t Uᵀ,  h̄_0 = δ_1 Wᵀ
         step (ℓ = Σ_t ℓ_t) or at the last           (R6) truncated to n steps: δ_{t+1} Wᵀ is dropped where n divides t
                                                     (R7) descent: θ ← θ − α ∂ℓ/∂θ

Time is processed in chunks, with one product per chunk for x U, W̄, Ū and x̄. The states of a chunk can be recomputed
from the state that enters it; the backward pass then keeps only that one (`_plan`).

Reference: P. J. Werbos, Backpropagation through time: what it does and how to do it, Proc. IEEE 78 (1990).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxnets import heads
from jaxnets._arrays import (
    add_rows,
    compiled,
    dot,
    is_known,
    nan_unless,
    normal,
    on_cpu,
    on_same_axes,
    orthogonal,
    reached,
    rows,
    wide,
    zeros,
)
from jaxnets._chunks import chunk_of, near_divisor, over_chunks, put_chunk, scan
from jaxnets._shapes import Call, valid_steps


class Params(NamedTuple):
    """Weights of the net."""

    U: jax.Array  # [D, H] from input to state
    W: jax.Array  # [H, H] from state to state
    b: jax.Array | None  # [H] bias of the state
    V: jax.Array  # [H, C] from state to head; [H] for one output
    c: jax.Array | None  # [C] bias of the head; [] for one output


def init(key: Any, inputs: int, hidden: int, outputs: int, *, bias: bool = True, dtype: Any = jnp.float32) -> Params:
    """Random weights; `outputs=1` makes the net logistic, more make it softmax.

    W is a random orthogonal matrix, which keeps the size of what is passed from step to step. U is normal with variance
    1/inputs and V with variance 1/hidden, so that inputs and states of unit size give sums of unit size. Biases are
    zero.

    >>> import jax
    >>> init(jax.random.key(0), inputs=4, hidden=3, outputs=2).V.shape
    (3, 2)
    """
    call = Call("rnn.init")
    key, dtype, bias = call.key(key), call.float_dtype(dtype), call.flag("bias", bias)
    D, H, C = call.size("inputs", inputs), call.size("hidden", hidden), call.size("outputs", outputs)
    key_U, key_W, key_V = jax.random.split(key, 3)
    return Params(
        U=normal(key_U, (D, H), D, dtype),
        W=orthogonal(key_W, H, dtype),
        b=jnp.zeros(H, dtype) if bias else None,
        V=normal(key_V, (H,) if C == 1 else (H, C), H, dtype),
        c=jnp.zeros(() if C == 1 else C, dtype) if bias else None,
    )


def reference(
    params: Params,
    x: Any,
    lengths: Any = None,
    h0: Any = None,
    every_step: bool = False,
    truncate: int | None = None,
    save: str | int = "auto",
) -> jax.Array:
    """The forward pass as the page writes it, without a rule; same call as `forward` (`save` has no effect)."""
    call = Call("rnn.reference")
    params, data, how = _check(call, params, x, lengths, h0, truncate, save)
    return _reference(params, data, call.flag("every_step", every_step), how.truncate)


@partial(compiled, static=(2, 3), rows=1)
def _reference(params: Params, data: "_Data", every_step: bool, truncate: int | None) -> jax.Array:
    x, lengths, h0 = _with_batch(data, params.W)
    T = x.shape[1]
    wide_params, h0 = jax.tree.map(lambda a: a.astype(wide(a.dtype)), (params, h0))
    (U, W, b, V, c), x, h0 = on_same_axes(wide_params, chunk_of(x, 0, T, _valid(lengths, 0, T)), h0)

    def step(h_tm1, x_t_and_t_m1):
        x_t, t_m1 = x_t_and_t_m1
        x_U = rows(U, x_t) if _is_index(x) else x_t.astype(U.dtype) @ U
        h_in = h_tm1
        if truncate is not None:
            h_in = jnp.where((t_m1 > 0) & (t_m1 % truncate == 0), lax.stop_gradient(h_tm1), h_tm1)
        a_t = x_U + h_in @ W
        a_t = checkpoint_name(a_t if b is None else a_t + b[None], "a")
        h_t = checkpoint_name(jnp.tanh(a_t), "h")
        if lengths is None:
            return h_t, h_t
        valid = (t_m1 < lengths)[:, None]
        return jnp.where(valid, h_t, h_tm1), jnp.where(valid, h_t, 0)

    h_T, h = scan(step, h0, (x, jnp.arange(T, dtype=jnp.int32)))
    z = heads._reference_logits(jnp.swapaxes(h, 0, 1) if every_step else h_T, V, c)
    return (z[0] if data.single else z).astype(params.W.dtype)


class _Plan(NamedTuple):
    """What is decided from sizes and options before anything is computed."""

    out: str  # "last" state, all "states", or a head's "losses" of every step
    truncate: int | None  # n of R6
    chunk: int  # steps a chunk
    keep: bool  # keep every state; else the one that enters each chunk, and compute the others again
    unroll: int = 1  # steps that a loop makes at a time


def _plan(
    T: int,
    B: int,
    H: int,
    itemsize: int,
    out: str,
    truncate: int | None,
    save: str | int,
    classes: int = 1,
    cpu: bool = True,
) -> _Plan:
    """The cost formula behind `save`: sizes in, decisions out.

    Keeping all states costs T·B·H numbers, half of what autodiff keeps or less, and no time. Keeping those that enter
    chunks of L steps costs T/L of B·H, and three times L for the chunk at hand (sums, states, adjoints), least at
    L = √(T/3); and one more product h W a step, which nobody is made to pay below half a GiB of states.

    A chunk's W̄ is one product of L·B terms: from 2²⁴ multiplications on it runs on all cores, from 2²⁵ at full rate,
    so that few rows ask for longer chunks. Its logits, of a head that runs by the chunk, are at most 2²² numbers, or
    of 512 rows.

    Elsewhere than on a CPU a step takes as long as its few kernels take to follow each other, whatever their size:
    steps are made again only where the states take more than a GiB, chunks are long, and the loop makes several steps
    at a time.

    Of any length, where it is not known: one chunk, and all states kept. Of any number of rows: as for one.
    """
    if not is_known(T):
        return _Plan(out, truncate, T, keep=True, unroll=1 if cpu else 8)
    B = B if is_known(B) else 1
    worth_keeping = 2**29 if cpu else 2**30  # bytes
    keep = save == "all" or (save == "auto" and T * B * H * itemsize <= worth_keeping)
    if isinstance(save, str):
        terms = max(2**25 // H**2, 512) if keep else max(2**24 // H**2, 1024)
        ideal = max(-(-min(terms, 4096) // max(B, 1)), 1 if keep else round((T / 3) ** 0.5))
        ideal = ideal if cpu else max(ideal, 256)
        if out == "losses":
            ideal = max(min(ideal, max(2**22 // classes, 512) // max(B, 1)), 1)
        chunk = near_divisor(T, ideal) if ideal < T else T
    else:
        chunk = save
    return _Plan(out, truncate, max(1, min(chunk, T)), keep, unroll=1 if cpu else 8)


_NO_HEAD: Any = (None, None, None)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(plan: _Plan, x: Any, U: Any, W: Any, b: Any, h0: Any, lengths: Any, head: Any) -> jax.Array:
    return _run_fwd(plan, x, U, W, b, h0, lengths, head)[0]


def _run_fwd(plan, x, U, W, b, h0, lengths, head):
    """x [B, T, D] or [B, T], h0 [B, H] -> h_T [B, H], or h [B, T, H], or with a head (V, c, y [B, T]) losses [B, T];
    wide, so that their adjoints come back wide: those of a mean over many steps are too small for float16.

    Saves the state that enters each chunk and, where the plan says so, every state, once: as they come out, if they do.
    Of logits and their adjoints only a chunk's exist at a time.
    """
    V, c, y = head or _NO_HEAD
    (B, T), sums = x.shape[:2], wide(W.dtype)
    width = {"last": None, "states": (B, T, W.shape[0]), "losses": (B, T)}[plan.out]

    def chunk(carry, start, steps, _):
        h_in, out = carry
        valid = _valid(lengths, start, steps)
        x_c = chunk_of(x, start, steps, valid)
        h_end, h = _chunk_states(x_c, valid, U, W, b, h_in, plan.keep or plan.out != "last", plan.unroll)
        if plan.out == "states":
            out = put_chunk(out, _zero_beyond(h, valid).astype(sums), start)
        if plan.out == "losses":
            losses, _ = heads._losses_fwd(h, V, c, chunk_of(y, start, steps, None))  # (R2)
            out = put_chunk(out, losses, start)
        return (h_end, out), (h_in, h if plan.keep and plan.out != "states" else None)

    out = None if width is None else zeros(width, sums, h0)
    (h_T, out), kept = over_chunks(chunk, (h0, out), T, plan.chunk)
    came_out = out.astype(W.dtype) if plan.keep and plan.out == "states" else None  # exact: they were of that dtype
    return h_T.astype(sums) if out is None else out, (x, U, W, b, lengths, head, came_out, kept)


def _chunk_states(x, valid, U, W, b, h, wanted, unroll) -> tuple[jax.Array, Any]:
    """One chunk: x [L, B, D], the state before it -> the state after it and, where wanted, the states [L, B, H]."""
    sums = wide(W.dtype)
    one_input = not _is_index(x) and U.shape[0] == 1  # x_t U is no sum then, and joins the step
    if not one_input:
        x = (rows(U, x) if _is_index(x) else _dot_rows(x, U)).astype(sums)  # (R1), for the chunk

    def step(h_tm1, inputs):
        x_t, valid_t = inputs
        x_U_t = x_t.astype(sums) * U.astype(sums) if one_input else x_t  # (R1)
        if b is not None:
            x_U_t = x_U_t + b.astype(sums)[None]  # (R1)
        a_t = x_U_t + dot(h_tm1, W)  # (R1)
        h_t = jnp.tanh(a_t).astype(h_tm1.dtype)  # (R1)
        if valid_t is not None:
            h_t = jnp.where(valid_t[:, None], h_t, h_tm1)
        return h_t, h_t if wanted else None

    return scan(step, h, (x, valid), unroll=unroll)


def _run_bwd(plan, saved, out_bar):
    x, U, W, b, lengths, head, came_out, kept = saved
    V, c, y = head or _NO_HEAD
    sums, index = wide(W.dtype), _is_index(x)
    classes = plan.out == "losses" and _is_index(y)
    (B, T), (D, H) = x.shape[:2], U.shape
    W_wide = W.astype(sums)
    # A product of few rows is slower with a turned W, so that it is turned once; one of many rows turns it for nothing.
    W_T = W_wide.T if is_known(B) and B < 64 else None

    def chunk(carry, start, steps, kept):
        handed_back, (x_bar, U_bar, W_bar, b_bar), head_bar = carry
        h_in, h = kept
        valid, cut = _valid(lengths, start, steps), _cut(plan.truncate, lengths, T, start, steps)
        x_c = chunk_of(x, start, steps, valid)
        if came_out is not None:
            h = chunk_of(came_out, start, steps, None)
        elif not plan.keep:
            _, h = _chunk_states(x_c, valid, U, W, b, h_in, True, plan.unroll)
        g = chunk_of(out_bar, start, steps, None) if plan.out != "last" else None
        if plan.out == "losses":
            _, scored = heads._losses_fwd(h, V, c, chunk_of(y, start, steps, None))  # (R2), again
            g, *of_head, of_y = heads._losses_bwd(scored, g)
            *so_far, y_bar = head_bar
            head_bar = *jax.tree.map(jnp.add, so_far, of_head), None if of_y is None else put_chunk(y_bar, of_y, start)
        handed_back, delta = _chunk_deltas(g, h, valid, cut, W_wide, W_T, handed_back, plan.unroll)
        h_tm1 = jnp.concatenate([h_in[None], h])[:-1]
        delta = delta.reshape(steps * B, H)
        W_bar = W_bar + dot(h_tm1.reshape(steps * B, H).T, delta)  # (R4)
        b_bar = b_bar + jnp.sum(delta, 0)  # (R4)
        if index:
            U_bar = add_rows(U_bar, x_c.reshape(-1), delta)  # (R4), x_t one-hot
        else:
            U_bar = U_bar + dot(x_c.reshape(steps * B, D).T, delta)  # (R4)
            x_bar = put_chunk(x_bar, dot(delta, U.T).astype(x.dtype).reshape(steps, B, D), start)  # (R5)
        return (handed_back, (x_bar, U_bar, W_bar, b_bar), head_bar), None

    nothing = [zeros(shape, sums, W) for shape in (U.shape, W.shape, (H,))]
    of_x = None if index else zeros(x.shape, x.dtype, W)
    of_head = jax.tree.map(lambda a: zeros(a.shape, sums, W), (V, c, None if classes else y))
    from_above = out_bar if plan.out == "last" else zeros((B, H), sums, W)
    carry = from_above, (of_x, *nothing), of_head
    carry, _ = over_chunks(chunk, carry, T, plan.chunk, kept, reverse=True)
    h0_bar, (x_bar, U_bar, W_bar, b_bar), head_bar = carry  # h̄_0 is what the first step hands back, δ_1 Wᵀ
    U_bar, W_bar, b_bar, h0_bar = (a.astype(W.dtype) for a in (U_bar, W_bar, b_bar, h0_bar))
    head_bar = jax.tree.map(lambda a, bar: bar.astype(a.dtype), (V, c, None if classes else y), head_bar)
    return x_bar, U_bar, W_bar, None if b is None else b_bar, h0_bar, None, head and head_bar


def _chunk_deltas(g, h, valid, cut, W, W_T, handed_back, unroll):
    """One chunk, last step first: g (None, or the head's part at each step), what the step after the chunk handed back
    -> what the chunk's first step hands back, and δ [L, B, H]."""

    def step(delta_tp1_W, inputs):
        g_t, h_t, valid_t, cut_t = inputs
        carried = delta_tp1_W if cut_t is None else jnp.where(cut_t[:, None], 0, delta_tp1_W)  # (R6)
        h_t_bar = carried if g_t is None else g_t + carried  # (R3)
        delta_t = h_t_bar * (1 - jnp.square(h_t.astype(h_t_bar.dtype)))  # (R3)
        if valid_t is not None:
            delta_t = jnp.where(valid_t[:, None], delta_t, 0)
        turned = W.T if W_T is None else W_T
        delta_t_W = dot(delta_t, turned)  # (R3) for the step before; of the first step it is h̄_0 (R5)
        if valid_t is not None:
            delta_t_W = jnp.where(valid_t[:, None], delta_t_W, delta_tp1_W)
        return delta_t_W, delta_t

    return scan(step, handed_back, (g, h, valid, cut), reverse=True, unroll=unroll)


_run.defvjp(compiled(_run_fwd, static=(0,)), compiled(_run_bwd, static=(0,)))


def _zero_beyond(h: jax.Array, valid: jax.Array | None) -> jax.Array:
    return h if valid is None else jnp.where(valid[:, :, None], h, jnp.zeros_like(h))


def _dot_rows(x: jax.Array, U: jax.Array) -> jax.Array:
    """x [L, B, D] U as one product of matrices."""
    return dot(x.reshape(-1, U.shape[0]), U).reshape(*x.shape[:2], U.shape[1])


def _valid(lengths: jax.Array | None, start: Any, steps: int) -> jax.Array | None:
    """Which of the steps `start …` each row reaches, [L, B]; None where all do."""
    return None if lengths is None else _times(start, steps)[:, None] <= lengths[None]


def _cut(truncate: int | None, lengths: jax.Array | None, T: int, start: Any, steps: int) -> jax.Array | None:
    """(R6): after which steps t nothing is handed back from t + 1, [L, B or 1]. What enters at a row's last step does
    not come through time, it is the head's."""
    if truncate is None:
        return None
    t = _times(start, steps)[:, None]
    return (t % truncate == 0) & (t < (T if lengths is None else lengths[None]))


def _times(start: Any, steps: int) -> jax.Array:
    return start + 1 + jnp.arange(steps, dtype=jnp.int32)  # t counts from 1, as the page does


# What users call.


def states(
    x: Any,
    U: Any,
    W: Any,
    b: Any = None,
    h0: Any = None,
    lengths: Any = None,
    truncate: int | None = None,
    save: str | int = "auto",
) -> jax.Array:
    """The operation: all states `h [B, T, H]` of `x [B, T, D]`, or of integer `x [B, T]` that picks rows of `U`.

    Args:
      h0: `[B, H]`, zero if absent; it has a gradient.
      lengths: `[B]`, from 0 to T. What lies beyond is never read; states and gradients there are 0.
      truncate: n of R6: no gradient flows from step t + 1 to t if n divides t. None: full backpropagation.
      save: what the backward pass keeps. `"all"` states, half of what autodiff keeps or less. An integer n: one state
        in n; the others are recomputed, which takes longer; memory is least if n is about √(T/3). `"auto"`:
        all up to half a GiB of them (on a GPU or TPU one GiB), and one in about √(T/3) beyond.

    Without the batch axis, `[T, D]` gives `[T, H]`. Gradients with respect to `x`, `U`, `W`, `b`, `h0` are R3 to R6 by
    hand.
    """
    cell, data, how = _check_operation(Call("rnn.states"), x, U, W, b, h0, lengths, truncate, save)
    return _operation(_plan_of(cell, data, how, "states"), cell, data)


def last_state(
    x: Any,
    U: Any,
    W: Any,
    b: Any = None,
    h0: Any = None,
    lengths: Any = None,
    truncate: int | None = None,
    save: str | int = "auto",
) -> jax.Array:
    """The last state alone, `[B, H]`: `h_L` of a row of length L, `h0` of length 0. Arguments as for `states`; no
    adjoint of shape `[B, T, H]` is ever built."""
    cell, data, how = _check_operation(Call("rnn.last_state"), x, U, W, b, h0, lengths, truncate, save)
    return _operation(_plan_of(cell, data, how, "last"), cell, data)


def forward(
    params: Params,
    x: Any,
    lengths: Any = None,
    h0: Any = None,
    every_step: bool = False,
    truncate: int | None = None,
    save: str | int = "auto",
) -> jax.Array:
    """Logits of the last valid step, `[B, C]`, or with `every_step` of all, `[B, T, C]`; without the last axis where
    the net has one output. Arguments as for `states`; steps beyond a row's length get the logits of a zero state."""
    call = Call("rnn.forward")
    params, data, how = _check(call, params, x, lengths, h0, truncate, save)
    out = "states" if call.flag("every_step", every_step) else "last"
    return _logits(_plan_of(params, data, how, out), params, data).astype(params.W.dtype)


def loss(
    params: Params,
    x: Any,
    y: Any,
    lengths: Any = None,
    h0: Any = None,
    every_step: bool | None = None,
    truncate: int | None = None,
    save: str | int = "auto",
    *,
    weights: Any = None,
    reduction: str = "mean",
) -> jax.Array:
    """Loss, float32 or wider: `y [B]` scores the last valid step, `y [B, T]` every valid step.

    Targets lie in [0, 1] if the net has one output; otherwise they are classes. The mean is over what is scored: rows,
    or all valid steps of the batch. `weights` (shaped as `y`; a mask hides targets, not inputs) and `reduction` as for
    `heads.logistic`, the rest as for `states`; `every_step` follows from `y` and need not be given. `jax.grad(loss)`
    runs the hand-written rule.
    """
    call = Call("rnn.loss")
    params, data, how = _check(call, params, x, lengths, h0, truncate, save)
    last, every = ("", "T") if data.single else ("B", "B T")
    shapes = (last, every)
    if every_step is not None:
        shapes = (every,) if call.flag("every_step", every_step) else (last,)
    each = len(every.split()) == call.axes("y", y)
    valid = valid_steps(data.lengths, data.steps) if each else None
    classes = None if params.V.ndim == 1 else params.V.shape[1]
    y, weights = heads._check_targets(call, "y", y, classes, shapes, weights, reduction, valid)
    plan = _plan_of(params, data, how, "losses" if each else "last", classes or 1)
    return _loss(plan, params, data, y, weights, reduction)


def predict(
    params: Params,
    x: Any,
    lengths: Any = None,
    h0: Any = None,
    every_step: bool = False,
    truncate: int | None = None,
    save: str | int = "auto",
) -> jax.Array:
    """Probabilities, shaped as the logits of `forward`."""
    call = Call("rnn.predict")
    params, data, how = _check(call, params, x, lengths, h0, truncate, save)
    out = "states" if call.flag("every_step", every_step) else "last"
    z = _logits(_plan_of(params, data, how, out), params, data)
    return heads._probabilities(z, params.V.ndim == 1).astype(params.W.dtype)


def descend(params: Params, grads: Params, alpha: Any) -> Params:
    """One step of plain gradient descent, the page's R7. For training take an optimizer of optax."""
    call = Call("rnn.descend")
    call.instance("params", params, Params)
    call.instance("grads", grads, Params)
    params = _check_params(call, params)
    grads = _check_grads(call, params, grads)
    alpha = call.array("alpha", alpha)
    if alpha.ndim:
        call.fail(ValueError, "alpha", "a number", f"shape {list(alpha.shape)}")
    if not (jnp.issubdtype(alpha.dtype, jnp.floating) or jnp.issubdtype(alpha.dtype, jnp.integer)):
        call.fail(TypeError, "alpha", "a real number", alpha.dtype)
    call.no_nan("alpha", alpha)
    return jax.tree.map(lambda theta, theta_bar: theta - alpha.astype(theta.dtype) * theta_bar, params, grads)  # (R7)


# Inside.


class _Data(NamedTuple):
    """One call's inputs, checked, as the caller shaped them."""

    x: jax.Array
    lengths: jax.Array | None = None
    h0: jax.Array | None = None

    @property
    def single(self) -> bool:
        return self.x.ndim == (1 if _is_index(self.x) else 2)

    @property
    def steps(self) -> int:
        return self.x.shape[0 if self.single else 1]


class _How(NamedTuple):
    """One call's options."""

    truncate: int | None
    save: str | int


def _is_index(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.integer)


def _plan_of(cell: Params, data: _Data, how: _How, out: str, classes: int = 1) -> _Plan:
    rows = 1 if data.single else data.x.shape[0]
    return _plan(data.steps, rows, cell.W.shape[0], cell.W.dtype.itemsize, out, *how, classes, on_cpu())


@partial(compiled, static=(0,), rows=2)
def _operation(plan: _Plan, cell: Params, data: _Data) -> jax.Array:
    return _hidden(plan, cell, data).astype(cell.W.dtype)


@partial(compiled, static=(0,), rows=2)
def _logits(plan: _Plan, params: Params, data: _Data) -> jax.Array:
    return heads._logits(_hidden(plan, params, data), params.V, params.c)  # (R2)


@partial(compiled, static=(0, 5), rows=2)
def _loss(plan: _Plan, params: Params, data: _Data, y: jax.Array, weights: Any, reduction: str) -> jax.Array:
    if plan.out == "last":
        return heads._loss(_hidden(plan, params, data), params.V, params.c, y, weights, reduction)  # (R2)
    scored, lengths = None, data.lengths
    if lengths is not None:  # a length out of range is NaN, not silence
        scored = reached(lengths, data.steps) | (lengths < 0)[..., None]
    y, weights, scored = heads._split_mask(y, weights, scored)
    targets = y if params.V.ndim == 2 else heads._probability(y, params.W)
    losses = _hidden(plan, params, data, (params.V, params.c, targets))
    total = heads._reduce(losses, weights, scored, reduction)
    if losses.size or lengths is None:
        return total
    return nan_unless(jnp.all(lengths == 0), total)  # where no step is there to be NaN


def _hidden(plan: _Plan, params: Params, data: _Data, head: Any = None) -> Any:
    """States, the last state or each step's loss by a head (V, c, y), shaped as the caller shaped x; of `params` the
    cell's U, W, b are read."""
    x, lengths, h0 = _with_batch(data, params.W)
    if head is not None and data.single:
        head = (*head[:2], head[2][None])
    h: Any = _run(plan, *on_same_axes(x, params.U, params.W, params.b, h0, lengths, head))
    return h[0] if data.single else h


def _with_batch(data: _Data, W: jax.Array) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """The batch axis if it is absent, h_0 = 0 if it is absent. A length out of range makes its row NaN, through h_0."""
    x, lengths, h0 = jax.tree.map(lambda a: a[None], data) if data.single else data
    if h0 is None:
        h0 = jnp.zeros((x.shape[0], W.shape[0]), W.dtype)
    if lengths is None:
        return x, None, h0
    known = (lengths >= 0) & (lengths <= data.steps)
    return x, jnp.where(known, lengths, data.steps).astype(jnp.int32), nan_unless(known[:, None], h0)


def _check(call: Call, params: Params, *inputs: Any) -> tuple[Params, _Data, _How]:
    call.instance("params", params, Params)
    params = _check_params(call, params)
    return params, *_check_data(call, params.U, *inputs)


def _check_params(call: Call, params: Params) -> Params:
    cell = _check_cell(call, "params.", params.U, params.W, params.b)
    return Params(*cell, *heads._check_head(call, params.V, params.c))


def _check_grads(call: Call, params: Params, grads: Params) -> Params:
    """`grads` as arrays, each of the shape of its parameter, and None where that is."""
    one = params.V.ndim == 1
    shapes = "D H", "H H", "H", "H" if one else "H C", "" if one else "C"
    checked: list[Any] = []
    for name, theta, theta_bar, shape in zip(Params._fields, params, grads, shapes, strict=True):
        if (theta is None) != (theta_bar is None):
            expected, came = ("None, which", "an array") if theta is None else ("an array, as", "None")
            call.fail(TypeError, f"grads.{name}", f"{expected} params.{name} is", came)
        checked.append(call.optional(f"grads.{name}", theta_bar, shape))
    return Params(*checked)


def _check_operation(
    call: Call, x: Any, U: Any, W: Any, b: Any, h0: Any, lengths: Any, truncate: Any, save: Any
) -> tuple[Params, _Data, _How]:
    """A cell without a head."""
    cell = Params(*_check_cell(call, "", U, W, b), V=None, c=None)  # pyright: ignore[reportArgumentType]
    return cell, *_check_data(call, cell.U, x, lengths, h0, truncate, save)


def _check_cell(call: Call, prefix: str, U: Any, W: Any, b: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    U = call.floats(f"{prefix}U", U, "D H")
    return U, call.floats(f"{prefix}W", W, "H H"), call.optional(f"{prefix}b", b, "H")


def _check_data(
    call: Call, U: jax.Array, x: Any, lengths: Any, h0: Any, truncate: Any, save: Any
) -> tuple[_Data, _How]:
    x = call.array("x", x)
    index = _is_index(x) and x.ndim < 3
    x = call.integers("x", x, "B T", "T") if index else call.floats("x", x, "B T D", "T D")
    data = _Data(x)
    batch = "" if data.single else "B"
    lengths = None if lengths is None else call.integers("lengths", lengths, batch)
    h0 = call.optional("h0", h0, f"{batch} H")
    call.within("lengths", lengths, 0, data.steps, "the steps of x")
    valid = valid_steps(lengths, data.steps)
    if index:
        call.within("x", x, 0, U.shape[0] - 1, "a row of U", valid)
    else:
        call.no_nan("x", x, valid)
    call.no_nan("h0", h0)
    if truncate is not None:
        truncate = call.size("truncate", truncate)
        truncate = min(truncate, max(data.steps, 1)) if is_known(data.steps) else truncate
    if isinstance(save, str):
        call.choice("save", save, "auto", "all")
    else:
        save = call.size("save", save)
    return _Data(x, lengths, h0), _How(truncate, save)
