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


def test_saturated_output_has_finite_gradients():
    p = gated.init(KEY, x=3, eta=4, hidden=5, dtype=F64)
    x, eta, y = jnp.full((2, 3), 1e3), jnp.full((2, 4), 1e3), np.array([0, 1])
    loss, grads = jax.value_and_grad(gated.loss)(p, x, eta, y)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert set(np.asarray(gated.predict(p, x, eta)).tolist()) <= {0.0, 1.0}
