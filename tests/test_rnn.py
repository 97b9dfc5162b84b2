"""Recurrent net: lengths, saturation, long sequences, truncation, what is kept and how much memory that takes."""

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
    return jnp.asarray(RNG.normal(size=shape))


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
    params = rnn.init(KEY, inputs=2, hidden=3, outputs=4, dtype=F64)
    x, h0 = jnp.asarray(rng.normal(size=(B, T, 2))), jnp.asarray(rng.normal(size=(B, 3)))
    lengths = jnp.asarray(rng.integers(0, T + 1, B)) if with_lengths else None
    bar = jnp.asarray(rng.normal(size=(B, T, 4) if every else (B, 4)))

    def pulled(forward):
        def both(*args):
            z, back = jax.vjp(lambda p, x, h0: forward(p, x, lengths, h0, every, truncate, save), *args)
            return z, back(bar)

        return jax.jit(both)(params, x, h0)

    with mock.patch.object(rnn, "on_cpu", return_value=cpu):
        got = pulled(rnn.forward)
    assert_close(got, pulled(rnn.reference), tolerance(F64))


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("every", [True, False])
def test_what_lies_beyond_is_never_read(every, index):
    """NaN inputs, impossible ids and labels beyond the lengths change nothing; the gradient there is 0."""
    params = rnn.init(KEY, inputs=3, hidden=4, outputs=2, dtype=F64)
    lengths = np.array([6, 0, 3, 1])
    beyond = jnp.arange(6)[None] >= jnp.asarray(lengths)[:, None]
    x = jnp.asarray(RNG.integers(0, 3, (4, 6))) if index else f(4, 6, 3)
    dirty = jnp.where(beyond, -99, x) if index else jnp.where(beyond[:, :, None], jnp.nan, x)
    y = jnp.asarray(RNG.integers(0, 2, (4, 6) if every else (4,)))
    dirty_y = jnp.where(beyond, -100, y) if every else y
    argnums = 0 if index else (0, 1)
    grad = jax.value_and_grad(rnn.loss, argnums)
    clean = grad(params, x, y, lengths)
    assert_same(grad(params, dirty, dirty_y, lengths), clean)
    assert_close(jax.jit(grad)(params, dirty, dirty_y, lengths), clean, tolerance(F64))
    if not index:
        assert (jnp.where(beyond[:, :, None], clean[1][1], 0) == 0).all()


def test_rows_of_a_batch_are_rows_alone():
    """A row of length L is a batch of one with L steps; of length 0 it is h0."""
    params = rnn.init(KEY, inputs=3, hidden=4, outputs=2, dtype=F64)
    x, h0, lengths = f(4, 6, 3), f(4, 4), [6, 0, 3, 1]
    together = rnn.last_state(x, params.U, params.W, params.b, h0, np.array(lengths))
    states = rnn.states(x, params.U, params.W, params.b, h0, np.array(lengths))
    for i, n in enumerate(lengths):
        alone = rnn.last_state(x[i, :n], params.U, params.W, params.b, h0[i])
        assert_close(together[i], alone, tolerance(F64))
        assert_close(states[i, :n], rnn.states(x[i, :n], params.U, params.W, params.b, h0[i]), tolerance(F64))
        assert (states[i, n:] == 0).all()
    assert_same(together[1], h0[1])


def test_states_beyond_a_length_pass_nothing_back():
    params = rnn.init(KEY, inputs=3, hidden=4, outputs=2, dtype=F64)
    x, lengths = f(2, 5, 3), np.array([2, 0])
    _, back = jax.vjp(lambda *a: rnn.states(*a, lengths=lengths), x, params.U, params.W, params.b, f(2, 4))
    bar = f(2, 5, 4)
    inside = jnp.arange(5)[None, :, None] < jnp.asarray(lengths)[:, None, None]
    assert_same(back(bar), back(jnp.where(inside, bar, jnp.nan)))
    assert (back(bar)[4][1] == 0).all()


def test_truncation_keeps_what_enters_at_the_last_step():
    """n = T divides T, yet the loss at T comes through; h0 has its gradient at any n."""
    params = rnn.init(KEY, inputs=3, hidden=4, outputs=2, dtype=F64)
    x, y, h0 = f(2, 6, 3), np.array([0, 1]), f(2, 4)

    def grads(**options):
        return jax.grad(rnn.loss, (0, 1, 4))(params, x, y, None, h0, **options)

    assert_same(grads(truncate=6), grads(truncate=2**30))
    assert_close(grads(truncate=6), grads(), tolerance(F64))
    explicit = grads(truncate=1)
    assert (explicit[1][:, :-1] == 0).all()
    assert (explicit[1][:, -1] != 0).all()
    assert (explicit[2] == 0).all()
    assert (jax.grad(rnn.loss, 4)(params, x[:, :1], y, None, h0, truncate=1) != 0).all()


