"""The operations inside modules of Flax and Equinox: the guide's layers, against those that they replace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import assert_close, tolerance
from test_guides import blocks

nnx = pytest.importorskip("flax.nnx", reason="Flax is in the extra `bench`")
eqx = pytest.importorskip("equinox", reason="Equinox is in the extra `bench`")
F32 = jnp.float32


@pytest.fixture
def layers():
    code = next(code for code, _ in blocks("jaxnets/README.md", "python") if "nnx.Module" in code)
    names = {}
    exec(code, names)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        yield names


def drawn(*shape):
    """By NumPy: JAX would compile a program a shape."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_in_an_nnx_module(layers):
    model = layers["Text"](embed=5, width=3, filters=4, rngs=nnx.Rngs(0))

    @nnx.jit
    def both(model, x):
        conv = nnx.Conv(5, 4, (3,), padding="VALID", rngs=nnx.Rngs(1))
        conv.kernel[...], conv.bias[...] = model.U[...], model.b[...]
        ours = nnx.value_and_grad(lambda m: jnp.sum(m(x) ** 2))(model)
        return ours, nnx.value_and_grad(lambda m: jnp.sum(jnp.tanh(m(x)).max(1) ** 2))(conv)

    ours, plain = both(model, drawn(2, 9, 5))
    assert_close(ours[0], plain[0], tolerance(F32))
    assert_close(ours[1]["U"][...], plain[1]["kernel"][...], tolerance(F32))
    assert_close(ours[1]["b"][...], plain[1]["bias"][...], tolerance(F32))


def test_in_an_equinox_module(layers):
    model = eqx.filter_jit(layers["States"])(inputs=3, hidden=4, key=jax.random.key(0))

    def plain(m, x):
        def step(h, x_t):
            h = jnp.tanh(x_t @ m.U + h @ m.W + m.b)
            return h, h

        return jnp.sum(jax.lax.scan(step, jnp.zeros((2, 4)), x.swapaxes(0, 1))[1] ** 2)

    @eqx.filter_jit
    def both(*args):
        ours = eqx.filter_value_and_grad(lambda m, x: jnp.sum(m(x) ** 2))
        return ours(*args), eqx.filter_value_and_grad(plain)(*args)

    assert_close(*both(model, drawn(2, 7, 3)), tolerance(F32))
