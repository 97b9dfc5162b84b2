"""Text convolution: windows of words, tanh, the maximum over time.

Symbols of one sentence; a batch is rows, the batch axis may be absent; t = 1 … T' = T−k+1, filter j = 1 … F:

    w_t [S]        word vectors, t = 1 … T           U [k, S, F]  filters, block i of column j is U[i, :, j]
    x_t [k·S]      windows [w_t; …; w_{t+k−1}]       b [F]        bias of the filters
    s   [T', F]    scores                            m [F]        winners: where each filter scores highest
    h   [F]        features, then a head             E [N, S]     embedding table, w_t = E[token_t]

Forward                                          Backward
    (C1) s_tj = x_t · u_j (+ b_j)                    (C4) c_j = h̄_j (1 − h_j²)
    (C2) m_j = argmax_t s_tj, the first              (C5) ū_j = c_j x_{m_j};  b̄_j = c_j
         where several tie                           (C6) w̄_{m_j+i} += c_j U[i, :, j]
    (C3) h_j = max_t tanh(s_tj) = tanh(s_{m_j j})    (C7) Ē[token_t] += w̄_t

tanh is increasing, so it is applied to the winners only, and only they get gradient. If scores tie, the first window
wins: it has the value and all of the gradient. A sentence shorter than the window (even of length 0) is one window,
padded with zero vectors. What lies beyond a sentence's length is never read.

Reference: Y. Kim, Convolutional neural networks for sentence classification, EMNLP 2014.
"""

import functools
import itertools
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
    on_same_axes,
    reached,
    rows,
    wide,
    zeros,
)
from jaxnets._chunks import near_divisor
from jaxnets._shapes import Call, valid_steps


class Params(NamedTuple):
    """Weights of the net; one entry a window width in `U` and `b`."""

    E: jax.Array | None  # [N, S] word vectors by token, None where the net is given word vectors
    U: tuple[jax.Array, ...]  # [k, S, F] filters
    b: tuple[jax.Array, ...] | None  # [F] bias of the filters
    V: jax.Array  # [ΣF, C] from the features of all widths to the head; [ΣF] for one output
    c: jax.Array | None  # [C] bias of the head; [] for one output


def init(
    key: Any,
    embed: int = 300,
    widths: Any = (3,),
    filters: int = 100,
    outputs: int = 1,
    vocab: int | None = None,
    *,
    bias: bool = True,
    dtype: Any = jnp.float32,
) -> Params:
    """Random weights for windows of each of `widths`, `filters` to a width; `vocab` words make a table E; without it
    the net takes word vectors. `outputs=1` makes the net logistic, more make it softmax.

    E is uniform within ±1/4 (the size of common pretrained vectors). U is normal with variance 1/(k·embed), so that
    scores have the size of a word vector's entries and the winners lie in the linear part of tanh; V is normal
    with variance one over the number of features; biases are zero.

    >>> import jax
    >>> init(jax.random.key(0), embed=4, widths=(2, 3), filters=5).U[1].shape
    (3, 4, 5)
    """
    call = Call("textconv.init")
    key, dtype, bias = call.key(key), call.float_dtype(dtype), call.flag("bias", bias)
    S, F, C = call.size("embed", embed), call.size("filters", filters), call.size("outputs", outputs)
    widths = call.sizes_of("widths", widths, "a sequence of one window width or more", least=1)
    key_E, key_V, *keys_U = jax.random.split(key, 2 + len(widths))
    E = None
    if vocab is not None:
        shape = call.size("vocab", vocab), S
        E = jax.random.uniform(key_E, shape, wide(dtype), -0.25, 0.25).astype(dtype)
    features = F * len(widths)
    return Params(
        E=E,
        U=tuple(normal(key_U, (k, S, F), k * S, dtype) for key_U, k in zip(keys_U, widths, strict=True)),
        b=tuple(jnp.zeros(F, dtype) for _ in widths) if bias else None,
        V=normal(key_V, (features,) if C == 1 else (features, C), features, dtype),
        c=jnp.zeros(() if C == 1 else C, dtype) if bias else None,
    )


