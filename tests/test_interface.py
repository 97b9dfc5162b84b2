"""What every net has in common: names, shapes, dtypes, the absent batch axis, weights and reductions of the loss."""

import subprocess
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import DTYPES, assert_close, tolerance
from jaxnets import dense, gated, heads, rnn, textconv

KEY = jax.random.key(0)
F64 = jnp.float64

# net -> (its module, init's sizes for C outputs, inputs for a batch of 4)
NETS = {
    "textconv": (textconv, lambda C: {"embed": 3, "widths": (2, 3), "filters": 5, "outputs": C}, [(4, 7, 3)]),
    "rnn": (rnn, lambda C: {"inputs": 3, "hidden": 5, "outputs": C}, [(4, 7, 3)]),
    "gated": (gated, lambda C: {"x": 3, "eta": 5, "hidden": 6} if C == 1 else None, [(4, 3), (4, 5)]),
    "dense": (dense, lambda C: {"sizes": (3, 5, C)}, [(4, 3)]),
}
OUTPUTS = [(net, C) for net in NETS for C in (1, 2, 6) if (net, C) not in [("gated", 2), ("gated", 6)]]


@cache
def draw(net, outputs, dtype="float64"):
    """Weights in the shapes of `init`, inputs and targets, all by NumPy: JAX would compile a program for each."""
    module, sizes, shapes = NETS[net]
    rng = np.random.default_rng(0)

    def normal(shape):
        return jax.device_put((rng.normal(size=shape) / 2).astype(dtype))

    params = jax.tree.map(lambda a: normal(a.shape), jax.eval_shape(partial(module.init, **sizes(outputs)), KEY))
    inputs = [normal(shape) for shape in shapes]
    return module, params, inputs, rng.integers(0, max(outputs, 2), 4)


@pytest.mark.parametrize(("net", "outputs"), OUTPUTS)
def test_shapes_and_dtypes(net, outputs):
    module, *_, y = draw(net, outputs)
    drawn = {dtype: draw(net, outputs, dtype)[1:3] for dtype in DTYPES}
    shape = (4,) if outputs == 1 else (4, outputs)
    for dtype, (params, inputs) in drawn.items():
        for function in (module.forward, module.reference, module.predict):
            out = jax.eval_shape(function, params, *inputs)
            assert (out.shape, out.dtype) == (shape, dtype), (function, dtype)
        loss = jax.eval_shape(module.loss, params, *inputs, y)
        assert (loss.shape, loss.dtype) == ((), "float64" if dtype == "float64" else "float32"), dtype
    functions = module.forward, module.reference
    forward, reference = jax.jit(lambda drawn: [{d: f(p, *x) for d, (p, x) in drawn.items()} for f in functions])(drawn)
    for dtype in DTYPES:
        assert_close({dtype: forward[dtype]}, {dtype: reference[dtype]}, tolerance(dtype))


@pytest.mark.parametrize(("net", "outputs"), OUTPUTS)
def test_predict_is_the_head_of_forward(net, outputs):
    module, params, inputs, y = draw(net, outputs)

    @jax.jit
    def all_three(params, inputs, y):
        z, p = module.forward(params, *inputs), module.predict(params, *inputs)
        return z, p, module.loss(params, *inputs, y)

    z, p, loss = jax.tree.map(np.asarray, all_three(params, inputs, y))
    sigmoid, softmax = 1 / (1 + np.exp(-z)), np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    assert_close(p, sigmoid if outputs == 1 else softmax, tolerance(F64))
    of_target = np.where(y == 1, p, 1 - p) if outputs == 1 else p[np.arange(4), y]
    assert_close(loss, -np.log(of_target).mean(), tolerance(F64))


@pytest.mark.parametrize(("net", "outputs"), OUTPUTS)
def test_batch_axis_may_be_absent(net, outputs):
    module, params, inputs, y = draw(net, outputs)
    functions = module.forward, module.reference, module.predict

    @jax.jit
    def both_ways(params, inputs, y):
        """In a loop over rows, which none of them sees."""
        one_by_one = jax.lax.map(lambda row: [f(params, *row) for f in functions], inputs)
        losses = jax.lax.map(lambda row: module.loss(params, *row[0], row[1]), (inputs, y))
        return (one_by_one, losses), ([f(params, *inputs) for f in functions], module.loss(params, *inputs, y))

    (one_by_one, losses), (together, loss) = both_ways(params, inputs, y)
    assert_close(one_by_one, together, tolerance(F64))
    assert_close(np.asarray(losses).mean(), loss, tolerance(F64))


@pytest.mark.parametrize(("net", "outputs"), OUTPUTS)
def test_weights_and_reductions(net, outputs):
    module, params, inputs, y = draw(net, outputs)
    mask, weights = np.array([True, False, True, True]), np.array([0.5, 0.0, 2.0, 1.5])
    options = {"none": {"reduction": "none"}, "sum": {"reduction": "sum"}}

    @jax.jit
    def reduced(params, inputs, y, mask, weights):
        with_weights = {"masked": {"weights": mask}, "weighted": {"weights": weights}}
        return {name: module.loss(params, *inputs, y, **chosen) for name, chosen in (options | with_weights).items()}

    got = jax.tree.map(np.asarray, reduced(params, inputs, y, mask, weights))
    each = got["none"]
    assert each.shape == (4,)
    want = {"none": each, "sum": each.sum(), "masked": each[mask].mean(), "weighted": (each * weights).sum() / 4}
    assert_close(got, want, tolerance(F64))


