"""The rules under every transformation: each answer equals the plain one."""

import functools
import gc
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cases import draw
from helpers import NUMERIC_TOLERANCE, as_float64, assert_close, normal_like, tolerance
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
        return jax.device_put(rng.normal(size=shape).astype(dtype))

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
NETS_32 = functools.cache(
    lambda: jax.tree.map(lambda a: np.asarray(a) if isinstance(a, jax.Array) else a, nets(jnp.float32))
)


@functools.cache
def whole(name):
    """Value and gradient of a net's loss, compiled; and what they are for its batch."""
    loss, params, batch = NETS_64()[name]
    grad = jax.jit(jax.value_and_grad(loss))
    return grad, grad(params, batch)


@pytest.mark.parametrize("name", COMPOSED)
def test_grad_of_grad(name):
    case = draw(name, F64)
    direction = normal_like(np.random.default_rng(4), case.args)

    def second(f):
        def along(args):
            grads = jax.grad(scalar(f, case))(args)
            return sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True))

        return jax.grad(along)

    rule, reference = jax.jit(lambda a: (second(case.rule)(a), second(case.reference)(a)))(case.args)
    assert_close(rule, reference, 10 * tolerance(F64))


def test_second_derivative_of_truncated():
    """It is the derivative of the truncated gradient, which is a function like any other."""
    case = draw("rnn.states, truncated to 3, one state in 2", F64)
    grad = jax.jit(jax.grad(scalar(case.rule, case)))
    direction = normal_like(np.random.default_rng(4), case.args)
    exact = jax.jit(lambda a, d: jax.jvp(grad, (a,), (d,))[1])(case.args, direction)

    def at(distance):
        moved = grad(jax.tree.map(lambda a, d: np.asarray(a) + distance * np.asarray(d), case.args, direction))
        return as_float64(moved)

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

    got, want = jax.jit(lambda *args: (jax.hessian(loss)(*args), jax.hessian(plain)(*args)))(params, batch)
    assert_close(got, want, 10 * tolerance(F64))


@pytest.mark.parametrize("name", COMPOSED)
def test_checkpoint(name):
    case = draw(name, F64)
    f = scalar(case.rule, case)
    remat, plain = jax.jit(lambda args: (jax.grad(jax.checkpoint(f))(args), jax.grad(f)(args)))(case.args)
    assert_close(remat, plain, tolerance(F64))


@pytest.mark.parametrize("name", COMPOSED)
def test_no_tracer_leaks(name):
    """A leak happens while a program is traced; nothing need be compiled to see it."""
    case = draw(name, F64)
    f = jax.grad(jax.checkpoint(scalar(case.rule, case)))
    gc.collect()
    gc.freeze()  # it looks through every object there is, again and again: not those of the tests before
    with jax.checking_leaks():
        jax.make_jaxpr(f)(case.args)


@pytest.mark.parametrize("name", NETS)
def test_vmap_over_examples(name):
    """One example at a time without its batch axis, mapped, is the batch."""
    loss, params, batch = NETS_64()[name]
    each = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0)))(params, batch)
    assert_close(jax.tree.map(lambda a: np.asarray(a).mean(0), each), whole(name)[1], tolerance(F64))


@pytest.mark.parametrize("name", NETS)
def test_vmap_over_stacked_parameters(name):
    loss, params, batch = NETS_64()[name]
    many = [jax.tree.map(lambda p, i=i: np.asarray(p) * (1 + 0.1 * i), params) for i in range(3)]
    stacked = jax.tree.map(lambda *p: np.stack(p), *many)
    mapped = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(0, None)))(stacked, batch)
    one_by_one = [as_float64(whole(name)[0](p, batch)) for p in many]
    assert_close(mapped, jax.tree.map(lambda *a: np.stack(a), *one_by_one), tolerance(F64))


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
        value, grads = whole(name)[0](params, batch)
        params = jax.tree.map(lambda p, g: np.asarray(p) - 0.1 * np.asarray(g), params, grads)
        losses.append(np.asarray(value))
    assert_close(scanned, (params, np.stack(losses)), tolerance(F64))


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_shard_map(name, check_vma):
    """Parameters replicated, batch split over two devices: the sum over devices is there, and is there once, with the
    gradient taken inside and outside."""
    loss, params, batch = NETS_64()[name]
    mesh = Mesh(np.array(jax.devices("cpu")[:2]), ("devices",))
    split = partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("devices")), out_specs=P(), check_vma=check_vma)

    def mean_loss(params, batch):
        return jax.lax.pmean(loss(params, batch), "devices")

    def inside(params, batch):
        if check_vma:  # a replicated parameter's gradient is summed by JAX
            return jax.value_and_grad(mean_loss)(params, batch)
        return jax.lax.pmean(jax.value_and_grad(loss)(params, batch), "devices")

    both = jax.jit(
        lambda *args: {"inside": split(inside)(*args), "outside": jax.value_and_grad(split(mean_loss))(*args)}
    )
    want = whole(name)[1]
    assert_close(both(params, batch), {"inside": want, "outside": want}, tolerance(F64))


@pytest.mark.parametrize("name", NETS)
def test_x64_off(name):
    """A float32 net gives the same numbers whether or not JAX may use 64 bits."""
    loss, params, batch = NETS_32()[name]
    with_x64 = jax.jit(jax.value_and_grad(loss))(params, batch)
    with jax.enable_x64(False):
        without = jax.jit(jax.value_and_grad(loss))(params, batch)
    assert_close(with_x64, without, tolerance(jnp.float32))
    assert [a.dtype for a in jax.tree.leaves(with_x64)] == [a.dtype for a in jax.tree.leaves(without)]


@pytest.mark.parametrize("name", NETS)
def test_loose_promotion(name):
    """Nothing leans on the strict settings that the tests run under: the program is the same to the letter."""
    loss, params, batch = NETS_32()[name]

    def program():
        return str(jax.make_jaxpr(jax.value_and_grad(lambda p: loss(p, batch)))(params))

    strict = program()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert program() == strict