def reference(params: Params, x: Any, lengths: Any = None) -> jax.Array:
    """The forward pass as the page writes it, without a rule; same call as `forward`."""
    return _reference(*_check(Call("textconv.reference"), params, x, lengths))


@partial(compiled, rows=1)
def _reference(params: Params, x: jax.Array, lengths: Any) -> jax.Array:
    dtype, single = params.V.dtype, _is_single(x)
    params = jax.tree.map(lambda a: a.astype(wide(a.dtype)), params)
    E, U, b, V, c = params
    x, lengths = _sentences(x, lengths, U)
    w = jax.vmap(lambda x, length: _words(x if E is not None else x.astype(V.dtype), E, length, U))(x, lengths)
    h = []
    for i, U_k in enumerate(U):
        k, S, F = U_k.shape
        windows = w.shape[1] - k + 1
        x_t = jnp.concatenate([w[:, i : i + windows] for i in range(k)], axis=2)
        s = x_t @ U_k.reshape(k * S, F)
        s = checkpoint_name(s if b is None else s + b[i][None, None], f"s{k}")
        m = lax.argmax(jax.vmap(lambda s, length, k=k: _of_sentence(s, length, k))(s, lengths), 1, jnp.int32)
        h.append(checkpoint_name(jnp.take_along_axis(jnp.tanh(s), m[:, None], 1)[:, 0], f"h{k}"))
    z = heads._reference_logits(jnp.concatenate(h, 1), V, c)
    return (z[0] if single else z).astype(dtype)


# The rule. A sentence at a time, from words to features and back: nothing as long as the text outlives its sentence.


@jax.custom_vjp
def _features(x: jax.Array, E: Any, U: tuple[jax.Array, ...], b: Any, lengths: Any) -> jax.Array:
    return _features_fwd(x, E, U, b, lengths)[0]


def _features_fwd(x, E, U, b, lengths, each=None):
    """x [B, T, S], or tokens [B, T] that pick rows of E -> h [B, ΣF], wide. A length of −1 makes its row NaN.

    Saves which window each filter won with and the feature it gave, wide: of B·T'·F scores the backward pass needs B·F.
    """

    def sentence(scores, x, length):
        """One sentence: words -> m [F] a width, h [ΣF]."""
        w = _words(x, E, length, U)
        m, h = [], []
        for i, U_k in enumerate(U):
            s = scores(w, U_k)  # (C1)
            if b is not None:
                s = s + b[i].astype(s.dtype)[None]  # (C1)
            s = _of_sentence(s, length, U_k.shape[0])
            m_k, s_m = _first_of_highest(s)  # (C2)
            m.append(m_k)
            h.append(jnp.tanh(s_m))  # (C3)
        return m, jnp.concatenate(h)

    m, h = (each or _in_blocks(x.shape[:2], U))(sentence, x, lengths)
    return h, (x, E, U, b, lengths, m, h)


