"""The one table of what is tested: every operation, net and head, with its reference and its oracle.

A case is drawn from a seed and a dtype. Its sizes are all different, so that no transpose hides; its words repeat and
its lengths reach from 0 to T; its biases are not zero.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import oracles
from helpers import make_params
from jaxnets import dense, gated, heads, rnn, textconv

KEY = jax.random.key(0)


class Case(NamedTuple):
    """`rule(fixed, **args)` and `reference(fixed, **args)` are functions of float arrays `args`, whose gradients are
    tested, and of `fixed`, whose are not (targets, whole numbers). `oracle(fixed, **args)` returns an output and its
    backward function, from the output's adjoint to a dict like `args`. All three are the same for every seed."""

    rule: Callable[..., Any]
    reference: Callable[..., Any]
    oracle: Callable[..., Any]
    args: dict[str, Any]
    fixed: Any = None


def _draw(rng: np.random.Generator, dtype: Any) -> Callable[..., Any]:
    """Gaussian numbers, rounded by NumPy: JAX would compile a program for each shape."""
    return lambda *shape, by=1.0: jax.device_put((by * rng.normal(size=shape)).astype(dtype))


def _targets(rng: np.random.Generator, dtype: Any, outputs: int, shape: Any) -> Any:
    return jax.device_put(rng.integers(0, outputs, shape) if outputs > 1 else _uniform(rng, dtype, shape))


def _uniform(rng: np.random.Generator, dtype: Any, shape: Any) -> Any:
    return jax.device_put(rng.uniform(size=shape).astype(dtype))


def _params(rng: np.random.Generator, dtype: Any, init: Callable[[], Any]) -> Any:
    """Of the shapes that `init` gives, which is not run."""
    return make_params(rng, jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, dtype), jax.eval_shape(init)))


def _logistic_case(rng, dtype, bias=True):
    f = _draw(rng, dtype)
    t = _uniform(rng, dtype, 5)
    args = {"h": f(5, 3), "v": f(3), "c": f() if bias else None, "t": t}

    def oracle(_, h, v, c, t):
        loss, back = oracles.logistic(h, v, c, t)
        return loss, lambda bar: dict(zip(("h", "v", "c", "t"), back(bar), strict=True))

    return Case(
        lambda _, **a: heads.logistic(**a, reduction="none"),
        lambda _, **a: heads.reference_logistic(**a, reduction="none"),
        oracle,
        args,
    )


def _softmax_case(rng, dtype, bias=True):
    f = _draw(rng, dtype)
    k = _targets(rng, dtype, 4, 5)
    args = {"h": f(5, 3), "V": f(3, 4), "c": f(4) if bias else None}

    def oracle(k, h, V, c):
        loss, back = oracles.softmax(h, V, c, k)
        return loss, lambda bar: dict(zip(("h", "V", "c"), back(bar), strict=True))

    return Case(
        lambda k, **a: heads.softmax(**a, k=k, reduction="none"),
        lambda k, **a: heads.reference_softmax(**a, k=k, reduction="none"),
        oracle,
        args,
        k,
    )


def _weighted_case(rng, dtype):
    """The reduced loss, as a function of the weights too."""
    f = _draw(rng, dtype)
    k = _targets(rng, dtype, 4, 5)
    args = {"h": f(5, 3), "V": f(3, 4), "c": f(4), "weights": _uniform(rng, dtype, 5)}

    def oracle(k, h, V, c, weights):
        losses, back = oracles.softmax(h, V, c, k)
        total = weights.sum()
        mean = (losses * weights).sum() / total

        def backward(bar):
            h_bar, V_bar, c_bar = back(bar * weights / total)
            return {"h": h_bar, "V": V_bar, "c": c_bar, "weights": bar * (losses - mean) / total}

        return mean, backward

    return Case(
        lambda k, **a: heads.softmax(**a, k=k), lambda k, **a: heads.reference_softmax(**a, k=k), oracle, args, k
    )


def _max_over_time_case(rng, dtype, T=7, k=3, bias=True, with_lengths=True):
    f = _draw(rng, dtype)
    lengths = np.array([T, min(2, T), 0, max(T - 2, 0), 1]) if with_lengths else None
    args = {"x": f(5, T, 6), "U": f(k, 6, 4, by=0.5), "b": f(4) if bias else None}

    def reference(_, x, U, b):
        head = jnp.eye(4, dtype=x.dtype)  # logits that are the features
        return textconv.reference(textconv.Params(None, (U,), None if b is None else (b,), head, None), x, lengths)

    def oracle(_, x, U, b):
        h, back = oracles.max_over_time(x, U, b, lengths)
        return h, lambda bar: dict(zip(("x", "U", "b"), back(bar), strict=True))

    return Case(lambda _, **a: textconv.max_over_time(**a, lengths=lengths), reference, oracle, args)


