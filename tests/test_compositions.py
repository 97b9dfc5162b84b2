"""The rules under every transformation: each answer equals the plain one."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cases import draw
from helpers import NUMERIC_TOLERANCE, assert_close, assert_same, normal_like, tolerance
from jaxnets import dense, gated, heads, rnn, textconv

F64 = jnp.float64
KEY = jax.random.key(1)

# Every operation and net once, and the recurrent net in each of its forms.
COMPOSED = [
    "heads.logistic",
    "heads.softmax, weighted mean",
    "textconv.max_over_time, lengths",
    "textconv.loss, tokens, softmax",
    "rnn.states, lengths",
    "rnn.states, one state in 3",
    "rnn.last_state, one state in 2",
    "rnn.loss, last step, softmax",
    "rnn.loss, every step, softmax",
    "gated.logit",
    "gated.logit, in full",
    "gated.loss",
    "dense.layers",
    "dense.loss, softmax",
]


def scalar(f, case, seed=3):
    """`args -> number`, curved in the outputs so that their second derivatives count."""
    bar = normal_like(np.random.default_rng(seed), jax.eval_shape(lambda a: f(case.fixed, **a), case.args))
    return lambda args: jnp.sum(jnp.sin(f(case.fixed, **args)) * bar)


def nets(dtype=F64):
    """Each net's loss as `loss(params, batch)`, over a batch of 6 that divides among devices."""
    rng = np.random.default_rng(5)

    def f(*shape):
        return jnp.asarray(rng.normal(size=shape)).astype(dtype)

    y, lengths = jnp.asarray(rng.integers(0, 3, 6)), jnp.array([5, 0, 3, 1, 5, 4])
    y_steps = jnp.asarray(rng.integers(0, 3, (6, 5)))
    text = {"embed": 4, "widths": (2, 3), "filters": 7, "outputs": 3, "dtype": dtype}
    cell = rnn.init(KEY, inputs=4, hidden=7, outputs=3, dtype=dtype)
    return {
        "textconv, tokens": (
            lambda p, b: textconv.loss(p, b[0], b[1], b[2]),
            textconv.init(KEY, **text, vocab=9),
            (jnp.asarray(rng.integers(0, 9, (6, 5))), y, lengths),
        ),
        "textconv, word vectors": (
            lambda p, b: textconv.loss(p, b[0], b[1]),
            textconv.init(KEY, **text),
            (f(6, 5, 4), y),
        ),
        "rnn, last step": (lambda p, b: rnn.loss(p, b[0], b[1]), cell, (f(6, 5, 4), y)),
        "rnn, every step": (
            lambda p, b: rnn.loss(p, b[0], b[1], save=2),
            cell,
            (jnp.asarray(rng.integers(0, 4, (6, 5))), y_steps),
        ),
        "rnn, lengths and h0": (
            lambda p, b: rnn.loss(p, b[0], b[1], b[2], b[3], save=3),
            cell,
            (f(6, 5, 4), y, lengths, f(6, 7)),
        ),
        "gated": (
            lambda p, b: gated.loss(p, b[0], b[1], b[2]),
            gated.init(KEY, x=4, eta=5, hidden=7, dtype=dtype),
            (f(6, 4), f(6, 5), y % 2),
        ),
        "dense": (
            lambda p, b: dense.loss(p, b[0], b[1]),
            dense.init(KEY, sizes=(4, 7, 3), dtype=dtype),
            (f(6, 4), y),
        ),
    }


NETS = ("textconv, tokens", "textconv, word vectors", "rnn, last step", "rnn, every step", "rnn, lengths and h0")
NETS += ("gated", "dense")
NETS_64 = functools.cache(nets)


@pytest.mark.parametrize("name", COMPOSED)
def test_grad_of_grad(name):
    case = draw(name, F64)
    direction = normal_like(np.random.default_rng(4), case.args)

    def second(f):
        def along(args):
            grads = jax.grad(scalar(f, case))(args)
            return sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True))

        return jax.jit(jax.grad(along))(case.args)

    assert_close(second(case.rule), second(case.reference), 10 * tolerance(F64))


def test_second_derivative_of_truncated():
    """It is the derivative of the truncated gradient, which is a function like any other."""
    case = draw("rnn.states, truncated to 3, one state in 2", F64)
    grad = jax.jit(jax.grad(scalar(case.rule, case)))
    direction = normal_like(np.random.default_rng(4), case.args)
    exact = jax.jit(lambda a, d: jax.jvp(grad, (a,), (d,))[1])(case.args, direction)

    def at(distance):
        return grad(jax.tree.map(lambda a, d: a + distance * d, case.args, direction))

    step = 5e-4
    four = [at(i * step) for i in (-2, -1, 1, 2)]
    slope = jax.tree.map(lambda a, b, c, d: (a - 8 * b + 8 * c - d) / (12 * step), *four)
    assert_close(exact, slope, NUMERIC_TOLERANCE)


