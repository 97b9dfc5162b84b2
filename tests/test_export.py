"""Loss and gradient of every net lower for every platform: what only a CPU has would be found here."""

from functools import cache, partial

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


@cache
def nets(dtype):
    """For each net a loss and the shapes and dtypes of its arguments."""

    def f(*shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    def i(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    def init(module, **sizes):
        return jax.eval_shape(partial(module.init, **sizes, dtype=dtype), KEY)

    text = init(textconv, embed=4, widths=(2, 3), filters=5, outputs=3, vocab=9)
    cell = init(rnn, inputs=4, hidden=5, outputs=3)
    return {
        "textconv, tokens": (textconv.loss, (text, i(6, 7), i(6), i(6))),
        "textconv, word vectors": (textconv.loss, (text._replace(E=None), f(6, 7, 4), i(6))),
        "rnn, last step": (rnn.loss, (cell, f(6, 7, 4), i(6), i(6), f(6, 5))),
        "rnn, every step": (lambda *a: rnn.loss(*a, truncate=3, save=2), (cell, i(6, 7), i(6, 7))),
        "gated": (gated.loss, (init(gated, x=3, eta=4, hidden=5), f(6, 3), f(6, 4), f(6))),
        "dense": (dense.loss, (init(dense, sizes=(3, 4, 5)), f(6, 3), i(6))),
    }


def drawn(shapes):
    """Numbers of those shapes: floats from 0 to 1, which serve as targets too; every class, token and length is 2."""
    rng = np.random.default_rng(0)

    def draw(a):
        return jax.device_put(np.full(a.shape, 2, a.dtype) if a.dtype == jnp.int32 else rng.random(a.shape, a.dtype))

    return jax.tree.map(draw, shapes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETS)
def test_lowers_everywhere(name, dtype):
    loss, shapes = nets(dtype)[name]
    exported = jax.export.export(jax.jit(jax.value_and_grad(loss)), platforms=PLATFORMS)(*shapes)
    assert exported.platforms == PLATFORMS


@pytest.mark.parametrize("name", NETS)
def test_what_was_exported_runs(name):
    loss, shapes = nets("float32")[name]
    f = jax.value_and_grad(loss)
    platform = jax.default_backend().replace("gpu", "cuda")
    exported = jax.export.export(jax.jit(f), platforms=(platform,))(*shapes)
    got, want = jax.jit(lambda *args: (exported.call(*args), f(*args)))(*drawn(shapes))
    assert_close(got, want, tolerance(jnp.float32))


@pytest.mark.skipif(jax.device_count() < 8, reason="there are fewer than eight devices here")
@pytest.mark.parametrize("name", NETS)
def test_training_over_eight_devices_lowers_everywhere(name):
    """Steps of `fit(mesh=…)`: a batch of six, so that shares are equal on none."""
    loss, shapes = nets("float32")[name]
    net, *data = drawn(shapes)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("batch",))
    named = dict(zip(("x", "y", "lengths", "h0") if name != "gated" else ("x", "eta", "y"), data, strict=False))
    run = runner(lambda p, **batch: loss(p, *(batch[k] for k in named)), optax.sgd(0.1), {}, mesh=mesh)
    order = _mesh.placed(_mesh.shares(np.zeros((2, 6), np.int32), mesh), mesh)
    args = *_mesh.replicated((start(net, optax.sgd(0.1), 0), named), mesh), order, 2
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exported = jax.export.export(run, platforms=PLATFORMS)(*args)
    assert exported.nr_devices == 8
    assert exported.platforms == PLATFORMS


# Sizes that are not known.


def symbolic(shapes, **letters):
    """The same shapes with symbols for some sizes: of the batch, and of the length where there is one."""
    names = {size: name for name, size in letters.items()}
    scope = jax.export.SymbolicScope()

    def of(a):
        sizes = ", ".join(names.get(n, str(n)) for n in a.shape)
        return jax.ShapeDtypeStruct(jax.export.symbolic_shape(sizes, scope=scope), a.dtype)

    return jax.tree.map(of, shapes)


def of_size(shapes, **letters):
    sizes = {6: letters["b"], 7: letters.get("t", 7)}
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct([sizes.get(n, n) for n in a.shape], a.dtype), shapes)


@pytest.mark.parametrize("name", NETS)
def test_one_program_for_any_size(name):
    """Loss and gradient, of a text shorter than the windows too."""
    loss, (params, *data) = nets("float32")[name]
    f = jax.value_and_grad(loss)
    exported = jax.export.export(jax.jit(f))(params, *symbolic(data, b=6, t=7))
    for b, t in ((6, 7), (2, 1)) if name not in ("gated", "dense") else ((6, 7), (2, 7)):
        args = drawn((params, *of_size(data, b=b, t=t)))
        if "tokens" in name or "last step" in name:  # lengths
            args = (*args[:3], jnp.minimum(args[3], t), *args[4:])
        assert_close(exported.call(*args), jax.jit(f)(*args), tolerance(jnp.float32))


def test_options_with_a_length_that_is_not_known():
    """Chunks cannot be counted then: one is made of all, and nothing else changes."""
    _, (params, x, y, lengths, h0) = nets("float32")["rnn, last step"]

    shapes = params, x, y, lengths, h0
    f = jax.jit(lambda *args: jax.value_and_grad(rnn.loss)(*args, truncate=3, save=2, weights=args[2] > 0))
    exported = jax.export.export(f)(params, *symbolic(shapes[1:], b=6, t=7))
    args = drawn(of_size(shapes, b=3, t=5))
    assert_close(exported.call(*args), f(*args), tolerance(jnp.float32))


def test_states_and_predictions_of_any_size():
    cell = nets("float32")["rnn, last step"][1][0]
    scope = jax.export.SymbolicScope()
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, t, 4", scope=scope), jnp.float32)
    f = jax.jit(lambda p, x: (rnn.predict(p, x, every_step=True), rnn.states(x, p.U, p.W), rnn.reference(p, x)))
    exported = jax.export.export(f)(cell, x)
    args = drawn((cell, jax.ShapeDtypeStruct((3, 9, 4), jnp.float32)))
    assert_close(exported.call(*args), f(*args), tolerance(jnp.float32))