def _textconv_loss_case(rng, dtype, outputs=10, table=True):
    net = {"embed": 7, "widths": (2, 4), "filters": 3, "outputs": outputs, "vocab": 9 if table else None}
    params = _params(rng, dtype, lambda: textconv.init(KEY, **net))
    lengths = np.array([8, 3, 0, 5, 1])
    x = rng.integers(0, 9, (5, 8))
    words = _draw(rng, dtype)(5, 8, 7)
    y = _targets(rng, dtype, outputs, 5)
    args = {"params": params} if table else {"params": params, "x": words}

    def oracle(fixed, params, x=None):
        (tokens, y), (E, U, b, V, c) = fixed, params
        w, back_E = oracles.embed(E, tokens, lengths) if table else (x, lambda bar: bar)
        (h2, back2), (h4, back4) = (oracles.max_over_time(w, U[i], b[i], lengths) for i in range(2))
        head = oracles.softmax if outputs > 1 else oracles.logistic
        loss, back = head(np.concatenate([h2, h4], 1), V, c, y)

        def backward(bar):
            h_bar, V_bar, c_bar = back(bar)[:3]
            (w2, U2, b2), (w4, U4, b4) = back2(h_bar[:, :3]), back4(h_bar[:, 3:])
            below = back_E(w2 + w4)
            grads = textconv.Params(below if table else None, (U2, U4), (b2, b4), V_bar, c_bar)
            return {"params": grads} if table else {"params": grads, "x": below}

        return loss, backward

    def rule(fixed, params, x=None):
        return textconv.loss(params, fixed[0] if x is None else x, fixed[1], lengths, reduction="none")

    def reference(fixed, params, x=None):
        z = textconv.reference(params, fixed[0] if x is None else x, lengths)
        return heads.reference_loss(z, fixed[1], reduction="none")

    return Case(rule, reference, oracle, args, (x, y))


def _cell(rng, dtype, index, bias, D=3, H=4, T=7):
    """Halved, so that few units saturate: the `1 − h²` of one that does has few digits left in half precision."""
    f = _draw(rng, dtype)
    args = {"x": f(5, T, D, by=0.5), "U": f(D, H, by=0.5), "W": f(H, H, by=0.5)}
    args |= {"b": f(H, by=0.5) if bias else None, "h0": f(5, H)}
    if index:
        del args["x"]
    return args, rng.integers(0, D, (5, T))


RNN_LENGTHS = np.array([7, 4, 0, 6, 1])


def _states_case(rng, dtype, every=True, index=False, bias=True, with_lengths=True, T=7, **options):
    args, ids = _cell(rng, dtype, index, bias, T=T)
    lengths = RNN_LENGTHS if with_lengths else None
    operation = rnn.states if every else rnn.last_state

    def rule(ids, U, W, b, h0, x=None):
        return operation(ids if x is None else x, U, W, b, h0, lengths, **options)

    def reference(ids, U, W, b, h0, x=None):
        params = rnn.Params(U, W, b, jnp.eye(4, dtype=U.dtype), None)  # logits that are the states
        return rnn.reference(params, ids if x is None else x, lengths, h0, every_step=every, **options)

    def oracle(ids, U, W, b, h0, x=None):
        h, last, back = oracles.states(ids if x is None else x, U, W, b, h0, lengths, options.get("truncate"))

        def backward(bar):
            bars = (bar, np.zeros(last.shape)) if every else (np.zeros(h.shape), bar)
            grads = dict(zip(("x", "U", "W", "b", "h0"), back(*bars), strict=True))
            return {name: grads[name] for name in args}

        return h if every else last, backward

    return Case(rule, reference, oracle, args, ids)


