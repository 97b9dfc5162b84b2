"""Recurrent net: lengths, saturation, long sequences, truncation, what is kept and how much memory that takes."""

from functools import cache, partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import assert_close, assert_same, tolerance
from jaxnets import heads, rnn
from jaxnets._chunks import near_divisor

F64 = jnp.float64
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.normal(size=shape)


def net_shapes(inputs, hidden, outputs, dtype=F64):
    return jax.eval_shape(partial(rnn.init, inputs=inputs, hidden=hidden, outputs=outputs, dtype=dtype), KEY)


@cache
def net(inputs=3, hidden=4, outputs=2):
    """Weights in the shapes of `init`, biases drawn too, by NumPy: JAX would compile a program for each."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jax.device_put(rng.normal(size=a.shape) / 2), net_shapes(inputs, hidden, outputs))


def reference_loss(params, x, y, lengths=None, h0=None, **options):
    z = rnn.reference(params, x, lengths, h0, **options)
    return heads.reference_loss(z, jnp.asarray(y))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    T=st.integers(0, 11),
    B=st.integers(1, 3),
    save=st.one_of(st.sampled_from(["auto", "all"]), st.integers(1, 12)),
    truncate=st.one_of(st.none(), st.integers(1, 12)),
    every=st.booleans(),
    with_lengths=st.booleans(),
    cpu=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_plan_is_the_reference(T, B, save, truncate, every, with_lengths, cpu, seed):
    """Chunks that divide T or not, one step or all, several steps at a time as elsewhere than on a CPU; what is kept
    changes nothing but memory."""
    rng = np.random.default_rng(seed)
    x, h0 = rng.normal(size=(B, T, 2)), rng.normal(size=(B, 3))
    lengths = rng.integers(0, T + 1, B) if with_lengths else None
    bar = rng.normal(size=(B, T, 4) if every else (B, 4))

    def pulled(forward, lengths, bar, *args):
        z, back = jax.vjp(lambda p, x, h0: forward(p, x, lengths, h0, every, truncate, save), *args)
        return z, back(bar)

    @jax.jit
    def both(*args):
        return pulled(rnn.forward, *args), pulled(rnn.reference, *args)

    with mock.patch.object(rnn, "on_cpu", return_value=cpu):
        got, want = both(lengths, bar, net(inputs=2, hidden=3, outputs=4), x, h0)
    assert_close(got, want, tolerance(F64))


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("every", [True, False])
def test_what_lies_beyond_is_never_read(every, index):
    """NaN inputs, impossible ids and labels beyond the lengths change nothing; the gradient there is 0."""
    lengths = np.array([6, 0, 3, 1])
    beyond = np.arange(6) >= lengths[:, None]
    x = RNG.integers(0, 3, (4, 6)) if index else f(4, 6, 3)
    dirty = np.where(beyond, -99, x) if index else np.where(beyond[:, :, None], np.nan, x)
    y = RNG.integers(0, 2, (4, 6) if every else 4)
    dirty_y = np.where(beyond, -100, y) if every else y
    grad = jax.jit(jax.value_and_grad(rnn.loss, 0 if index else (0, 1)))
    clean = grad(net(), x, y, lengths)
    assert_same(grad(net(), dirty, dirty_y, lengths), clean)
    if not index:
        assert (np.asarray(clean[1][1])[beyond] == 0).all()

    # What is known outside is checked as it is without jit, but compiles as one program; one case runs without any.
    def known(params):
        return jax.value_and_grad(rnn.loss)(params, dirty, dirty_y, lengths)

    clean = clean if index else (clean[0], clean[1][0])
    assert_close(jax.jit(known)(net()), clean, tolerance(F64))
    if index and not every:
        assert_close(known(net()), clean, tolerance(F64))


@pytest.mark.parametrize("batch", [63, 64])
def test_a_batch_of_many_is_the_reference(batch):
    """From 64 rows on W is transposed at each step, below once for all of them."""
    params = rnn.init(KEY, inputs=2, hidden=3, outputs=2, dtype=F64)
    x, y = f(batch, 5, 2), RNG.integers(0, 2, batch)
    both = jax.jit(lambda p: (jax.grad(rnn.loss)(p, x, y), jax.grad(reference_loss)(p, x, y)))
    assert_close(*both(params), tolerance(F64))


@pytest.mark.parametrize("outputs", [1, 3])
def test_every_step_without_a_bias_is_the_reference(outputs):
    params = rnn.init(KEY, inputs=2, hidden=3, outputs=outputs, bias=False, dtype=F64)
    x, y = f(4, 5, 2), RNG.integers(0, max(outputs, 2), (4, 5))
    both = jax.jit(lambda p: (jax.grad(rnn.loss)(p, x, y), jax.grad(reference_loss)(p, x, y, every_step=True)))
    assert_close(*both(params), tolerance(F64))


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_a_mask_beside_lengths(rows):
    """A step is scored where both say so, each of them known or traced; what is hidden may be NaN."""
    x, lengths = f(rows, 5, 3), np.array([5, 3, 4, 2, 0])[:rows]
    inside, mask = np.arange(5) < lengths[:, None], (np.arange(5) + np.arange(rows)[:, None]) % 3 > 0
    y, weights = np.where(inside & mask, 1, np.nan), np.where(inside, np.linspace(0.5, 2, 5), np.nan)

    def loss(lengths, weights, y=y, reduction="mean"):
        return rnn.loss(net(outputs=1), x, y, lengths, weights=weights, reduction=reduction)

    each = np.asarray(loss(None, None, np.ones((rows, 5)), "none"))
    want = each[inside & mask].mean()
    for by in (loss, jax.jit(loss)):
        assert_close(by(lengths, mask), want, tolerance(F64))
    assert_close(jax.jit(lambda w: loss(lengths, w))(mask), want, tolerance(F64))
    assert_close(jax.jit(lambda n: loss(n, mask))(lengths), want, tolerance(F64))
    weighted = (each * weights)[inside].sum() / weights[inside].sum()
    assert_close(loss(lengths, weights, np.where(inside, 1, np.nan)), weighted, tolerance(F64))


def test_rows_of_a_batch_are_rows_alone():
    """A row of length L is a batch of one with L steps; of length 0 it is h0."""
    x, h0, lengths = f(4, 6, 3), f(4, 4), [6, 0, 3, 1]

    @jax.jit
    def together_and_alone(x, h0, lengths_of_rows, cell):
        def alone(operation):
            return [operation(x[i, :n], *cell, h0[i]) for i, n in enumerate(lengths)]

        operations = rnn.last_state, rnn.states
        return [op(x, *cell, h0, lengths_of_rows) for op in operations], [alone(op) for op in operations]

    (together, states), (last_alone, states_alone) = together_and_alone(x, h0, np.array(lengths), net()[:3])
    for i, n in enumerate(lengths):
        assert_close(together[i], last_alone[i], tolerance(F64))
        assert_close(states[i, :n], states_alone[i], tolerance(F64))
        assert (np.asarray(states)[i, n:] == 0).all()
    assert_same(np.asarray(together)[1], h0[1])


def test_states_beyond_a_length_pass_nothing_back():
    x, h0, lengths, bar = f(2, 5, 3), f(2, 4), np.array([2, 0]), f(2, 5, 4)
    pulled = jax.jit(lambda bar, *args: jax.vjp(lambda *a: rnn.states(*a, lengths=lengths), *args)[1](bar))
    inside = np.arange(5)[None, :, None] < lengths[:, None, None]
    clean = pulled(bar, x, *net()[:3], h0)
    assert_same(clean, pulled(np.where(inside, bar, np.nan), x, *net()[:3], h0))
    assert (np.asarray(clean[4])[1] == 0).all()


def test_truncation_keeps_what_enters_at_the_last_step():
    """n = T divides T, yet the loss at T comes through; h0 has its gradient at any n."""
    y = np.array([0, 1])

    @jax.jit
    def all_grads(params, x, h0):
        def grads(x=x, **options):
            return jax.grad(rnn.loss, (0, 1, 4))(params, x, y, None, h0, **options)

        return grads(truncate=6), grads(truncate=2**30), grads(), grads(truncate=1), grads(x[:, :1], truncate=1)

    at_the_end, beyond_it, full, explicit, of_one_step = jax.tree.map(np.asarray, all_grads(net(), f(2, 6, 3), f(2, 4)))
    assert_same(at_the_end, beyond_it)
    assert_close(at_the_end, full, tolerance(F64))
    assert (explicit[1][:, :-1] == 0).all()
    assert (explicit[1][:, -1] != 0).all()
    assert (explicit[2] == 0).all()
    assert (of_one_step[2] != 0).all()


def test_options_of_numpy():
    """Sizes that come out of NumPy serve as Python's do."""
    assert net_shapes(inputs=np.int64(3), hidden=np.int32(4), outputs=2) == net_shapes(3, 4, 2)
    x, y = f(2, 6, 3), np.array([0, 1])
    options = {"truncate": np.int64(2), "save": np.uint8(4)}, {"truncate": 2, "save": 4}
    got, want = jax.jit(lambda *args: [rnn.loss(*args, **chosen) for chosen in options])(net(), x, y)
    assert got == want