def test_options_of_numpy():
    """Sizes that come out of NumPy serve as Python's do."""
    params = rnn.init(KEY, inputs=np.int64(3), hidden=np.int32(4), outputs=2, dtype=F64)
    x, y = f(2, 6, 3), np.array([0, 1])
    got = rnn.loss(params, x, y, truncate=np.int64(2), save=np.uint8(4))
    assert got == rnn.loss(params, x, y, truncate=2, save=4)


def test_truncation_never_changes_the_value():
    params = rnn.init(KEY, inputs=3, hidden=4, outputs=2, dtype=F64)
    x = f(2, 6, 3)
    assert_same(rnn.forward(params, x, truncate=2, every_step=True), rnn.forward(params, x, every_step=True))


def test_integer_inputs_are_one_hot_rows():
    params = rnn.init(KEY, inputs=5, hidden=4, outputs=3, dtype=F64)
    ids, y = jnp.asarray(RNG.integers(0, 5, (3, 7))), np.array([0, 1, 2])
    got = jax.value_and_grad(rnn.loss)(params, ids, y)
    assert_close(got, jax.value_and_grad(rnn.loss)(params, jax.nn.one_hot(ids, 5, dtype=F64), y), tolerance(F64))


def test_twenty_thousand_steps():
    """In time and memory of a chunk: gradients still agree with autodiff."""
    params = rnn.init(KEY, inputs=1, hidden=4, outputs=2, dtype=F64)
    x, y = 0.1 * f(1, 20_000, 1), np.array([1])
    got = jax.jit(jax.value_and_grad(rnn.loss))(params, x, y)
    want = jax.jit(jax.value_and_grad(reference_loss))(params, x, y)
    assert_close(got, want, tolerance(F64, terms=20_000))


def test_saturated_units_carry_nothing_back():
    params = rnn.init(KEY, inputs=3, hidden=4, outputs=2, dtype=F64)
    x_bar = jax.grad(rnn.loss, 1)(params, jnp.full((2, 5, 3), 1e4), np.array([0, 1]))
    assert (x_bar == 0).all()


@pytest.mark.parametrize("lengths", [[7, 3, 2], [-1, 3, 2]])
@pytest.mark.parametrize("every", [True, False])
def test_length_out_of_range_under_jit_is_nan(lengths, every):
    params = rnn.init(KEY, inputs=3, hidden=4, outputs=2, dtype=F64)
    y = jnp.zeros((3, 6) if every else (3,), int)
    x = f(3, 6, 3)
    losses = jax.jit(lambda n: rnn.loss(params, x, y, n, reduction="none"))(jnp.array(lengths)).reshape(3, -1)
    assert np.isnan(losses).any(1).tolist() == [True, False, False]


@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1, 2**32, 2**32 + 1])
def test_id_out_of_range_under_jit_is_nan(bad):
    params = rnn.init(KEY, inputs=5, hidden=4, outputs=2, dtype=F64)
    x = jnp.zeros((3, 6), jnp.int64).at[1, 2].set(bad)
    losses = jax.jit(lambda x: rnn.loss(params, x, jnp.array([0, 1, 0]), reduction="none"))(x)
    assert np.isnan(losses).tolist() == [False, True, False]
    grads = jax.jit(jax.grad(rnn.loss))(params, x, jnp.array([0, 1, 0]))
    assert all(np.isnan(g).any() for g in jax.tree.leaves(grads))


def test_descend_is_plain_gradient_descent():
    params = rnn.init(KEY, inputs=3, hidden=4, outputs=2, dtype=F64)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optax.sgd(0.25).update(grads, optax.sgd(0.25).init(params))
    assert_close(rnn.descend(params, grads, 0.25), optax.apply_updates(params, updates), tolerance(F64))
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), (params, grads))
    assert rnn.descend(*half, alpha=jnp.bfloat16(0.25)).U.dtype == jnp.bfloat16


# What is kept, and what it costs.


