"""Initial weights: shapes, dtypes, scale, a pure function of the key, the same numbers everywhere; and they train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import DTYPES, assert_close, assert_same, tolerance
from jaxnets import dense, gated, rnn, textconv

KEY = jax.random.key(0)

# Draws of few shapes, so that nets and tests share what JAX compiles where there is no jit: a program a draw.
SMALL = {
    "textconv": (textconv.init, {"embed": 2, "widths": (2, 2), "filters": 1, "outputs": 2, "vocab": 2}),
    "rnn": (rnn.init, {"inputs": 2, "hidden": 2, "outputs": 2}),
    "gated": (gated.init, {"x": 2, "eta": 2, "hidden": 2}),
    "dense": (dense.init, {"sizes": (2, 2, 2)}),
}


def types(params):
    return jax.tree.map(lambda a: (a.shape, a.dtype.name), params)


@pytest.mark.parametrize("net", SMALL)
def test_dtype_and_purity(net):
    init, sizes = SMALL[net]
    jitted = jax.jit(lambda key: {dtype: init(key, **sizes, dtype=dtype) for dtype in DTYPES})(KEY)
    for dtype in DTYPES:
        params = init(KEY, **sizes, dtype=dtype)
        assert {p.dtype.name for p in jax.tree.leaves(params)} == {dtype}
        assert_same({dtype: init(KEY, **sizes, dtype=dtype)}, {dtype: params})
        assert types(jitted[dtype]) == types(params)
        assert_close({dtype: jitted[dtype]}, {dtype: params}, 0.1 * tolerance(dtype))


@pytest.mark.parametrize("net", SMALL)
def test_float32_is_the_default_and_halves_are_its_rounding(net):
    init, sizes = SMALL[net]
    params = init(KEY, **sizes)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    with jax.enable_x64(False):
        assert_same(init(KEY, **sizes), params)
    for half in ("bfloat16", "float16"):
        rounded = jax.tree.map(lambda p, half=half: np.asarray(p, DTYPES[half]), params)
        assert_same({half: init(KEY, **sizes, dtype=half)}, {half: rounded})
    assert_same(init(jax.random.PRNGKey(0), **sizes), params)


@pytest.mark.parametrize("net", SMALL)
def test_without_bias(net):
    init, sizes = SMALL[net]
    params = init(KEY, **sizes, bias=False)
    assert params.c is None if net == "gated" else params.b is None
    with_bias = jax.tree.map(np.asarray, init(KEY, **sizes))
    assert len(jax.tree.leaves(params)) < len(jax.tree.leaves(with_bias))
    assert all((b == 0).all() for name in ("b", "c") for b in jax.tree.leaves(getattr(with_bias, name, None)))


def test_fields():
    def shapes(init, **sizes):
        return jax.eval_shape(lambda key: init(key, **sizes), KEY)

    p = shapes(textconv.init, embed=4, widths=(2, 3), filters=5, outputs=3, vocab=7)
    assert (p.E.shape, [u.shape for u in p.U], [b.shape for b in p.b]) == ((7, 4), [(2, 4, 5), (3, 4, 5)], [(5,), (5,)])
    assert (p.V.shape, p.c.shape) == ((10, 3), (3,))
    p = shapes(textconv.init, bias=False)
    assert (p.E, p.b, p.c, p.U[0].shape, p.V.shape) == (None, None, None, (3, 300, 100), (100,))
    p = shapes(rnn.init, inputs=3, hidden=4, outputs=1)
    assert [a.shape for a in p] == [(3, 4), (4, 4), (4,), (4,), ()]
    p = shapes(gated.init, x=2, eta=3, hidden=4)
    assert [a.shape for a in p] == [(2, 4), (3, 4), (4,), (2,), ()]
    p = shapes(dense.init)
    assert [a.shape for a in p.W] == [(784, 128), (128, 10)]


def test_scale():
    @jax.jit
    def large(key):
        return (
            rnn.init(key, inputs=400, hidden=300, outputs=10, dtype=jnp.float64),
            dense.init(key, sizes=(400, 300, 200)),
            gated.init(key, x=400, eta=300, hidden=500),
            textconv.init(key, vocab=50),
        )

    cell, net, product, text = jax.tree.map(np.asarray, large(KEY))
    np.testing.assert_allclose(cell.W @ cell.W.T, np.eye(300), atol=1e-12)
    np.testing.assert_allclose([cell.U.std() * 20, cell.V.std() * 300**0.5], 1, rtol=0.05)
    np.testing.assert_allclose([net.W[0].std() * 20, net.W[1].std() * 300**0.5], 1, rtol=0.05)
    found = [product.W.std() * 20, product.U.std() * 300**0.5, product.v.std() * 500**0.5]
    np.testing.assert_allclose(found, 1, rtol=0.1)
    np.testing.assert_allclose([text.U[0].std() * 30, text.E.std() * 48**0.5], 1, rtol=0.05)


def test_orthogonal_has_no_preferred_sign():
    """The determinant is ±1 about equally often, as among all orthogonal matrices."""

    @jax.jit
    def drawn(key):
        return jax.vmap(lambda key: rnn.init(key, inputs=1, hidden=3, outputs=1).W)(jax.random.split(key, 400))

    W = np.asarray(drawn(KEY))
    assert 150 < (np.linalg.det(W) > 0).sum() < 250
    np.testing.assert_allclose(W.mean(0), 0, atol=0.1)


NETS = {
    "textconv": (textconv.init, {"embed": 12, "widths": (2, 3), "filters": 6, "outputs": 3, "vocab": 8}),
    "rnn": (rnn.init, {"inputs": 7, "hidden": 16, "outputs": 3}),
    "gated": (gated.init, {"x": 5, "eta": 7, "hidden": 6}),
    "dense": (dense.init, {"sizes": (5, 8, 3)}),
}
# Each leaf of the nets of key 0 in one number, as first computed: what a key gives must not change.
FINGERPRINTS = {
    "textconv": [-1.09283, 2.67489, -0.16323, 0.0, 0.0, -3.45997, 0.0],
    "rnn": [-4.7685, -0.34437, 0.0, 1.20409, 0.0],
    "gated": [2.59568, -4.12425, 1.10992, 0.60921, 0.0],
    "dense": [0.77863, -3.95668, 0.0, 0.0],
}


@pytest.mark.parametrize("net", NETS)
def test_same_numbers_everywhere(net):
    init, sizes = NETS[net]
    params = jax.jit(lambda key: init(key, **sizes))(KEY)
    leaves = [np.asarray(p, np.float64).ravel() for p in jax.tree.leaves(params)]
    np.testing.assert_allclose([p @ np.cos(np.arange(p.size)) for p in leaves], FINGERPRINTS[net], atol=2e-5)


def descent(loss, params, batch, rate, steps=60):
    """Losses before and after plain gradient descent."""

    def step(p, _):
        value, grads = jax.value_and_grad(loss)(p, *batch)
        return jax.tree.map(lambda a, g: a - rate * g, p, grads), value

    _, losses = jax.lax.scan(step, params, length=steps)
    return losses[0], losses[-1]


def test_they_train():
    """From its initial weights each net learns its own rule: which word occurs, the sign of the first input, …"""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 20, (64, 9))
    x, eta = rng.normal(size=(64, 12, 5)).astype(np.float32), rng.normal(size=(64, 4)).astype(np.float32)
    first, product = (x[:, 0, 0] > 0).astype(int), (x[:, 0, 0] * eta[:, 0] > 0).astype(int)
    batches = {
        "textconv": (tokens, (tokens == 3).any(1)),
        "rnn": (x, first),
        "gated": (x[:, 0], eta, product),
        "dense": (x[:, 0], first),
    }

    @jax.jit
    def descents(key, batches):
        nets = {
            "textconv": (textconv.loss, textconv.init(key, embed=8, filters=9, vocab=20), 2.0),
            "rnn": (rnn.loss, rnn.init(key, inputs=5, hidden=32, outputs=2), 0.5),
            "gated": (gated.loss, gated.init(key, x=5, eta=4, hidden=16), 0.3),
            "dense": (dense.loss, dense.init(key, sizes=(5, 16, 2)), 0.5),
        }
        return {net: descent(loss, params, batches[net], rate) for net, (loss, params, rate) in nets.items()}

    for net, (before, after) in descents(KEY, batches).items():
        assert after < 0.5 * before, f"{net}: {before} -> {after}"
