"""Gated net: both inputs, both paths into x."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from helpers import assert_close, tolerance
from jaxnets import gated

F64 = jnp.float64
KEY = jax.random.key(0)


RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.normal(size=shape)


def net(hidden=5):
    return jax.tree.map(lambda a: f(*a.shape), jax.eval_shape(partial(gated.init, x=3, eta=4, hidden=hidden), KEY))


def test_both_paths_into_x():
    """Without the product the path through r stays, without r the path through the product."""
    p = net()
    nets = p._replace(v=np.zeros(5)), p._replace(r=np.zeros(3)), p
    direct, product, both = jax.jit(lambda nets, *x: [jax.grad(gated.forward, 1)(p, *x) for p in nets])(
        nets, np.ones(3), np.ones(4)
    )
    assert_close(direct, p.r, tolerance(F64))
    assert_close(both, np.asarray(direct) + np.asarray(product), tolerance(F64))


def test_the_net_is_the_folded_matrix():
    """z_y = x W diag(v) Uᵀ ηᵀ + x·r + c."""
    p, x, eta = net(), f(6, 3), f(6, 4)
    folded = p.W @ np.diag(p.v) @ p.U.T
    assert_close(jax.jit(gated.forward)(p, x, eta), ((x @ folded) * eta).sum(1) + x @ p.r + p.c, tolerance(F64))


def test_the_formula():
    """Many rows, or a wide hidden vector: folded. Its exact border, and what the benchmarks take."""
    assert gated._folds(16384, 64, 64, 512)
    assert gated._folds(8192, 256, 256, 1024)
    assert not gated._folds(64, 256, 256, 256)
    assert not gated._folds(16384, 256, 256, 64)
    assert not gated._folds(6, 4, 4, 4)  # 384 + 384 multiplications, and 768: a tie stays in full
    assert gated._folds(7, 4, 4, 4)
    assert not gated._folds(5, 6, 7, 4)
    assert gated._folds(5, 2, 3, 4)


def test_both_forms_are_the_net():
    """The choice changes nothing but time and memory."""

    @jax.jit
    def both(bar, *args):
        def pulled(fold):
            z_y, back = jax.vjp(lambda *args: gated._logit(fold, *args), *args)
            return z_y, back(bar)

        return pulled(True), pulled(False)

    assert_close(*both(f(6), f(6, 3), f(6, 4), *net()), tolerance(F64))


def test_folded_nothing_is_as_wide_as_the_hidden_vector():
    """No array of the step has B and c for axes."""
    step = jax.make_jaxpr(jax.grad(gated.loss))(net(hidden=50), np.ones((60, 3)), np.ones((60, 4)), np.ones(60))
    assert "60,50" not in str(step)


def test_saturated_output_has_finite_gradients():
    x, eta, y = np.full((2, 3), 1e3), np.full((2, 4), 1e3), np.array([0, 1])

    @jax.jit
    def both(p, x, eta):
        return jax.value_and_grad(gated.loss)(p, x, eta, y), gated.predict(p, x, eta)

    (loss, grads), probabilities = both(net(), x, eta)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert set(np.asarray(probabilities).tolist()) <= {0.0, 1.0}


def test_float16_stands_sums_beyond_its_own_range():
    """In full as folded: z is 80,000, and every gradient within what float16 holds."""
    x, eta = np.full((2, 2), 200, np.float16), np.full((2, 2), 1e-3, np.float16)
    p = gated.Params(
        *(np.full(s, size, np.float16) for s, size in (((2, 3), 200), ((2, 3), 1e-3), (3, 1e-3), (2, 0))), None
    )

    @jax.jit
    def both():
        def pulled(fold):
            return jax.grad(lambda *args: gated._logit(fold, *args).sum(), range(6))(x, eta, *p[:4], None)

        return pulled(True), pulled(False)

    folded, full = both()
    assert all(np.isfinite(g).all() for g in folded)
    assert_close(full, folded, tolerance(jnp.float16))