def _features_bwd(saved, h_bar, over_rows=None):
    x, E, U, b, lengths, m, h = saved
    sums = wide(U[0].dtype)
    c = h_bar * (1 - jnp.square(h))  # (C4)
    b_bar = jnp.sum(c, 0)  # (C5)
    starts = [0, *itertools.accumulate(U_k.shape[2] for U_k in U)]
    shapes = [(U_k.shape[2], *U_k.shape[:2]) for U_k in U]  # [F, k, S] a width
    # Of all widths at once, a row for each filter's each place in its window, [ΣF·k]: the word there, what comes in
    # and, [ΣF·k, S], the filter.
    B, steps = c.shape[0], [jnp.arange(k, dtype=jnp.int32)[None, None] for _, k, _ in shapes]
    at = _joined([(m_k[:, :, None] + step).reshape(B, -1) for m_k, step in zip(m, steps, strict=True)])
    c_at = _joined([jnp.repeat(c[:, i : i + F], k, 1) for i, (F, k, _) in zip(starts, shapes, strict=False)])
    U_at = _joined([U_k.transpose(2, 0, 1).astype(sums).reshape(-1, U_k.shape[1]) for U_k in U], 0)

    def sentence(x, length, at, c):
        """One sentence -> its part of Ū, [ΣF·k, S]; and where w̄ is not zero: the places [ΣF·k] of the winners' words,
        which may repeat (beyond the text: none), and what each adds, [ΣF·k, S]."""
        w = _words(x, E, length, U)
        w_at = w.at[at].get(mode="promise_in_bounds", wrap_negative_indices=False)
        places = at if length is None else jnp.where(at < length, at, w.shape[0])
        return c[:, None] * w_at.astype(sums), places, c[:, None] * U_at  # (C5), (C6)

    U_bar, x_bar, E_bar = (over_rows or _by_platform)(sentence, E, x, lengths, at, c_at)
    cuts = np.cumsum([F * k for F, k, _ in shapes])[:-1]
    parts = [part.reshape(shape) for part, shape in zip(jnp.split(U_bar, cuts), shapes, strict=True)]
    U_bar = tuple(g.transpose(1, 2, 0).astype(U_k.dtype) for g, U_k in zip(parts, U, strict=True))
    if b is not None:
        b_bar = tuple(b_bar[i : i + b_k.shape[0]].astype(b_k.dtype) for i, b_k in zip(starts, b, strict=False))
    return x_bar, E_bar, U_bar, None if b is None else b_bar, None


def _joined(parts: list[jax.Array], axis: int = 1) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


_features.defvjp(compiled(_features_fwd), compiled(_features_bwd))


def _words(x: jax.Array, E: Any, length: Any, U: tuple[jax.Array, ...]) -> jax.Array:
    """One sentence's word vectors [T, S], zero beyond its length, at least as many as the widest window has."""
    w = x if E is None else rows(E, x)
    if length is not None:
        w = jnp.where(reached(length, w.shape[0])[:, None], w, nan_unless(length >= 0, jnp.zeros((), w.dtype)))
    fewest = w.shape[0] if is_known(w.shape[0]) else 1
    missing = max(U_k.shape[0] for U_k in U) - fewest
    return jnp.pad(w, ((0, missing), (0, 0))) if missing > 0 else w


def _convolved(w: jax.Array, U: jax.Array) -> jax.Array:
    """(C1) for every window, without the bias: w [T, S], U [k, S, F] -> [T', F], wide. The fastest on a CPU."""
    sums, axes = wide(w.dtype), ("NWC", "WIO", "NWC")
    s = lax.conv_general_dilated(w[None], U, (1,), "VALID", dimension_numbers=axes, preferred_element_type=sums)
    return s[0]


def _by_word(w: jax.Array, U: jax.Array) -> jax.Array:
    """The same as one product: what each word adds at each place in a window, [T, k, F], summed along windows."""
    k, S, F = U.shape
    windows = w.shape[0] - k + 1
    parts = dot(w, U.transpose(1, 0, 2).reshape(S, k * F)).reshape(-1, k, F)
    return functools.reduce(operator.add, (parts[i : i + windows, i] for i in range(k)))


def _of_sentence(s: jax.Array, length: Any, k: int) -> jax.Array:
    """Scores [T', F] with −∞ for windows that reach beyond the sentence; the first window stays."""
    if length is None:
        return s
    return jnp.where(jnp.arange(s.shape[0], dtype=length.dtype)[:, None] <= jnp.maximum(length - k, 0), s, -jnp.inf)