def test_options_of_a_sequence():
    """The shapes of every-step logits; `every_step` of the loss follows from the targets."""
    _, params, (x,), _ = draw("rnn", 6)
    _, single, *_ = draw("rnn", 1)
    y = np.zeros((4, 7), int)

    def shape(function, *args, **options):
        return jax.eval_shape(partial(function, **options), *args).shape

    assert shape(rnn.forward, params, x, every_step=True) == (4, 7, 6)
    assert shape(rnn.predict, params, x[0], every_step=True) == (7, 6)
    assert shape(rnn.loss, params, x, y, reduction="none") == (4, 7)
    assert shape(rnn.loss, params, x[0], y[0], reduction="none") == (7,)
    assert shape(rnn.forward, single, x, every_step=True) == (4, 7)
    assert shape(rnn.loss, single, x, y, reduction="none") == (4, 7)

    mask = np.arange(7)[None] < np.array([3, 7, 0, 1])[:, None]

    @jax.jit
    def losses(params, x):
        loss = partial(rnn.loss, params, x, y)
        followed = loss(), loss(every_step=True)
        both = loss(np.array([5, 3, 7, 1]), weights=mask), loss(np.array([3, 3, 0, 1]))
        return followed, both, (loss(weights=mask), loss(np.array([3, 7, 0, 1])))

    (followed, told), (both, shorter), (masked, of_lengths) = losses(params, x)
    assert followed == told
    assert_close(both, shorter, tolerance(F64))
    assert_close(masked, of_lengths, tolerance(F64))


@pytest.mark.parametrize("outputs", [1, 6])
def test_no_steps_at_all(outputs):
    """A loss of every step over none is 0, and moves nothing."""
    _, params, (x,), _ = draw("rnn", outputs)
    y = np.zeros((4, 0), int)
    grads = [jax.value_and_grad(partial(rnn.loss, reduction=reduction)) for reduction in ("mean", "sum")]
    for value, moved in jax.jit(lambda *args: [grad(*args) for grad in grads])(params, np.asarray(x)[:, :0], y):
        assert value == 0
        assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(moved))


@pytest.mark.parametrize("net", ["textconv", "rnn"])
def test_all_rows_padded(net):
    """Lengths of 0 all over: text is zero vectors; the last state is h0; no step is scored."""
    module, params, (x,), y = draw(net, 6)
    short = np.zeros((4, 3, 3)) if net == "textconv" else np.zeros((4, 0, 3))

    @jax.jit
    def padded(params, x, y, short, none):
        steps = jnp.zeros((4, 7), int)
        every = jax.value_and_grad(rnn.loss)(params, x, steps, none) if net == "rnn" else None
        logits = module.forward(params, x, none), module.forward(params, short)
        return logits, jax.grad(module.loss)(params, x, y, none), every

    (got, nothing), grads, every = padded(params, x, y, short, np.zeros(4, int))
    assert_close(got, nothing, tolerance(F64))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    if net == "rnn":
        loss, moved = every
        assert loss == 0
        assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(moved))


@pytest.mark.parametrize(("net", "tokens"), [*((net, False) for net in NETS), ("rnn", True), ("textconv", True)])
def test_arrays_of_numpy(net, tokens):
    """As they come from a file: `jax.grad` hands those that jit was not given to the rule as they are."""
    module, params, inputs, y = draw(net, 1)
    if tokens:
        inputs = [np.arange(28).reshape(4, 7) % 3]
        params = params if net == "rnn" else params._replace(E=np.arange(9.0).reshape(3, 3) / 8)
    gradients = jax.grad(module.loss, argnums=0 if tokens else (0, 1))
    as_numpy = jax.tree.map(np.asarray, (params, *inputs, y))
    got, want = jax.jit(lambda *args: (gradients(*as_numpy), gradients(*args)))(*as_numpy)
    assert_close(got, want, tolerance(F64))
    if net == "dense":  # the smallest: without jit too, where every operation is a program to compile
        assert_close(gradients(*as_numpy), want, tolerance(F64))


def test_debugging_of_nan_stays_quiet():
    """`jax_debug_nans` finds nothing in clean data: no NaN is made and thrown away on the way."""
    with jax.debug_nans(True):
        for net in NETS:
            module, params, inputs, y = draw(net, 1)
            jax.jit(jax.grad(module.loss))(params, *inputs, y)
        _, params, (x,), y = draw("rnn", 6)
        jax.jit(jax.grad(rnn.loss))(params, x, y, np.array([0, 1, 7, 3]))


def test_debugging_of_nan_without_jit():
    """As `jax_debug_nans` itself runs a program that held a NaN, to find it: nothing else stops it on the way."""
    with jax.disable_jit(), jax.debug_nans(True):
        for head, V in ((heads.logistic, np.ones(3)), (heads.softmax, np.ones((3, 2)))):
            jax.grad(head)(np.ones((2, 3)), V, None, np.array([0, 1]))
        rnn.last_state(np.ones((2, 1, 3)), np.ones((3, 4)), np.ones((4, 4)), lengths=np.array([0, 1]))
        textconv.max_over_time(np.ones((2, 4, 3)), np.ones((2, 3, 5)), lengths=np.array([0, 4]))


def test_import_asks_for_nothing_else():
    """JAX, NumPy and optax alone, and of these only what is used."""
    others = ("tyro", "rich", "matplotlib", "torch", "sklearn", "flax")
    code = f"import sys, jaxnets; print([m for m in {others} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