def test_truncation_never_changes_the_value():
    truncated, full = jax.jit(lambda *args: [rnn.forward(*args, truncate=n, every_step=True) for n in (2, None)])(
        net(), f(2, 6, 3)
    )
    assert_same(truncated, full)


def test_integer_inputs_are_one_hot_rows():
    ids, y = RNG.integers(0, 5, (3, 7)), np.array([0, 1, 2])
    grad = jax.value_and_grad(rnn.loss)
    got, want = jax.jit(lambda p, *inputs: [grad(p, x, y) for x in inputs])(net(5, 4, 3), ids, np.eye(5)[ids])
    assert_close(got, want, tolerance(F64))


def test_twenty_thousand_steps():
    """In time and memory of a chunk: gradients still agree with autodiff."""
    params = jax.jit(lambda key: rnn.init(key, inputs=1, hidden=4, outputs=2, dtype=F64))(KEY)
    losses = rnn.loss, reference_loss
    grads = jax.jit(lambda *args: [jax.value_and_grad(loss)(*args) for loss in losses])
    got, want = grads(params, 0.1 * f(1, 20_000, 1), np.array([1]))
    assert_close(got, want, tolerance(F64, terms=20_000))


def test_saturated_units_carry_nothing_back():
    x_bar = jax.jit(jax.grad(rnn.loss, 1))(net(), np.full((2, 5, 3), 1e4), np.array([0, 1]))
    assert (np.asarray(x_bar) == 0).all()


