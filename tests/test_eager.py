"""Calls without `jit`, as in a notebook: after the first one of a size nothing is compiled any more."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import make_params
from jaxnets import dense, gated, heads, rnn, textconv

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
F32 = jnp.float32


def f(*shape):
    return jnp.asarray(RNG.normal(size=shape), F32)


Y, EACH, LENGTHS, WEIGHTS = np.array([0, 1]), np.array([[0, 1, 1, 0]] * 2), np.array([4, 2]), np.ones(2, np.float32)
X, IDS = f(2, 4, 3), np.array([[0, 1, 2, 0]] * 2)
V, C = f(3, 2), f(2)


def params(init, **sizes):
    return make_params(RNG, jax.eval_shape(partial(init, **sizes), KEY))


RNN, ONE = params(rnn.init, inputs=3, hidden=4, outputs=2), params(rnn.init, inputs=3, hidden=4, outputs=1)
TEXT = params(textconv.init, embed=3, widths=(2, 5), filters=4, outputs=2)
WORDS = params(textconv.init, embed=3, widths=(2,), filters=4, vocab=5)
GATED, WIDE = params(gated.init, x=3, eta=3, hidden=2), params(gated.init, x=3, eta=3, hidden=90)
DENSE = params(dense.init, sizes=(3, 4, 2))
NETS = [
    (rnn, RNN, (X,), Y),
    (rnn, ONE, (IDS % 3, LENGTHS), Y),
    (textconv, TEXT, (X, LENGTHS), Y),
    (textconv, WORDS, (IDS,), Y),
    (gated, GATED, (X[:, 0], X[:, 1]), Y),
    (gated, WIDE, (X[0, :1].repeat(40, 0), X[1, :1].repeat(40, 0)), np.zeros(40, int)),
    (dense, DENSE, (X[:, 0],), Y),
]
CALLS = {
    "logistic": lambda: heads.logistic(X[:, 0], V[:, 0], C[0], Y, weights=WEIGHTS),
    "softmax": lambda: heads.softmax(X, V, C, EACH, weights=EACH > 0),
    "reference_softmax": lambda: heads.reference_softmax(X, V, C, EACH),
    "rnn steps": lambda: rnn.loss(RNN, X, EACH, LENGTHS, reduction="sum"),
    "rnn states": lambda: rnn.states(X, RNN.U, RNN.W, RNN.b, truncate=2),
    "rnn last_state": lambda: rnn.last_state(X, RNN.U, RNN.W),
    "rnn every": lambda: rnn.predict(RNN, X, every_step=True),
    "rnn descend": lambda: rnn.descend(RNN, RNN, 0.1),
    "max_over_time": lambda: textconv.max_over_time(X, TEXT.U[0], lengths=LENGTHS),
    "text, dropped": lambda: textconv.loss(TEXT, X, Y, drop=0.3, key=KEY),
    "gated logit": lambda: gated.logit(X[:, 0], X[:, 1], *GATED),
    "dense layers": lambda: dense.layers(X[:, 0], *DENSE),
    "grad of softmax": lambda: jax.grad(heads.softmax, (0, 1, 2))(X, V, C, EACH),
    "grad of steps": lambda: jax.grad(rnn.loss)(RNN, X, EACH),
    "grad of states": lambda: jax.grad(lambda x: rnn.states(x, RNN.U, RNN.W).sum())(X),
    "grad of dropped": lambda: jax.grad(textconv.loss)(TEXT, X, Y, drop=0.3, key=KEY),
    "vjp": lambda: jax.vjp(rnn.last_state, X, RNN.U, RNN.W)[1](f(2, 4)),
    "value and grad": lambda: jax.value_and_grad(rnn.loss)(RNN, X, Y, LENGTHS, weights=WEIGHTS),
} | {
    f"{net.__name__} {name} {case}": call
    for case, (net, p, data, y) in enumerate(NETS)
    for name, call in {
        "forward": partial(net.forward, p, *data),
        "predict": partial(net.predict, p, *data),
        "reference": partial(net.reference, p, *data),
        "loss": partial(net.loss, p, data[0], *(data[1:] if net is gated else ()), y),
        "grad": partial(jax.grad(net.loss), p, data[0], *(data[1:] if net is gated else ()), y),
    }.items()
}  # fmt: skip


@pytest.fixture(scope="module")
def compilations():
    seen = []

    def listen(event, duration, **more):
        if event.endswith("backend_compile_duration"):
            seen.append(more.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_compiles_nothing(name, compilations):
    CALLS[name]()
    compilations.clear()
    CALLS[name]()
    assert not compilations


@pytest.mark.parametrize("init", [rnn.init, textconv.init, gated.init, dense.init])
def test_nor_does_init(init, compilations):
    sizes = {rnn.init: (3, 4, 2), gated.init: (3, 4, 5)}.get(init, ())
    one, another = jax.random.key(0), jax.random.key(1)
    init(one, *sizes)
    compilations.clear()
    init(another, *sizes)
    assert not compilations