@jax.custom_jvp
def _first_of_highest(s: jax.Array) -> Any:
    """(C2) s [T', F] -> where each filter scores highest, and that score, [F] both. NaN wins.

    Two maxima run, and compile, faster than `argmax`: of the scores, and of a rank that falls with t and is 0 where
    the score is lower. NaN, which the first may overlook, has ranks above all others.
    """
    windows, highest = s.shape[0], jnp.max(s, 0)
    counts = (
        jnp.float32 if is_known(windows) and windows < 2**22 else jnp.int32
    )  # both exact; a maximum of floats is faster
    falling = windows - lax.broadcasted_iota(counts, s.shape, 0)
    rank = jnp.where(s == highest[None], falling, jnp.where(jnp.isnan(s), falling + windows, 0))
    best = jnp.max(rank, 0).astype(jnp.int32)
    is_nan = best > windows
    return jnp.where(is_nan, 2 * windows, windows) - best, nan_unless(~is_nan, highest)


@_first_of_highest.defjvp
def _of_the_first(primals, tangents):
    """For second derivatives: at a tie, too, the winner's alone."""
    m, s_m = _first_of_highest(*primals)
    s_dot = jnp.take_along_axis(tangents[0], m[None], 0, mode="promise_in_bounds")[0]
    return (m, s_m), (np.zeros(m.shape, jax.dtypes.float0), s_dot)