def kept_shapes(save, out="last", head=None, lengths=None, T=12, B=3, D=2, H=5):
    """Shapes of everything that `_run_fwd` keeps beside its own inputs."""
    params = rnn.init(KEY, inputs=D, hidden=H, outputs=2, dtype=F64)
    x, h0 = jnp.zeros((B, T, D)), jnp.zeros((B, H))
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
    head = (jnp.zeros((5, 2)), jnp.zeros(2), jnp.zeros((3, 12), int)) if out == "losses" else None
    assert kept_shapes("all", out, head) == [(3, 5), (12, 3, 5)]
    assert kept_shapes(4, out, head) == [(3, 3, 5)]
    assert kept_shapes(5, out, head) == [(2, 3, 5), (3, 5)]
    assert kept_shapes(100, out, head) == [(3, 5)]


def test_states_that_come_out_are_kept_as_they_come():
    assert kept_shapes("all", "states") == [(3, 12, 5), (3, 5)]
    assert kept_shapes(4, "states") == [(3, 3, 5)]


def test_plans():
    """The formula of `save="auto"`: long and narrow is computed again, short or wide is kept."""

    def plan(T, B, H, save="auto", **head):
        return rnn._plan(T, B, H, 4, "losses" if head else "last", None, save, **head)[2:4]

    assert plan(1024, 32, 128, classes=10) == (32, False)
    assert plan(1024, 32, 128, classes=50_000) == (16, False)  # 512 rows of logits
    assert plan(28, 32, 128, classes=50_000) == (14, True)
    assert plan(28, 128, 128, classes=10) == (14, True)

    assert plan(784, 128, 128) == (16, False)
    assert plan(784, 32, 128) == (28, False)
    assert plan(4096, 16, 128) == (64, False)
    assert plan(256, 64, 256) == (8, True)
    assert plan(4096, 64, 256) == (32, False)
    assert plan(28, 128, 128) == (14, True)
    assert plan(100, 64, 1024) == (10, True)
    assert plan(784, 128, 128, "all") == (16, True)
    assert plan(0, 4, 8) == (1, True)
    assert plan(997, 128, 128) == (18, False)
    assert rnn._plan(784, 128, 128, 4, "last", None, "auto", cpu=False)[2:] == (196, True, 8)
    assert rnn._plan(28, 128, 128, 4, "last", None, "auto", cpu=False)[2:] == (28, True, 8)
    assert rnn._plan(10**6, 16, 128, 4, "last", None, "auto", cpu=False)[2:] == (625, False, 8)
    assert near_divisor(784, 20) == 16
    assert near_divisor(997, 32) == 32


@pytest.mark.parametrize("save", ["all", 8])
def test_logits_of_all_steps_never_exist(save):
    """Neither they nor their adjoints: the head of an every-step loss runs by the chunk."""
    params = rnn.init(KEY, inputs=2, hidden=5, outputs=11, dtype=F64)
    x, y = jnp.zeros((64, 200, 2)), jnp.zeros((64, 200), int)
    step = str(jax.make_jaxpr(jax.grad(lambda p: rnn.loss(p, x, y, save=save)))(params))
    assert ",11]" in step
    assert not any(shape in step for shape in ("[64,200,11]", "[200,64,11]", "[12800,11]"))


def temporaries(f, *args):
    return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.fixture
def on_a_cpu():
    with jax.default_device(jax.devices("cpu")[0]):
        yield


@pytest.mark.usefixtures("on_a_cpu")
def test_memory_of_a_long_sequence():
    """Below 10 MB where plain autodiff takes more than 100."""
    params = rnn.init(KEY, inputs=1, hidden=128, outputs=10)
    x, y = jnp.zeros((128, 784, 1), jnp.float32), jnp.zeros(128, jnp.int32)
    ours = temporaries(jax.grad(rnn.loss), params, x, y)
    plain = temporaries(jax.grad(reference_loss), params, x, y)
    assert ours < 10e6
    assert plain > 100e6


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.parametrize("save", ["all", "auto"])
def test_last_state_builds_no_adjoint_of_all_states(save):
    """`save="all"` takes one array of all states and small change; nothing else is as long."""
    params = rnn.init(KEY, inputs=1, hidden=128, outputs=10)
    x, y = jnp.zeros((128, 784, 1), jnp.float32), jnp.zeros(128, jnp.int32)
    all_states = 784 * 128 * 128 * 4
    limit = {"all": 1.2, "auto": 0.2}[save]
    assert temporaries(lambda *a: jax.grad(rnn.loss)(*a, save=save), params, x, y) < limit * all_states
