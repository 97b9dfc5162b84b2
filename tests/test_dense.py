"""Dense net: any number of layers, saturation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import assert_close, tolerance
from jaxnets import dense, heads

F64 = jnp.float64
KEY = jax.random.key(0)


@pytest.mark.parametrize("layers", [1, 2, 9])
def test_any_number_of_layers(layers):
    params = dense.init(KEY, sizes=(3, *range(4, 3 + layers), 2), dtype=F64)
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3))), np.array([0, 1, 1, 0, 1])
    got = jax.jit(jax.value_and_grad(dense.loss))(params, x, y)
    want = jax.jit(jax.value_and_grad(lambda p: heads.reference_loss(dense.reference(p, x), y)))(params)
    assert_close(got, want, tolerance(F64))


def test_saturated_layers_pass_no_gradient():
    params = dense.init(KEY, sizes=(3, 4, 2), dtype=F64)
    x_bar = jax.grad(dense.loss, 1)(params, jnp.full((2, 3), 1e6), np.array([0, 1]))
    assert (x_bar == 0).all()


def test_lists_serve_as_tuples():
    W = [jnp.ones((3, 4)), jnp.ones((4, 2))]
    assert dense.layers(jnp.ones((5, 3)), W, [jnp.ones(4), jnp.ones(2)]).shape == (5, 2)