def _rows_at_once(B: int, T: int, filters: int) -> int:
    """The cost formula of the forward pass on a CPU: as many sentences as have a MiB of scores, to be searched while
    in cache; two at least, since the product of one alone is laid out anew. All of them if sizes are not known."""
    if not is_known(B, T):
        return B
    fitting = max(2**18 // max(T * filters, 1), 2)
    return near_divisor(B, fitting) if fitting < B else B


def _in_blocks(shape: tuple[int, int], U: tuple[jax.Array, ...]) -> Callable[..., Any]:
    """How the forward pass goes over sentences, by platform: a block at a time, or all at once."""
    size = _rows_at_once(*shape, max(U_k.shape[2] for U_k in U))

    def each(sentence, x, lengths):
        def blocks(*args):
            one = partial(sentence, _convolved)
            return (
                lax.map(lambda row: one(*row), args, batch_size=size) if 0 < size < shape[0] else jax.vmap(one)(*args)
            )

        return lax.platform_dependent(x, lengths, cpu=blocks, default=jax.vmap(partial(sentence, _by_word)))

    return each


def _by_platform(sentence: Callable[..., Any], E: Any, *args: Any) -> tuple[Any, Any, Any]:
    cpu, default = (partial(way, sentence, E) for way in (_row_by_row, _all_at_once))
    return lax.platform_dependent(*args, cpu=cpu, default=default)


def _row_by_row(sentence: Callable[..., Any], E: Any, x: Any, lengths: Any, at: Any, c: Any) -> tuple[Any, Any, Any]:
    """Ū and Ē summed over rows, x̄ stacked (None for tokens); the winners of one row are in cache together."""
    of_U = jax.eval_shape(sentence, *jax.tree.map(lambda a: a[0], (x, lengths, at, c)))[0]
    E_bar: Any = None if E is None else zeros(E.shape, wide(E.dtype), c)

    def add(total, row):
        U_bar, E_bar = total
        part, places, shares = sentence(*row)
        x = row[0]
        if E is None:
            return (U_bar + part, None), _gathered(places, shares, x.shape[0]).astype(x.dtype)
        return (U_bar + part, _add_words(E_bar, x, places, shares)), None

    (U_bar, E_bar), x_bar = lax.scan(add, (zeros(of_U.shape, of_U.dtype, c), E_bar), (x, lengths, at, c))
    return U_bar, x_bar, None if E is None else E_bar.astype(E.dtype)


def _all_at_once(sentence: Callable[..., Any], E: Any, x: Any, lengths: Any, at: Any, c: Any) -> tuple[Any, Any, Any]:
    """The same for devices of thousands of threads."""
    parts, places, shares = jax.vmap(sentence)(x, lengths, at, c)
    U_bar = jnp.sum(parts, 0)
    w_bar = jax.vmap(partial(_gathered, T=x.shape[1]))(places, shares)
    if E is None:
        return U_bar, w_bar.astype(x.dtype), None
    E_bar = add_rows(zeros(E.shape, wide(E.dtype), c), x, w_bar)  # (C7)
    return U_bar, None, E_bar.astype(E.dtype)


def _gathered(places: jax.Array, shares: jax.Array, T: int) -> jax.Array:
    """w̄ [T, S] of one sentence: several filters may win at one word. What falls beyond the text is dropped."""
    return zeros((T, shares.shape[1]), shares.dtype, shares).at[places].add(shares, mode="drop")  # (C6)


def _add_words(E_bar: jax.Array, tokens: jax.Array, places: jax.Array, shares: jax.Array) -> jax.Array:
    """One sentence's part of Ē: winners straight into the table where they are fewer than words, else by way of w̄."""
    if is_known(tokens.size) and places.size < tokens.size:
        return add_rows(E_bar, tokens.at[places].get(mode="fill", fill_value=-1), shares)  # (C7)
    return add_rows(E_bar, tokens, _gathered(places, shares, tokens.size))  # (C7)


# What users call.


def max_over_time(x: Any, U: Any, b: Any = None, lengths: Any = None, *, width: int | None = None) -> jax.Array:
    """The operation: features `h [B, F]` of word vectors `x [B, T, S]` (or `[F]` of `[T, S]`).

    Args:
      U: filters `[k, S, F]`, or the page's `[k·S, F]` with `width=k`.
      b: `[F]`, the filters' bias.
      lengths: `[B]`, from 0 to T; what lies beyond is never read.

    If scores tie, the first window wins: it has the value and all of the gradient. Gradients with respect to `x`,
    `U` and `b` are C4 to C6 by hand.
    """
    call = Call("textconv.max_over_time")
    if width is None:
        U = call.floats("U", U, "k S F")
    else:
        k = call.size("width", width)
        U = call.floats("U", U, "k·S F")
        if U.shape[0] % k:
            call.fail(ValueError, "U", f"of shape [k·S, F] with k = {k} (width)", list(U.shape))
        U = U.reshape(k, -1, U.shape[1])
        call.sizes["S"] = (U.shape[1], "U and width")
    b = call.optional("b", b, "F")
    x, lengths = _check_sentences(call, x, lengths, None)
    return _operation(Params(None, (U,), None if b is None else (b,), U, None), x, lengths)


@partial(compiled, rows=1)
def _operation(params: Params, x: jax.Array, lengths: Any) -> jax.Array:
    h = _hidden(params, x, lengths)
    return (h[0] if _is_single(x) else h).astype(x.dtype)


def forward(params: Params, x: Any, lengths: Any = None) -> jax.Array:
    """Logits `[B, C]` (`[B]` for one output) of word vectors `x [B, T, S]` or, where the net has a table, of integer
    token ids `x [B, T]`. `lengths [B]`, from 0 to T: what lies beyond is never read. The batch axis may be absent."""
    params, x, lengths = _check(Call("textconv.forward"), params, x, lengths)
    return _logits(params, x, lengths).astype(params.V.dtype)


def loss(
    params: Params,
    x: Any,
    y: Any,
    lengths: Any = None,
    *,
    weights: Any = None,
    reduction: str = "mean",
    drop: float = 0.0,
    key: Any = None,
) -> jax.Array:
    """Loss over the batch, float32 or wider: targets `y [B]` in [0, 1] if the net has one output, otherwise classes.

    `x` and `lengths` as for `forward`, `weights` and `reduction` as for `heads.logistic`; a mask hides targets, not
    inputs. With a `key`, each feature is dropped with probability `drop`, and the others are scaled up by as much: one
    key for the batch, or an array `[B]` of one for each sentence.
    `jax.grad(loss)` runs the hand-written rule.
    """
    call = Call("textconv.loss")
    params, x, lengths = _check(call, params, x, lengths)
    drop = call.fraction("drop", drop)
    key = None if key is None else call.key(key, None if _is_single(x) else x.shape[0])
    classes = None if params.V.ndim == 1 else params.V.shape[1]
    y, weights = heads._check_targets(call, "y", y, classes, ("",) if _is_single(x) else ("B",), weights, reduction)
    return heads._loss_of_logits(_logits(params, x, lengths, drop, key), y, weights, reduction)


def predict(params: Params, x: Any, lengths: Any = None) -> jax.Array:
    """Probabilities, shaped as the logits of `forward`."""
    params, x, lengths = _check(Call("textconv.predict"), params, x, lengths)
    return heads._probabilities(_logits(params, x, lengths), params.V.ndim == 1).astype(params.V.dtype)


# Inside: everything is checked by now.


@partial(compiled, static=(3,), rows=1)
def _logits(params: Params, x: jax.Array, lengths: Any, drop: float = 0.0, key: Any = None) -> jax.Array:
    h = _hidden(params, x, lengths)
    if drop and key is not None:
        keys = key if key.ndim else jax.random.split(key, h.shape[0])
        kept = jax.vmap(lambda one: jax.random.bernoulli(one, 1 - drop, h.shape[1:]))(keys)
        h = jnp.where(kept, h / (1 - drop), jnp.zeros_like(h))
    z = heads._logits(h, params.V, params.c)
    return z[0] if _is_single(x) else z


def _hidden(params: Params, x: jax.Array, lengths: Any) -> jax.Array:
    """[B, ΣF], with the batch axis always."""
    E, U, b, _, _ = params
    x, lengths = _sentences(x, lengths, U)
    return _features(*on_same_axes(x, E, U, b, lengths))


def _is_index(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.integer)


def _is_single(x: jax.Array) -> bool:
    return x.ndim == (1 if _is_index(x) else 2)


def _sentences(x: jax.Array, lengths: Any, U: tuple[jax.Array, ...]) -> tuple[jax.Array, Any]:
    """The batch axis if it is absent; lengths where a sentence may be shorter than a window; −1 for a length out of
    range."""
    if _is_single(x):
        x, lengths = x[None], None if lengths is None else lengths[None]
    B, T = x.shape[:2]
    if lengths is None:
        short = not is_known(T) or max(U_k.shape[0] for U_k in U) > T
        return x, jnp.full(B, T, jnp.int32) if short else None
    return x, jnp.where((lengths >= 0) & (lengths <= T), lengths, -1).astype(jnp.int32)


def _check(call: Call, params: Params, x: Any, lengths: Any) -> tuple[Params, jax.Array, Any]:
    call.instance("params", params, Params)
    E, U, b = params.E, params.U, params.b
    E = call.optional("params.E", E, "N S")
    U = tuple(call.floats(f"params.U[{i}]", U_k, f"k{i} S F{i}") for i, U_k in enumerate(call.arrays("params.U", U)))
    if b is not None:
        b = call.arrays("params.b", b, like="params.U", count=len(U))
        b = tuple(call.floats(f"params.b[{i}]", b_k, f"F{i}") for i, b_k in enumerate(b))
    call.sizes["H"] = (sum(U_k.shape[2] for U_k in U), "the filters of params.U")
    V, c = heads._check_head(call, params.V, params.c)
    return Params(E, U, b, V, c), *_check_sentences(call, x, lengths, E)


def _check_sentences(call: Call, x: Any, lengths: Any, E: jax.Array | None) -> tuple[jax.Array, Any]:
    x = call.array("x", x)
    if E is None and _is_index(x):
        remedy = "Token ids need a table: make the net with init(…, vocab=…)."
        call.fail(TypeError, "x", "word vectors, for this net has no table", x.dtype, remedy)
    x = call.floats("x", x, "B T S", "T S") if E is None else call.integers("x", x, "B T", "T")
    batch = "" if _is_single(x) else "B"
    lengths = None if lengths is None else call.integers("lengths", lengths, batch)
    T = x.shape[len(batch)]
    call.within("lengths", lengths, 0, T, "the words of x")
    valid = valid_steps(lengths, T)
    if E is None:
        call.no_nan("x", x, valid)
    else:
        call.within("x", x, 0, E.shape[0] - 1, "a row of params.E", valid)
    return x, lengths