def _rnn_loss_case(rng, dtype, every=False, outputs=3, index=False, **options):
    params = _params(rng, dtype, lambda: rnn.init(KEY, inputs=4, hidden=6, outputs=outputs))
    f = _draw(rng, dtype)
    ids, shape = rng.integers(0, 4, (5, 7)), (5, 7) if every else (5,)
    y = _targets(rng, dtype, outputs, shape)
    args = {"params": params, "h0": f(5, 6)} | ({} if index else {"x": f(5, 7, 4)})
    scored = jnp.asarray(np.arange(7)[None] < RNN_LENGTHS[:, None]) if every else None

    def oracle(fixed, params, h0, x=None):
        (ids, y), (U, W, b, V, c) = fixed, params
        h, last, back = oracles.states(ids if x is None else x, U, W, b, h0, RNN_LENGTHS, options.get("truncate"))
        features, targets = (h.reshape(-1, 6), y.reshape(-1)) if every else (last, y)
        loss, back_head = (oracles.softmax if outputs > 1 else oracles.logistic)(features, V, c, targets)
        mask = np.asarray(scored).reshape(-1) if every else np.ones(5)

        def backward(bar):
            h_bar, V_bar, c_bar = back_head(bar.reshape(-1) * mask)[:3]
            bars = (h_bar.reshape(h.shape), np.zeros(last.shape)) if every else (np.zeros(h.shape), h_bar)
            x_bar, U_bar, W_bar, b_bar, h0_bar = back(*bars)
            grads = {"params": rnn.Params(U_bar, W_bar, b_bar, V_bar, c_bar), "x": x_bar, "h0": h0_bar}
            return {name: grads[name] for name in args}

        return (loss * mask).reshape(shape), backward

    def rule(fixed, params, h0, x=None):
        return rnn.loss(params, fixed[0] if x is None else x, fixed[1], RNN_LENGTHS, h0, reduction="none", **options)

    def reference(fixed, params, h0, x=None):
        z = rnn.reference(params, fixed[0] if x is None else x, RNN_LENGTHS, h0, every_step=every, **options)
        return heads.reference_loss(z, fixed[1], weights=scored, reduction="none")

    return Case(rule, reference, oracle, args, (ids, y))


def _logit_case(rng, dtype, bias=True, a=2, b=3, c=4):
    """In these sizes the rule folds the hidden vector away."""
    f = _draw(rng, dtype)
    args = {"x": f(5, a), "eta": f(5, b), "W": f(a, c), "U": f(b, c), "v": f(c), "r": f(a), "c": f() if bias else None}

    def oracle(_, **a):
        out, back = oracles.logit(**a)
        return out, lambda bar: dict(zip(args, back(bar), strict=True))

    def reference(_, x, eta, **p):
        return gated.reference(gated.Params(**p), x, eta)

    return Case(lambda _, **a: gated.logit(**a), reference, oracle, args)


def _gated_loss_case(rng, dtype):
    params = _params(rng, dtype, lambda: gated.init(KEY, x=2, eta=3, hidden=4))
    f = _draw(rng, dtype)
    y = _targets(rng, dtype, 1, 5)

    def oracle(y, params, x, eta):
        z, back = oracles.logit(x, eta, *params)
        loss, back_head = oracles.logistic(z[:, None], np.ones(1), None, y)

        def backward(bar):
            x_bar, eta_bar, *grads = back(back_head(bar)[0][:, 0])
            return {"params": gated.Params(*grads), "x": x_bar, "eta": eta_bar}

        return loss, backward

    return Case(
        lambda y, params, x, eta: gated.loss(params, x, eta, y, reduction="none"),
        lambda y, params, x, eta: heads.reference_loss(gated.reference(params, x, eta), y, reduction="none"),
        oracle,
        {"params": params, "x": f(5, 2), "eta": f(5, 3)},
        y,
    )


def _layers_case(rng, dtype, sizes=(3, 4, 6, 2), bias=True):
    f = _draw(rng, dtype)
    pairs = list(itertools.pairwise(sizes))
    args = {
        "x": f(5, sizes[0]),
        "W": tuple(f(*pair) for pair in pairs),
        "b": tuple(f(pair[1]) for pair in pairs) if bias else None,
    }

    def oracle(_, x, W, b):
        s, back = oracles.layers(x, W, b)
        return s, lambda bar: dict(zip(("x", "W", "b"), back(bar), strict=True))

    return Case(
        lambda _, **a: dense.layers(**a), lambda _, x, W, b: dense.reference(dense.Params(W, b), x), oracle, args
    )