@pytest.mark.parametrize("every", [True, False])
def test_length_out_of_range_under_jit_is_nan(every):
    x, y = f(3, 6, 3), np.zeros((3, 6) if every else 3, int)
    losses = jax.jit(lambda lengths, params, x: rnn.loss(params, x, y, lengths, reduction="none"))
    for lengths in ([7, 3, 2], [-1, 3, 2]):
        found = np.asarray(losses(np.array(lengths), net(), x)).reshape(3, -1)
        assert np.isnan(found).any(1).tolist() == [True, False, False], lengths


@cache
def losses_and_gradients():
    """One program for every id."""

    def both(params, x):
        y = np.array([0, 1, 0])
        return rnn.loss(params, x, y, reduction="none"), jax.grad(rnn.loss)(params, x, y)

    return jax.jit(both)


@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1, 2**32, 2**32 + 1])
def test_id_out_of_range_under_jit_is_nan(bad):
    x = np.zeros((3, 6), np.int64)
    x[1, 2] = bad
    losses, grads = losses_and_gradients()(net(5), x)
    assert np.isnan(losses).tolist() == [False, True, False]
    assert all(np.isnan(g).any() for g in jax.tree.leaves(grads))


def test_no_steps_and_a_length_out_of_range():
    """Where no step is there to be NaN the loss is."""
    params = net(outputs=1)
    loss = jax.jit(lambda y, lengths: rnn.loss(params, np.ones((2, 0, 3)), y, lengths))
    assert np.isnan(loss(np.ones((2, 0)), np.array([0, 3])))
    assert loss(np.ones((2, 0)), np.array([0, 0])) == 0
    assert np.isnan(loss(np.ones(2), np.array([0, 3])))


def test_no_steps_without_jit():
    """Where JAX has no loop over none."""
    args = net(), np.ones((2, 0, 3)), np.array([0, 1]), None, np.ones((2, 4))
    grads = jax.value_and_grad(rnn.loss, (0, 4))
    want = jax.jit(grads)(*args)
    with jax.disable_jit():
        assert_close(grads(*args), want, tolerance(F64))
        assert rnn.reference(*args[:2]).shape == (2, 2)


def test_descend_is_plain_gradient_descent():
    grads = jax.tree.map(np.ones_like, net())

    def by_optax(params, grads):
        updates, _ = optax.sgd(0.25).update(grads, optax.sgd(0.25).init(params))
        return optax.apply_updates(params, updates)

    got, want = jax.jit(lambda *args: (rnn.descend(*args, 0.25), by_optax(*args)))(net(), grads)
    assert_close(got, want, tolerance(F64))
    half = jax.tree.map(lambda p: np.asarray(p, jnp.bfloat16), (net(), grads))
    assert jax.jit(partial(rnn.descend, alpha=jnp.bfloat16(0.25)))(*half).U.dtype == jnp.bfloat16


# What is kept, and what it costs.


def kept_shapes(save, out="last", head=None, lengths=None, T=12, B=3, D=2, H=5):
    """Shapes of everything that `_run_fwd` keeps beside its own inputs."""
    params = net_shapes(inputs=D, hidden=H, outputs=2)
    x, h0 = np.zeros((B, T, D)), np.zeros((B, H))
    plan = rnn._plan(T, B, H, 8, out, None, save)
    _, (*inputs, kept_head, states, kept) = jax.eval_shape(
        lambda *a: rnn._run_fwd(plan, *a), x, params.U, params.W, params.b, h0, lengths, head
    )
    assert [None if a is None else a.shape for a in inputs] == [(B, T, D), (D, H), (H, H), (H,), None]
    assert jax.tree.map(jnp.shape, kept_head) == jax.tree.map(jnp.shape, head)
    return [a.shape for a in jax.tree.leaves((states, kept))]