@pytest.mark.parametrize("name", NETS)
def test_hessian(name):
    loss, params, batch = NETS_64()[name]
    room = {"textconv": textconv, "rnn": rnn, "gated": gated, "dense": dense}[name.split(",")[0]]

    def plain(params, batch):
        return {
            "textconv, tokens": lambda: heads.reference_loss(room.reference(params, batch[0], batch[2]), batch[1]),
            "rnn, every step": lambda: heads.reference_loss(
                room.reference(params, batch[0], every_step=True), batch[1]
            ),
            "rnn, lengths and h0": lambda: heads.reference_loss(room.reference(params, batch[0], *batch[2:]), batch[1]),
            "gated": lambda: heads.reference_loss(room.reference(params, *batch[:2]), batch[2]),
        }.get(name, lambda: heads.reference_loss(room.reference(params, batch[0]), batch[1]))()

    assert_close(
        jax.jit(jax.hessian(loss))(params, batch), jax.jit(jax.hessian(plain))(params, batch), 10 * tolerance(F64)
    )


@pytest.mark.parametrize("name", COMPOSED)
def test_checkpoint_and_tracer_leaks(name):
    case = draw(name, F64)
    f = scalar(case.rule, case)
    plain = jax.grad(f)(case.args)
    with jax.checking_leaks():
        remat = jax.jit(jax.grad(jax.checkpoint(f)))(case.args)
    assert_close(remat, plain, tolerance(F64))


@pytest.mark.parametrize("name", NETS)
def test_vmap_over_examples(name):
    """One example at a time without its batch axis, mapped, is the batch."""
    loss, params, batch = NETS_64()[name]
    grad = jax.value_and_grad(loss)
    each, grads = jax.jit(jax.vmap(grad, in_axes=(None, 0)))(params, batch)
    whole, whole_grads = jax.jit(grad)(params, batch)
    assert_close(each.mean(), whole, tolerance(F64))
    assert_close(jax.tree.map(lambda g: g.mean(0), grads), whole_grads, tolerance(F64))


@pytest.mark.parametrize("name", NETS)
def test_vmap_over_stacked_parameters(name):
    loss, params, batch = NETS_64()[name]
    many = [jax.tree.map(lambda p, i=i: p * (1 + 0.1 * i), params) for i in range(3)]
    stacked = jax.tree.map(lambda *p: jnp.stack(p), *many)
    mapped = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(0, None)))(stacked, batch)
    grad = jax.jit(jax.value_and_grad(loss))
    one_by_one = [grad(p, batch) for p in many]
    assert_close(mapped, jax.tree.map(lambda *a: jnp.stack(a), *one_by_one), tolerance(F64))


@pytest.mark.parametrize("name", NETS)
def test_inside_scan(name):
    """A training loop in one `lax.scan` walks where a Python loop walks."""
    loss, params, batch = NETS_64()[name]

    def step(params, _):
        value, grads = jax.value_and_grad(loss)(params, batch)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    scanned = jax.jit(lambda p: jax.lax.scan(step, p, length=3))(params)
    losses = []
    for _ in range(3):
        params, value = jax.jit(step)(params, None)
        losses.append(value)
    assert_close(scanned, (params, jnp.stack(losses)), tolerance(F64))


@pytest.mark.parametrize("place_grad", ["inside", "outside"])
@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_shard_map(name, check_vma, place_grad):
    """Parameters replicated, batch split over two devices: the sum over devices is there, and is there once."""
    loss, params, batch = NETS_64()[name]
    mesh = Mesh(np.array(jax.devices("cpu")[:2]), ("devices",))
    split = partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("devices")), out_specs=P(), check_vma=check_vma)

    def mean_loss(params, batch):
        return jax.lax.pmean(loss(params, batch), "devices")

    def inside(params, batch):
        if check_vma:  # a replicated parameter's gradient is summed by JAX
            value, grads = jax.value_and_grad(mean_loss)(params, batch)
            return value, grads
        value, grads = jax.value_and_grad(loss)(params, batch)
        return jax.lax.pmean((value, grads), "devices")

    if place_grad == "inside":
        value, grads = jax.jit(split(inside))(params, batch)
    else:
        value, grads = jax.jit(jax.value_and_grad(split(mean_loss)))(params, batch)
    whole, whole_grads = jax.jit(jax.value_and_grad(loss))(params, batch)
    assert_close(value, whole, tolerance(F64))
    assert_close(grads, whole_grads, tolerance(F64))


@pytest.mark.parametrize("name", NETS)
def test_x64_off(name):
    """A float32 net gives the same numbers whether or not JAX may use 64 bits."""
    loss, params, batch = nets(jnp.float32)[name]
    with_x64 = jax.jit(jax.value_and_grad(loss))(params, batch)
    with jax.enable_x64(False):
        loss, params, batch = nets(jnp.float32)[name]
        without = jax.jit(jax.value_and_grad(loss))(params, batch)
    assert_close(with_x64, without, tolerance(jnp.float32))
    assert [a.dtype for a in jax.tree.leaves(with_x64)] == [a.dtype for a in jax.tree.leaves(without)]


@pytest.mark.parametrize("name", NETS)
def test_loose_promotion(name):
    """Nothing leans on the strict settings that the tests run under."""
    loss, params, batch = nets(jnp.float32)[name]
    strict = jax.jit(jax.value_and_grad(loss))(params, batch)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert_same(jax.jit(jax.value_and_grad(loss))(params, batch), strict)
