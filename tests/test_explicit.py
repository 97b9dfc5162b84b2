"""Meshes of the explicit kind, as `jax.make_mesh` makes them: the outcome is that of one device, under jit or not."""

import re

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from helpers import assert_close, make_params, tolerance
from jaxnets import dense, gated, heads, rnn, textconv, train

KEY, F64 = jax.random.key(0), np.float64
RNG = np.random.default_rng(0)
B, T = 8, 5
X, WORDS, LENGTHS = RNG.normal(size=(B, T, 3)), RNG.integers(0, 6, (B, T)), RNG.integers(0, T + 1, B)
Y, EACH, WEIGHTS = RNG.integers(0, 2, B), RNG.integers(0, 4, (B, T)), RNG.random(B)


def net(init, **sizes):
    return make_params(RNG, jax.eval_shape(lambda: init(KEY, dtype=F64, **sizes)))


RNN, TEXT = net(rnn.init, inputs=3, hidden=4, outputs=4), net(textconv.init, embed=4, widths=(2, 3), filters=4, vocab=6)
GATED, DENSE = net(gated.init, x=3, eta=3, hidden=4), net(dense.init, sizes=(3, 4, 2))
# What is called, the parameters, the data; and how hidden units are split over devices.
CASES = {
    "rnn": (lambda p, x, y, n, w: rnn.loss(p, x, y, n, weights=w), RNN, (X, Y, LENGTHS, WEIGHTS)),
    "rnn, every step": (rnn.loss, RNN, (X, EACH, LENGTHS)),
    "rnn, ids": (lambda p, x, y: rnn.loss(p, x, y, truncate=2, reduction="none").sum(), RNN, (WORDS % 3, Y)),
    "textconv": (textconv.loss, TEXT, (WORDS, Y, LENGTHS)),
    "gated": (gated.loss, GATED, (X[:, 0], X[:, 1], Y)),
    "dense": (dense.loss, DENSE, (X[:, 0], Y)),
    "softmax": (lambda p, h, y: heads.softmax(h, *p, y), (RNN.V, RNN.c), (RNG.normal(size=(B, T, 4)), EACH)),
    "reference": (lambda p, x, y: heads.reference_loss(rnn.reference(p, x), y), RNN, (X, Y)),
}  # fmt: skip
SPLIT = {
    "rnn": rnn.Params(P(None, "hidden"), P(None, "hidden"), P("hidden"), P("hidden"), P()),
    "rnn, every step": rnn.Params(P(None, "hidden"), P(None, "hidden"), P("hidden"), P("hidden"), P()),
    "textconv": textconv.Params(P(), (P(None, None, "hidden"),) * 2, (P("hidden"),) * 2, P(), P()),
    "gated": gated.Params(P(None, "hidden"), P(None, "hidden"), P("hidden"), P(), P()),
    "dense": dense.Params((P(None, "hidden"), P("hidden")), (P("hidden"), P())),
}


def on_one(name):
    f, params, data = CASES[name]
    return jax.jit(jax.value_and_grad(f))(params, *data)


@pytest.mark.parametrize("name", CASES)
def test_examples_split_over_devices(name):
    f, params, data = CASES[name]
    with jax.set_mesh(jax.make_mesh((4,), ("batch",), devices=jax.devices()[:4])):
        given = [jax.device_put(a, P("batch")) for a in data]
        assert jax.typeof(given[0]).sharding.spec[0] == "batch"
        for called in (jax.jit(jax.value_and_grad(f)), jax.value_and_grad(f))[
            : 2 if name in ("rnn", "textconv") else 1
        ]:
            assert_close(called(params, *given), on_one(name), tolerance(F64))


@pytest.mark.parametrize("name", SPLIT)
def test_hidden_units_split_too(name):
    """Eight devices, in two rows: examples over the rows, hidden units along them. Gradients come as parameters are."""
    f, params, data = CASES[name]
    with jax.set_mesh(jax.make_mesh((2, 4), ("batch", "hidden"))):
        given = [jax.device_put(a, P("batch")) for a in data]
        placed = jax.tree.map(lambda a, over: jax.device_put(a, over), params, SPLIT[name])
        loss, grads = jax.jit(jax.value_and_grad(f))(placed, *given)
        assert_close((loss, grads), on_one(name), tolerance(F64))
        for a, over in zip(jax.tree.leaves(grads), jax.tree.leaves(placed), strict=True):
            assert jax.typeof(a).sharding.spec == jax.typeof(over).sharding.spec


def test_what_comes_out_is_split_as_what_went_in():
    with jax.set_mesh(jax.make_mesh((4,), ("batch",), devices=jax.devices()[:4])):
        x = jax.device_put(X, P("batch"))
        ids = jax.device_put(WORDS, P("batch"))
        for out in (
            rnn.predict(RNN, x),
            rnn.forward(RNN, x, every_step=True),
            rnn.states(x, RNN.U, RNN.W),
            textconv.predict(TEXT, ids),
            gated.predict(GATED, x[:, 0], x[:, 1]),
            dense.layers(x[:, 0], *DENSE),
            dense.loss(DENSE, x[:, 0], Y, reduction="none"),
        ):
            assert jax.typeof(out).sharding.spec[0] == "batch"
            assert set(jax.typeof(out).sharding.spec[1:]) <= {None}


@pytest.mark.parametrize("name", ["rnn", "dense"])
def test_sums_over_devices_are_those_of_an_automatic_mesh(name):
    """Of the compiled program: the same collectives, of the same sizes, as where the compiler alone splits."""
    f, params, data = CASES[name]

    def collectives(kind):
        mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,), devices=jax.devices()[:4])
        with jax.set_mesh(mesh):
            given = [jax.device_put(a, NamedSharding(mesh, P("batch"))) for a in data]
            whole = jax.device_put(params, NamedSharding(mesh, P()))
            text = jax.jit(jax.value_and_grad(f)).lower(whole, *given).compile().as_text()
        return sorted(re.findall(r"= (.*) (all-[a-z]+|collective-permute)\(", re.sub(r"\{[^}]*\}", "", text)))

    explicit = collectives(AxisType.Explicit)
    assert explicit
    assert explicit == collectives(AxisType.Auto)


def test_a_mesh_that_the_arrays_alone_bring():
    mesh = jax.make_mesh((4,), ("batch",), devices=jax.devices()[:4])
    f, params, data = CASES["rnn"]
    given = [jax.device_put(a, NamedSharding(mesh, P("batch"))) for a in data]
    assert_close(jax.jit(jax.value_and_grad(f))(params, *given), on_one("rnn"), tolerance(F64))


def test_training_within_a_mesh():
    loss, params, (x, y) = CASES["dense"]
    options = {"optimizer": optax.sgd(0.1), "epochs": 1, "batch": 4, "seed": 1}
    want = train.fit(loss, params, {"x": x, "y": y}, **options).params
    mesh = jax.make_mesh((2,), ("batch",), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        assert_close(train.fit(loss, params, {"x": x, "y": y}, mesh=mesh, **options).params, want, tolerance(F64))