@pytest.mark.parametrize("out", ["last", "losses"])
def test_what_is_kept(out):
    """`all`: each state once, nothing shifted or doubled. An integer: the state that enters a chunk. Never logits."""
    head = (np.zeros((5, 2)), np.zeros(2), np.zeros((3, 12), int)) if out == "losses" else None
    assert kept_shapes("all", out, head) == [(3, 5), (12, 3, 5)]
    assert kept_shapes(4, out, head) == [(3, 3, 5)]
    assert kept_shapes(5, out, head) == [(2, 3, 5), (3, 5)]
    assert kept_shapes(100, out, head) == [(3, 5)]


def test_states_that_come_out_are_kept_as_they_come():
    assert kept_shapes("all", "states") == [(3, 12, 5), (3, 5)]
    assert kept_shapes(4, "states") == [(3, 3, 5)]


def test_plans():
    """The formula of `save="auto"`: states are computed again from half a GiB on."""

    def plan(T, B, H, save="auto", **head):
        return rnn._plan(T, B, H, 4, "losses" if head else "last", None, save, **head)[2:4]

    assert plan(1024, 32, 128, classes=10) == (64, True)
    assert plan(1024, 32, 128, classes=50_000) == (16, True)  # 512 rows of logits
    assert plan(1024, 2048, 128, classes=10) == (16, False)
    assert plan(28, 32, 128, classes=50_000) == (14, True)
    assert plan(28, 128, 128, classes=10) == (14, True)

    assert plan(784, 128, 128) == (16, True)
    assert plan(4096, 16, 128) == (128, True)
    assert plan(8192, 128, 128) == (16, True)  # half a GiB
    assert plan(8193, 128, 128)[1] is False
    assert plan(4096, 256, 256) == (32, False)
    assert plan(10**6, 16, 32) == (625, False)
    assert plan(256, 64, 256) == (8, True)
    assert plan(28, 128, 128) == (14, True)
    assert plan(100, 64, 1024) == (10, True)
    assert plan(784, 128, 128, "all") == (16, True)
    assert plan(0, 4, 8) == (1, True)
    assert plan(997, 128, 128) == (16, True)
    assert rnn._plan(784, 128, 128, 4, "last", None, "auto", cpu=False)[2:] == (196, True, 8)
    assert rnn._plan(28, 128, 128, 4, "last", None, "auto", cpu=False)[2:] == (28, True, 8)
    assert rnn._plan(10**6, 16, 128, 4, "last", None, "auto", cpu=False)[2:] == (625, False, 8)
    assert near_divisor(784, 20) == 16
    assert near_divisor(997, 32) == 32


@pytest.mark.parametrize("save", ["all", 8])
def test_logits_of_all_steps_never_exist(save):
    """Neither they nor their adjoints: the head of an every-step loss runs by the chunk."""
    params = net_shapes(inputs=2, hidden=5, outputs=11)
    x, y = np.zeros((64, 200, 2)), np.zeros((64, 200), int)
    step = str(jax.make_jaxpr(jax.grad(lambda p: rnn.loss(p, x, y, save=save)))(params))
    assert ",11]" in step
    assert not any(shape in step for shape in ("[64,200,11]", "[200,64,11]", "[12800,11]"))


def of_pixels():
    """A net, inputs and targets in the shapes of MNIST read pixel by pixel."""
    of = jax.ShapeDtypeStruct
    return net_shapes(1, 128, 10, jnp.float32), of((128, 784, 1), jnp.float32), of((128,), jnp.int32)


def temporaries(f, *args):
    return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.fixture
def on_a_cpu():
    with jax.default_device(jax.devices("cpu")[0]):
        yield


@pytest.mark.usefixtures("on_a_cpu")
def test_memory_of_a_long_sequence():
    """Each state once, and small change, where plain autodiff takes two or three; below 10 MB where one state in 28 is
    kept."""
    ours = temporaries(jax.grad(rnn.loss), *of_pixels())
    least = temporaries(jax.grad(partial(rnn.loss, save=28)), *of_pixels())
    plain = temporaries(jax.grad(reference_loss), *of_pixels())
    assert ours < 1.2 * 784 * 128 * 128 * 4
    assert ours < 0.6 * plain
    assert least < 10e6
    assert plain > 100e6


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.parametrize("save", ["all", 28])
def test_last_state_builds_no_adjoint_of_all_states(save):
    """`save="all"` takes one array of all states and small change; nothing else is as long."""
    all_states = 784 * 128 * 128 * 4
    limit = {"all": 1.2, 28: 0.2}[save]
    assert temporaries(lambda *a: jax.grad(rnn.loss)(*a, save=save), *of_pixels()) < limit * all_states