def _dense_loss_case(rng, dtype, outputs=4):
    params = _params(rng, dtype, lambda: dense.init(KEY, sizes=(2, 6, 3, outputs)))
    y = _targets(rng, dtype, outputs, 5)

    def oracle(y, params, x):
        s, back = oracles.layers(x, params.W, params.b)
        if outputs > 1:
            loss, back_head = oracles.softmax(s, np.eye(outputs), None, y)
        else:
            loss, back_head = oracles.logistic(s, np.ones(1), None, y)

        def backward(bar):
            x_bar, W_bar, b_bar = back(back_head(bar)[0])
            return {"params": dense.Params(W_bar, b_bar), "x": x_bar}

        return loss, backward

    return Case(
        lambda y, params, x: dense.loss(params, x, y, reduction="none"),
        lambda y, params, x: heads.reference_loss(dense.reference(params, x), y, reduction="none"),
        oracle,
        {"params": params, "x": _draw(rng, dtype)(5, 2)},
        y,
    )


def _with(build: Callable[..., Case], **options: Any) -> Callable[..., Case]:
    return lambda rng, dtype: build(rng, dtype, **options)


CASES: dict[str, Callable[[np.random.Generator, Any], Case]] = {
    "heads.logistic": _logistic_case,
    "heads.logistic, no bias": _with(_logistic_case, bias=False),
    "heads.softmax": _softmax_case,
    "heads.softmax, no bias": _with(_softmax_case, bias=False),
    "heads.softmax, weighted mean": _weighted_case,
    "textconv.max_over_time": _with(_max_over_time_case, with_lengths=False),
    "textconv.max_over_time, lengths": _max_over_time_case,
    "textconv.max_over_time, no bias": _with(_max_over_time_case, bias=False),
    "textconv.max_over_time, window wider than the text": _with(_max_over_time_case, T=2, with_lengths=False),
    "textconv.loss, tokens, softmax": _textconv_loss_case,
    "textconv.loss, tokens, logistic": _with(_textconv_loss_case, outputs=1),
    "textconv.loss, word vectors, softmax": _with(_textconv_loss_case, table=False),
    "rnn.states": _with(_states_case, with_lengths=False),
    "rnn.states, lengths": _with(_states_case, save="all"),
    "rnn.states, one state in 3": _with(_states_case, save=3),
    "rnn.states, truncated to 1": _with(_states_case, truncate=1),
    "rnn.states, truncated to 3, one state in 2": _with(_states_case, truncate=3, save=2),
    "rnn.states, truncated to 2, no lengths": _with(_states_case, truncate=2, with_lengths=False, save=7),
    "rnn.states, integer inputs": _with(_states_case, index=True, save=2),
    "rnn.last_state": _with(_states_case, every=False, with_lengths=False),
    "rnn.last_state, lengths": _with(_states_case, every=False, save="all"),
    "rnn.last_state, one state in 2": _with(_states_case, every=False, save=2, with_lengths=False, T=6),
    "rnn.last_state, truncated to 2": _with(_states_case, every=False, truncate=2, save=3),
    "rnn.last_state, truncated to 7": _with(_states_case, every=False, truncate=7, with_lengths=False),
    "rnn.last_state, no bias, integer inputs": _with(_states_case, every=False, index=True, bias=False),
    "rnn.loss, last step, softmax": _rnn_loss_case,
    "rnn.loss, last step, logistic, truncated to 3": _with(_rnn_loss_case, outputs=1, truncate=3),
    "rnn.loss, every step, softmax": _with(_rnn_loss_case, every=True, index=True),
    "rnn.loss, every step, logistic": _with(_rnn_loss_case, every=True, outputs=1, save=2),
    "gated.logit": _logit_case,
    "gated.logit, no bias": _with(_logit_case, bias=False),
    "gated.logit, in full": _with(_logit_case, a=6, b=7),
    "gated.loss": _gated_loss_case,
    "dense.layers": _layers_case,
    "dense.layers, one layer": _with(_layers_case, sizes=(3, 2)),
    "dense.layers, no bias": _with(_layers_case, bias=False),
    "dense.loss, softmax": _dense_loss_case,
    "dense.loss, logistic": _with(_dense_loss_case, outputs=1),
}


def draw(name: str, dtype: Any, seed: int = 0) -> Case:
    return CASES[name](np.random.default_rng([seed, sorted(CASES).index(name)]), dtype)


def of_room(room: str) -> list[str]:
    return [name for name in CASES if name.startswith(room + ".")]
