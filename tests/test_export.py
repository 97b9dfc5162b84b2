"""Loss and gradient of every net lower for every platform: what only a CPU has would be found here."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import assert_close, tolerance
from jaxnets import dense, gated, rnn, textconv
from jaxnets.train import _mesh
from jaxnets.train._steps import runner, start

KEY = jax.random.key(0)
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


NETS = ("textconv, tokens", "textconv, word vectors", "rnn, last step", "rnn, every step", "gated", "dense")


def nets(dtype):
    def f(*shape):
        return jnp.zeros(shape, dtype)

    def i(*shape):
        return jnp.zeros(shape, jnp.int32)

    text = textconv.init(KEY, embed=4, widths=(2, 3), filters=5, outputs=3, vocab=9, dtype=dtype)
    cell = rnn.init(KEY, inputs=4, hidden=5, outputs=3, dtype=dtype)
    return {
        "textconv, tokens": (textconv.loss, (text, i(6, 7), i(6), i(6))),
        "textconv, word vectors": (textconv.loss, (text._replace(E=None), f(6, 7, 4), i(6))),
        "rnn, last step": (rnn.loss, (cell, f(6, 7, 4), i(6), i(6), f(6, 5))),
        "rnn, every step": (lambda *a: rnn.loss(*a, truncate=3, save=2), (cell, i(6, 7), i(6, 7))),
        "gated": (gated.loss, (gated.init(KEY, x=3, eta=4, hidden=5, dtype=dtype), f(6, 3), f(6, 4), f(6))),
        "dense": (dense.loss, (dense.init(KEY, sizes=(3, 4, 5), dtype=dtype), f(6, 3), i(6))),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETS)
def test_lowers_everywhere(name, dtype):
    loss, args = nets(jnp.dtype(dtype))[name]
    exported = jax.export.export(jax.jit(jax.value_and_grad(loss)), platforms=PLATFORMS)(*args)
    assert exported.platforms == PLATFORMS


@pytest.mark.parametrize("name", NETS)
def test_what_was_exported_runs(name):
    loss, args = nets(jnp.float32)[name]
    f = jax.jit(jax.value_and_grad(loss))
    platform = jax.default_backend().replace("gpu", "cuda")
    exported = jax.export.export(f, platforms=(platform,))(*args)
    value, grads = exported.call(*args)
    want, want_grads = f(*args)
    assert_close((value, grads), (want, want_grads), tolerance(jnp.float32))


@pytest.mark.skipif(jax.device_count() < 8, reason="there are fewer than eight devices here")
@pytest.mark.parametrize("name", NETS)
def test_training_over_eight_devices_lowers_everywhere(name):
    """Steps of `fit(mesh=…)`: a batch of six, so that shares are equal on none."""
    loss, (net, *data) = nets(jnp.float32)[name]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("batch",))
    named = dict(zip(("x", "y", "lengths", "h0") if name != "gated" else ("x", "eta", "y"), data, strict=False))
    run = runner(lambda p, **batch: loss(p, *(batch[k] for k in named)), optax.sgd(0.1), {}, False, mesh)
    order = _mesh.placed(_mesh.shares(np.zeros((2, 6), np.int32), mesh), mesh)
    args = *_mesh.replicated((start(net, optax.sgd(0.1), 0), named), mesh), order, 2
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exported = jax.export.export(run, platforms=PLATFORMS)(*args)
    assert exported.nr_devices == 8
    assert exported.platforms == PLATFORMS
