"""What every net has in common: names, shapes, dtypes, the absent batch axis, weights and reductions of the loss."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import DTYPES, assert_close, tolerance
from jaxnets import dense, gated, rnn, textconv

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


def draw(net, outputs, dtype=F64):
    module, sizes, shapes = NETS[net]
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=shape)).astype(dtype) for shape in shapes]
    y = jnp.asarray(rng.integers(0, max(outputs, 2), 4))
    return module, module.init(KEY, **sizes(outputs), dtype=dtype), inputs, y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("net", "outputs"), OUTPUTS)
def test_shapes_and_dtypes(net, outputs, dtype):
    module, params, inputs, y = draw(net, outputs, DTYPES[dtype])
    shape = (4,) if outputs == 1 else (4, outputs)
    for function in (module.forward, module.reference, module.predict):
        out = function(params, *inputs)
        assert (out.shape, out.dtype) == (shape, dtype)
    loss = module.loss(params, *inputs, y)
    assert (loss.shape, loss.dtype) == ((), "float64" if dtype == "float64" else "float32")
    assert_close(module.forward(params, *inputs), module.reference(params, *inputs), tolerance(dtype))


@pytest.mark.parametrize(("net", "outputs"), OUTPUTS)
def test_predict_is_the_head_of_forward(net, outputs):
    module, params, inputs, y = draw(net, outputs)
    z, p = module.forward(params, *inputs), module.predict(params, *inputs)
    assert_close(p, jax.nn.sigmoid(z) if outputs == 1 else jax.nn.softmax(z, -1), tolerance(F64))
    of_target = jnp.where(y == 1, p, 1 - p) if outputs == 1 else p[jnp.arange(4), y]
    assert_close(module.loss(params, *inputs, y), -jnp.log(of_target).mean(), tolerance(F64))


@pytest.mark.parametrize(("net", "outputs"), OUTPUTS)
def test_batch_axis_may_be_absent(net, outputs):
    module, params, inputs, y = draw(net, outputs)
    for function in (module.forward, module.reference, module.predict):
        one_by_one = [function(params, *(x[i] for x in inputs)) for i in range(4)]
        assert_close(jnp.stack(one_by_one), function(params, *inputs), tolerance(F64))
    losses = [module.loss(params, *(x[i] for x in inputs), y[i]) for i in range(4)]
    assert_close(jnp.stack(losses).mean(), module.loss(params, *inputs, y), tolerance(F64))


@pytest.mark.parametrize(("net", "outputs"), OUTPUTS)
def test_weights_and_reductions(net, outputs):
    module, params, inputs, y = draw(net, outputs)
    each = module.loss(params, *inputs, y, reduction="none")
    assert each.shape == (4,)
    assert_close(module.loss(params, *inputs, y, reduction="sum"), each.sum(), tolerance(F64))
    mask, weights = jnp.array([True, False, True, True]), jnp.array([0.5, 0.0, 2.0, 1.5])
    assert_close(module.loss(params, *inputs, y, weights=mask), each[np.array([0, 2, 3])].mean(), tolerance(F64))
    assert_close(module.loss(params, *inputs, y, weights=weights), (each * weights).sum() / 4, tolerance(F64))


def test_options_of_a_sequence():
    """The shapes of every-step logits; `every_step` of the loss follows from the targets."""
    _, params, (x,), _ = draw("rnn", 6)
    y = jnp.zeros((4, 7), int)
    assert rnn.forward(params, x, every_step=True).shape == (4, 7, 6)
    assert rnn.predict(params, x[0], every_step=True).shape == (7, 6)
    assert rnn.loss(params, x, y, reduction="none").shape == (4, 7)
    assert rnn.loss(params, x[0], y[0], reduction="none").shape == (7,)
    assert rnn.loss(params, x, y) == rnn.loss(params, x, y, every_step=True)
    single = rnn.init(KEY, inputs=3, hidden=5, outputs=1, dtype=F64)
    assert rnn.forward(single, x, every_step=True).shape == (4, 7)
    assert rnn.loss(single, x, y, reduction="none").shape == (4, 7)
    mask = jnp.arange(7)[None] < jnp.array([3, 7, 0, 1])[:, None]
    both = rnn.loss(params, x, y, jnp.array([5, 3, 7, 1]), weights=mask)
    assert_close(both, rnn.loss(params, x, y, jnp.array([3, 3, 0, 1])), tolerance(F64))
    assert_close(rnn.loss(params, x, y, weights=mask), rnn.loss(params, x, y, jnp.array([3, 7, 0, 1])), tolerance(F64))


@pytest.mark.parametrize("outputs", [1, 6])
def test_no_steps_at_all(outputs):
    """A loss of every step over none is 0, and moves nothing."""
    _, params, (x,), _ = draw("rnn", outputs)
    y = jnp.zeros((4, 0), int)
    for reduction in ("mean", "sum"):
        value, grads = jax.value_and_grad(rnn.loss)(params, x[:, :0], y, reduction=reduction)
        assert value == 0
        assert all((g == 0).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("net", ["textconv", "rnn"])
def test_all_rows_padded(net):
    """Lengths of 0 all over: text is zero vectors; the last state is h0; no step is scored."""
    module, params, (x,), y = draw(net, 6)
    none = np.zeros(4, int)
    nothing = module.forward(params, jnp.zeros_like(x[:, :3]) if net == "textconv" else x[:, :0])
    assert_close(module.forward(params, x, none), nothing, tolerance(F64))
    grads = jax.grad(module.loss)(params, x, y, none)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    if net == "rnn":
        loss, grads = jax.value_and_grad(rnn.loss)(params, x, jnp.zeros((4, 7), int), none)
        assert loss == 0
        assert all((g == 0).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(("net", "tokens"), [*((net, False) for net in NETS), ("rnn", True), ("textconv", True)])
def test_arrays_of_numpy(net, tokens):
    """As they come from a file: `jax.grad`, not jitted, hands them to the rule as they are."""
    module, params, inputs, y = draw(net, 1)
    if tokens:
        inputs = [np.arange(28).reshape(4, 7) % 3]
        params = params if net == "rnn" else textconv.init(KEY, 4, (2,), 5, vocab=3, dtype=F64)
    gradients = jax.grad(module.loss, argnums=0 if tokens else (0, 1))
    as_numpy = jax.tree.map(np.asarray, (params, *inputs, y))
    assert_close(gradients(*as_numpy), gradients(params, *inputs, y), tolerance(F64))


def test_debugging_of_nan_stays_quiet():
    """`jax_debug_nans` finds nothing in clean data: no NaN is made and thrown away on the way."""
    with jax.debug_nans(True):
        for net in NETS:
            module, params, inputs, y = draw(net, 1)
            jax.jit(jax.grad(module.loss))(params, *inputs, y)
        _, params, (x,), y = draw("rnn", 6)
        jax.jit(jax.grad(rnn.loss))(params, x, y, jnp.array([0, 1, 7, 3]))


def test_import_asks_for_nothing_else():
    """JAX, NumPy and optax alone, and of these only what is used."""
    others = ("tyro", "rich", "matplotlib", "torch", "sklearn", "flax")
    code = f"import sys, jaxnets; print([m for m in {others} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
