"""Dense net: any number of layers, saturation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import assert_close, tolerance
from jaxnets import dense, heads

F64 = jnp.float64
KEY = jax.random.key(0)


def net(*sizes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: rng.normal(size=a.shape) / 2, jax.eval_shape(partial(dense.init, sizes=sizes), KEY))


@pytest.mark.parametrize("layers", [1, 2, 9])
def test_any_number_of_layers(layers):
    x, y = np.random.default_rng(0).normal(size=(5, 3)), np.array([0, 1, 1, 0, 1])
    params = net(3, *range(4, 3 + layers), 2)

    def plain(params, x, y):
        return heads.reference_loss(dense.reference(params, x), y)

    both = jax.jit(lambda *args: [jax.value_and_grad(loss)(*args) for loss in (dense.loss, plain)])
    got, want = both(params, x, y)
    assert_close(got, want, tolerance(F64))


def test_saturated_layers_pass_no_gradient():
    x_bar = jax.jit(jax.grad(dense.loss, 1))(net(3, 4, 2), np.full((2, 3), 1e6), np.array([0, 1]))
    assert (np.asarray(x_bar) == 0).all()


def test_lists_serve_as_tuples():
    W, b = [np.ones((3, 4)), np.ones((4, 2))], [np.ones(4), np.ones(2)]
    assert jax.eval_shape(dense.layers, np.ones((5, 3)), W, b).shape == (5, 2)
