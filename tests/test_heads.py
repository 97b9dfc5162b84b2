"""Heads: extreme logits, masks, weights, reductions, soft targets."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import DTYPES, assert_close, tolerance
from jaxnets import heads

F64 = jnp.float64


SIZES = [(1e4, dtype) for dtype in DTYPES] + [(3e38, "float32"), (np.inf, "float16"), (np.inf, "float64")]


@pytest.mark.parametrize(("size", "dtype"), SIZES)
def test_logistic_stands_any_logit(size, dtype):
    """Logits of ±size against every kind of target: no NaN, no infinite gradient."""
    a = jnp.array([size, -size, size, -size, size, -size]).astype(dtype)[:, None]
    t = jnp.array([0, 0, 1, 1, 0.5, 0.5]).astype(dtype)
    v = jnp.ones(1, dtype)
    losses = heads.logistic(a, v, None, t, reduction="none")
    c_bars = jax.jacobian(lambda c: heads.logistic(a, v, c, t, reduction="none"))(jnp.zeros((), dtype))
    assert not np.isnan(losses).any()
    np.testing.assert_array_equal(np.asarray(losses[1:3]), 0)
    assert (np.asarray(losses)[[0, 3, 4, 5]] > 4900).all()
    np.testing.assert_array_equal(np.asarray(c_bars, np.float64), [1, 0, 0, -1, 0.5, -0.5])
    np.testing.assert_array_equal(np.asarray(heads._probabilities(a, True), np.float64)[:2, 0], [1, 0])


@pytest.mark.parametrize(("size", "dtype"), SIZES)
def test_softmax_stands_any_logit(size, dtype):
    z = jnp.array([[size, 1, -size], [-size, 1, size], [-size, -size, -size]]).astype(dtype)
    k, identity = jnp.array([0, 0, 1]), jnp.eye(3, dtype=dtype)
    zero = jnp.zeros(3, dtype)
    c_bars = jax.jacobian(lambda c: heads.softmax(_as_logits(z), identity, c, k, reduction="none"))(zero)
    losses = heads.softmax(_as_logits(z), identity, None, k, reduction="none")
    assert not np.isnan(losses).any()
    assert losses[0] == 0
    np.testing.assert_allclose(
        np.asarray(c_bars, np.float64), [[0, 0, 0], [-1, 0, 1], [1 / 3, -2 / 3, 1 / 3]], atol=2e-3
    )


def _as_logits(z):
    """Inputs whose product with the identity is `z`, though ∞·0 is NaN: the largest number stands for ∞."""
    return jnp.nan_to_num(z)


def test_small_losses_keep_their_digits():
    """A loss of e^-30 is e^-30, not 0: nothing cancels."""
    h = jnp.array([[30.0]])
    np.testing.assert_allclose(heads.logistic(h, jnp.ones(1), None, jnp.ones(1)), np.exp(-30), rtol=1e-12)
    V = jnp.array([[1.0, 0.0]])
    np.testing.assert_allclose(heads.softmax(h + 1e4, V * 1e-4, None, np.array([1])), 1.003 + np.log1p(np.exp(-1.003)))


def test_against_optax():
    rng = np.random.default_rng(0)
    h, V = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(rng.normal(size=(3, 4)))
    k, t = jnp.asarray(rng.integers(0, 4, 5)), jnp.asarray(rng.uniform(size=5))
    cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels(h @ V, k)
    assert_close(heads.softmax(h, V, None, k, reduction="none"), cross_entropy, tolerance(F64))
    binary = optax.losses.sigmoid_binary_cross_entropy(h @ V[:, 0], t)
    assert_close(heads.logistic(h, V[:, 0], None, t, reduction="none"), binary, tolerance(F64))


def test_two_classes_either_way():
    """A logistic head is a softmax of two classes, one of which has logit 0."""
    rng = np.random.default_rng(0)
    h, v, c, t = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(rng.normal(size=3)), jnp.array(0.3), np.arange(5) % 2
    V, two = jnp.stack([jnp.zeros(3), v], 1), jnp.stack([jnp.zeros(()), c])
    got, want = (
        jax.value_and_grad(lambda h: heads.logistic(h, v, c, t))(h),
        jax.value_and_grad(lambda h: heads.softmax(h, V, two, t))(h),
    )
    assert_close(got, want, tolerance(F64))


HEADS = {"logistic": (heads.logistic, 1), "softmax": (heads.softmax, 4)}


def head_case(name, seed=0):
    rng = np.random.default_rng(seed)
    f, classes = HEADS[name]
    h = jnp.asarray(rng.normal(size=(5, 3)))
    V = jnp.asarray(rng.normal(size=(3,) if classes == 1 else (3, classes)))
    c = jnp.asarray(rng.normal(size=() if classes == 1 else (classes,)))
    y = jnp.asarray(rng.integers(0, max(classes, 2), 5))
    return f, (h, V, c), y


@pytest.mark.parametrize("name", HEADS)
def test_reductions(name):
    f, args, y = head_case(name)
    each = f(*args, y, reduction="none")
    assert each.shape == (5,)
    assert_close(f(*args, y, reduction="sum"), each.sum(), tolerance(F64))
    assert_close(f(*args, y), each.mean(), tolerance(F64))
    weights = jnp.array([0.5, 0.0, 2.0, 1.0, 1.0])
    assert_close(f(*args, y, weights=weights, reduction="none"), each * weights, tolerance(F64))
    assert_close(f(*args, y, weights=weights, reduction="sum"), (each * weights).sum(), tolerance(F64))
    assert_close(f(*args, y, weights=weights), (each * weights).sum() / weights.sum(), tolerance(F64))
    assert_close(
        f(*args, y, weights=jnp.array([1, 0, 2, 1, 1])), each @ jnp.array([1.0, 0, 2, 1, 1]) / 5, tolerance(F64)
    )


@pytest.mark.parametrize("name", HEADS)
def test_what_is_masked_is_never_read(name):
    """NaN, wrong labels: behind the mask they change neither the loss nor any gradient."""
    f, (h, V, c), y = head_case(name)
    mask = jnp.array([True, False, True, True, False])
    bad_h, bad_y = h.at[1].set(jnp.nan), y.at[4].set(-7)

    def loss(args, y):
        return f(*args, y, weights=mask)

    got = jax.value_and_grad(loss)((bad_h, V, c), bad_y)
    rows = np.flatnonzero(mask)
    value, (h_bar, V_bar, c_bar) = jax.value_and_grad(lambda args: f(*args, y[rows]))((h[rows], V, c))
    assert_close(got, (value, (jnp.zeros_like(h).at[rows].set(h_bar), V_bar, c_bar)), tolerance(F64))
    assert_close(jax.jit(loss)((bad_h, V, c), bad_y), got[0], tolerance(F64))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("weights", [np.zeros(5, bool), np.zeros(5)])
def test_nothing_scored_is_zero(name, weights):
    f, args, y = head_case(name)
    loss, grads = jax.value_and_grad(lambda args: f(*args, y, weights=weights))(args)
    assert loss == 0
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", HEADS)
def test_weights_of_zero_still_have_gradients(name):
    """A number 0 is a weight like others (a mask is booleans): what the loss would change if it grew is there."""
    f, args, y = head_case(name)
    each = f(*args, y, reduction="none")
    w_bar = jax.grad(lambda w: f(*args, y, weights=w, reduction="sum"))(jnp.zeros(5))
    assert_close(w_bar, each, tolerance(F64))


def test_any_number_of_leading_axes():
    rng = np.random.default_rng(0)
    V, c = jnp.asarray(rng.normal(size=(3, 4))), jnp.asarray(rng.normal(size=4))
    for batch in [(), (5,), (5, 2), (2, 1, 6)]:
        h, k = jnp.asarray(rng.normal(size=(*batch, 3))), jnp.asarray(rng.integers(0, 4, batch))
        each = heads.softmax(h, V, c, k, reduction="none")
        assert each.shape == batch
        flat = heads.softmax(h.reshape(-1, 3), V, c, k.reshape(-1), reduction="none")
        assert_close(each.reshape(-1), flat, tolerance(F64))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("targets", ["int32", "uint8", "bool", "float32", "float16"])
def test_targets_of_any_kind(targets, dtype):
    """Whole numbers and booleans serve as targets everywhere, floats of another width beside half precision alone."""
    h, v, t = jnp.ones((3, 2), dtype), jnp.ones(2, dtype), jnp.array([0, 1, 1]).astype(targets)
    if dtype == "float32" and targets == "float16":
        with pytest.raises(TypeError, match="t must be float32"):
            heads.logistic(h, v, None, t)
        return
    loss = heads.logistic(h, v, None, t)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.log1p(np.exp(2)) - 4 / 3, rtol=1e-6)


@pytest.mark.parametrize("bad", [-1, 4, 7])
@pytest.mark.parametrize("name", HEADS)
def test_bad_label_under_jit_is_nan(name, bad):
    """Its own loss and every gradient that it would have entered; the other examples keep theirs."""
    f, args, y = head_case(name)
    y = y.at[2].set(bad)
    each = jax.jit(lambda args, y: f(*args, y, reduction="none"))(args, y)
    assert np.isnan(np.asarray(each)).tolist() == [False, False, True, False, False]
    h_bar, V_bar, c_bar = jax.jit(jax.grad(lambda args, y: f(*args, y)))(args, y)
    assert np.isnan(h_bar).all(1).tolist() == [False, False, True, False, False]
    assert np.isnan(V_bar).all()
    assert np.isnan(c_bar).all()


def test_labels_of_narrow_dtypes():
    """300 classes beside uint8 labels: the comparison does not wrap."""
    z = jnp.zeros((2, 300)).at[0, 255].set(5.0)
    loss = heads.softmax(z, jnp.eye(300), None, jnp.array([255, 0], jnp.uint8), reduction="none")
    assert_close(loss, -jax.nn.log_softmax(z)[jnp.array([0, 1]), jnp.array([255, 0])], tolerance(F64))
