"""Gated net: both inputs, both paths into x."""

import jax
import jax.numpy as jnp
import numpy as np

from helpers import assert_close, tolerance
from jaxnets import gated

F64 = jnp.float64
KEY = jax.random.key(0)


def test_both_paths_into_x():
    """Without the product the path through r stays, without r the path through the product."""
    p = gated.init(KEY, x=3, eta=4, hidden=5, dtype=F64)
    x, eta = jnp.ones(3), jnp.ones(4)
    direct = jax.grad(gated.forward, 1)(p._replace(v=jnp.zeros(5)), x, eta)
    product = jax.grad(gated.forward, 1)(p._replace(r=jnp.zeros(3)), x, eta)
    assert_close(direct, p.r, tolerance(F64))
    assert_close(jax.grad(gated.forward, 1)(p, x, eta), direct + product, tolerance(F64))


def test_the_net_is_the_folded_matrix():
    """z_y = x W diag(v) Uᵀ ηᵀ + x·r + c."""
    p = gated.init(KEY, x=3, eta=4, hidden=5, dtype=F64)
    rng = np.random.default_rng(0)
    x, eta = jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.normal(size=(6, 4)))
    folded = p.W @ jnp.diag(p.v) @ p.U.T
    assert_close(gated.forward(p, x, eta), ((x @ folded) * eta).sum(1) + x @ p.r + p.c, tolerance(F64))


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
    p = gated.init(KEY, x=3, eta=4, hidden=5, dtype=F64)
    rng = np.random.default_rng(0)
    x, eta, bar = (jnp.asarray(rng.normal(size=shape)) for shape in ((6, 3), (6, 4), 6))

    def pulled(fold):
        z_y, back = jax.vjp(lambda *args: gated._logit(fold, *args), x, eta, *p)
        return z_y, back(bar)

    assert_close(pulled(True), pulled(False), tolerance(F64))


def test_folded_nothing_is_as_wide_as_the_hidden_vector():
    """No array of the step has B and c for axes."""
    p = gated.init(KEY, x=3, eta=4, hidden=50, dtype=F64)
    step = jax.make_jaxpr(jax.grad(gated.loss))(p, jnp.ones((60, 3)), jnp.ones((60, 4)), jnp.ones(60))
    assert "60,50" not in str(step)


def test_saturated_output_has_finite_gradients():
    p = gated.init(KEY, x=3, eta=4, hidden=5, dtype=F64)
    x, eta, y = jnp.full((2, 3), 1e3), jnp.full((2, 4), 1e3), np.array([0, 1])
    loss, grads = jax.value_and_grad(gated.loss)(p, x, eta, y)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert set(np.asarray(gated.predict(p, x, eta)).tolist()) <= {0.0, 1.0}
