"""Heads: extreme logits, masks, weights, reductions, soft targets."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import DTYPES, assert_close, tolerance
from jaxnets import heads

F64 = jnp.float64


SIZES = [(1e4, dtype) for dtype in DTYPES] + [(3e38, "float32"), (np.inf, "float16"), (np.inf, "float64")]


@jax.jit
def logistic_of_logits(a, t):
    """Losses, their gradients with respect to the bias, and probabilities."""
    v, zero = jnp.ones(1, a.dtype), jnp.zeros((), a.dtype)
    losses = heads.logistic(a, v, None, t, reduction="none")
    c_bars = jax.jacobian(lambda c: heads.logistic(a, v, c, t, reduction="none"))(zero)
    return losses, c_bars, heads._probabilities(a, True)


@jax.jit
def softmax_of_logits(z, k):
    """Losses, and their gradients with respect to the bias. The inputs are such that their product with the identity
    is `z`, though ∞·0 is NaN: the largest number stands for ∞."""
    h, identity, zero = jnp.nan_to_num(z), jnp.eye(3, dtype=z.dtype), jnp.zeros(3, z.dtype)
    losses = heads.softmax(h, identity, None, k, reduction="none")
    return losses, jax.jacobian(lambda c: heads.softmax(h, identity, c, k, reduction="none"))(zero)


@pytest.mark.parametrize(("size", "dtype"), SIZES)
def test_logistic_stands_any_logit(size, dtype):
    """Logits of ±size against every kind of target: no NaN, no infinite gradient."""
    a = np.array([size, -size, size, -size, size, -size], DTYPES[dtype])[:, None]
    found = logistic_of_logits(a, np.array([0, 0, 1, 1, 0.5, 0.5], DTYPES[dtype]))
    losses, c_bars, y = (np.asarray(array, np.float64) for array in found)
    assert not np.isnan(losses).any()
    np.testing.assert_array_equal(losses[1:3], 0)
    assert (losses[[0, 3, 4, 5]] > 4900).all()
    np.testing.assert_array_equal(c_bars, [1, 0, 0, -1, 0.5, -0.5])
    np.testing.assert_array_equal(y[:2, 0], [1, 0])


@pytest.mark.parametrize(("size", "dtype"), SIZES)
def test_softmax_stands_any_logit(size, dtype):
    z = np.array([[size, 1, -size], [-size, 1, size], [-size, -size, -size]], DTYPES[dtype])
    found = softmax_of_logits(z, np.array([0, 0, 1]))
    losses, c_bars = (np.asarray(array, np.float64) for array in found)
    assert not np.isnan(losses).any()
    assert losses[0] == 0
    np.testing.assert_allclose(c_bars, [[0, 0, 0], [-1, 0, 1], [1 / 3, -2 / 3, 1 / 3]], atol=2e-3)


def test_small_losses_keep_their_digits():
    """A loss of e^-30 is e^-30, not 0: nothing cancels."""

    @jax.jit
    def both(h, V):
        logistic = heads.logistic(h, jnp.ones(1), None, jnp.ones(1))
        return logistic, heads.softmax(h + 1e4, V * 1e-4, None, np.array([1]))

    logistic, softmax = both(np.array([[30.0]]), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(logistic, np.exp(-30), rtol=1e-12)
    np.testing.assert_allclose(softmax, 1.003 + np.log1p(np.exp(-1.003)))


def test_against_optax():
    rng = np.random.default_rng(0)

    @jax.jit
    def ours_and_theirs(h, V, k, t):
        cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels(h @ V, k)
        binary = optax.losses.sigmoid_binary_cross_entropy(h @ V[:, 0], t)
        softmax = heads.softmax(h, V, None, k, reduction="none")
        return (softmax, heads.logistic(h, V[:, 0], None, t, reduction="none")), (cross_entropy, binary)

    h, V, k, t = rng.normal(size=(5, 3)), rng.normal(size=(3, 4)), rng.integers(0, 4, 5), rng.uniform(size=5)
    assert_close(*ours_and_theirs(h, V, k, t), tolerance(F64))


def test_two_classes_either_way():
    """A logistic head is a softmax of two classes, one of which has logit 0."""
    rng = np.random.default_rng(0)
    h, v, c, t = rng.normal(size=(5, 3)), rng.normal(size=3), np.array(0.3), np.arange(5) % 2
    V, two = np.stack([np.zeros(3), v], 1), np.stack([np.zeros(()), c])

    @jax.jit
    def both(h):
        logistic = jax.value_and_grad(lambda h: heads.logistic(h, v, c, t))
        softmax = jax.value_and_grad(lambda h: heads.softmax(h, V, two, t))
        return logistic(h), softmax(h)

    assert_close(*both(h), tolerance(F64))


HEADS = {"logistic": (heads.logistic, 1), "softmax": (heads.softmax, 4)}


def head_case(name, seed=0):
    rng = np.random.default_rng(seed)
    f, classes = HEADS[name]
    h = rng.normal(size=(5, 3))
    V = rng.normal(size=(3,) if classes == 1 else (3, classes))
    c = np.asarray(rng.normal(size=() if classes == 1 else (classes,)))
    return f, (h, V, c), rng.integers(0, max(classes, 2), 5)


@pytest.mark.parametrize("name", HEADS)
def test_reductions(name):
    f, args, y = head_case(name)
    weights, whole = np.array([0.5, 0.0, 2.0, 1.0, 1.0]), np.array([1, 0, 2, 1, 1])
    options = {
        "none": {"reduction": "none"},
        "sum": {"reduction": "sum"},
        "mean": {},
        "weighted": {"weights": weights, "reduction": "none"},
        "weighted sum": {"weights": weights, "reduction": "sum"},
        "weighted mean": {"weights": weights},
        "whole weights": {"weights": whole},
    }
    got = jax.jit(lambda args, y: {option: f(*args, y, **chosen) for option, chosen in options.items()})(args, y)
    each = np.asarray(got["none"])
    assert each.shape == (5,)
    weighted = each * weights
    want = {
        "none": each,
        "sum": each.sum(),
        "mean": each.mean(),
        "weighted": weighted,
        "weighted sum": weighted.sum(),
        "weighted mean": weighted.sum() / weights.sum(),
        "whole weights": each @ whole / 5,
    }
    assert_close(got, want, tolerance(F64))


@pytest.mark.parametrize("name", HEADS)
def test_what_is_masked_is_never_read(name):
    """NaN, wrong labels: behind the mask they change neither the loss nor any gradient."""
    f, (h, V, c), y = head_case(name)
    mask = np.array([True, False, True, True, False])
    bad_h, bad_y, rows = h.copy(), y.copy(), np.flatnonzero(mask)
    bad_h[1], bad_y[4] = np.nan, -7

    def known(args):  # labels that are known are checked, by jit as without it
        return f(*args, bad_y, weights=mask)

    @jax.jit
    def all_ways(bad, bad_y, of_rows):
        under_jit = f(*bad, bad_y, weights=mask)
        clean = jax.value_and_grad(lambda args: f(*args, y[rows]))(of_rows)
        return jax.value_and_grad(known)(bad), under_jit, clean

    bad = bad_h, V, c
    got, under_jit, (value, (rows_bar, V_bar, c_bar)) = all_ways(bad, bad_y, (h[rows], V, c))
    h_bar = np.zeros_like(h)
    h_bar[rows] = rows_bar
    want = value, (h_bar, V_bar, c_bar)
    assert_close(got, want, tolerance(F64))
    assert_close(under_jit, got[0], tolerance(F64))
    if name == "logistic":  # without jit too, where every operation is a program to compile
        assert_close(jax.value_and_grad(known)(bad), want, tolerance(F64))


def test_a_logit_of_zero_has_derivatives_of_every_order():
    """Where a head begins at zero, or a text is empty: the loss is smooth there. `jvp` of `value_and_grad`, and the
    Hessian of something made of the loss, differentiate the value's own formula too."""
    t = np.array([0.2, 1.0])

    def plain(a):
        return jnp.mean(jnp.log1p(jnp.exp(a)) - t * a)

    def ours(a):
        return heads.logistic(jnp.eye(2), a, None, t)

    @jax.jit
    def both(a, along):
        def of(loss):
            tangents = jax.jvp(jax.value_and_grad(loss), (a,), (along,))
            curved = jax.hessian(lambda a: jnp.exp(loss(a)))
            return tangents, curved(a), jax.jacfwd(curved)(a)

        return of(ours), of(plain)

    assert_close(*both(np.zeros(2), np.array([0.3, -1.0])), tolerance(F64))


@pytest.mark.parametrize("name", HEADS)
def test_nothing_scored_is_zero(name):
    f, args, y = head_case(name)
    nothing = {"mask": np.zeros(5, bool), "numbers": np.zeros(5)}

    @jax.jit
    def both(args):
        return {kind: jax.value_and_grad(lambda args, w=w: f(*args, y, weights=w))(args) for kind, w in nothing.items()}

    for kind, (loss, grads) in both(args).items():
        assert loss == 0, kind
        assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads)), kind


@pytest.mark.parametrize("name", HEADS)
def test_weights_of_zero_still_have_gradients(name):
    """A number 0 is a weight like others (a mask is booleans): what the loss would change if it grew is there."""
    f, args, y = head_case(name)

    @jax.jit
    def both(args, w):
        return jax.grad(lambda w: f(*args, y, weights=w, reduction="sum"))(w), f(*args, y, reduction="none")

    assert_close(*both(args, np.zeros(5)), tolerance(F64))


def test_second_derivatives_of_softmax_do_not_look_for_the_maximum():
    """Logits of one hidden unit are no product of matrices: some compilers round them twice, and not alike."""
    rng, k = np.random.default_rng(0), np.array([0, 2])

    def second(loss):
        return lambda args, dots: jax.jvp(jax.grad(lambda args: loss(*args, k)), (args,), (dots,))[1]

    both = jax.jit(lambda *args: (second(heads.softmax)(*args), second(heads.reference_softmax)(*args)))
    for _ in range(30):
        args, dots = ([rng.normal(size=shape) for shape in ((2, 1), (1, 3), 3)] for _ in range(2))
        assert_close(*both(args, dots), 10 * tolerance(jnp.float64))


def test_any_number_of_leading_axes():
    rng = np.random.default_rng(0)
    V, c, batches = rng.normal(size=(3, 4)), rng.normal(size=4), [(), (5,), (5, 2), (2, 1, 6)]
    data = {batch: (rng.normal(size=(*batch, 3)), rng.integers(0, 4, batch)) for batch in batches}

    @jax.jit
    def both(V, c, hidden, classes):
        def of(h, k):
            return heads.softmax(h, V, c, k, reduction="none")

        return [(of(h, k), of(h.reshape(-1, 3), k.reshape(-1))) for h, k in zip(hidden, classes, strict=True)]

    for batch, (each, flat) in zip(batches, both(V, c, *zip(*data.values(), strict=True)), strict=True):
        assert each.shape == batch
        assert_close({batch: np.asarray(each).reshape(-1)}, {batch: flat}, tolerance(F64))


def test_targets_of_any_kind():
    """Whole numbers and booleans serve as targets everywhere, floats of another width beside half precision alone."""

    dtypes, kinds = ("float32", "bfloat16", "float16"), ("int32", "uint8", "bool", "float32", "float16")
    floats = {dtype: (np.ones((3, 2), DTYPES[dtype]), np.ones(2, DTYPES[dtype])) for dtype in dtypes}

    @jax.jit
    def all_losses(floats):  # the targets are known, as without jit
        losses = {}
        for dtype, kind in itertools.product(dtypes, kinds):
            t = np.array([0, 1, 1]).astype(kind)
            if (dtype, kind) == ("float32", "float16"):
                with pytest.raises(TypeError, match="t must be float32"):
                    heads.logistic(*floats[dtype], None, t)
            else:
                losses[f"{kind} beside {dtype}"] = heads.logistic(*floats[dtype], None, t)
        return losses

    losses = all_losses(floats)
    assert len(losses) == len(dtypes) * len(kinds) - 1
    for case, loss in losses.items():
        assert loss.dtype == jnp.float32, case
        np.testing.assert_allclose(loss, np.log1p(np.exp(2)) - 4 / 3, rtol=1e-6, err_msg=case)


@cache
def losses_and_gradients(name):
    """One program for every label."""
    f = HEADS[name][0]
    return jax.jit(lambda args, y: (f(*args, y, reduction="none"), jax.grad(lambda args: f(*args, y))(args)))


@pytest.mark.parametrize("bad", [-1, 4, 7])
@pytest.mark.parametrize("name", HEADS)
def test_bad_label_under_jit_is_nan(name, bad):
    """Its own loss and every gradient that it would have entered; the other examples keep theirs."""
    _, args, y = head_case(name)
    y[2] = bad
    each, (h_bar, V_bar, c_bar) = losses_and_gradients(name)(args, y)
    assert np.isnan(each).tolist() == [False, False, True, False, False]
    assert np.isnan(h_bar).all(1).tolist() == [False, False, True, False, False]
    assert np.isnan(V_bar).all()
    assert np.isnan(c_bar).all()


def test_labels_of_narrow_dtypes():
    """300 classes beside uint8 labels: the comparison does not wrap."""
    z, labels = np.zeros((2, 300)), np.array([255, 0], np.uint8)
    z[0, 255], z[1, 256] = 5, -3  # 256 is 0 in eight bits
    loss = jax.jit(lambda z: heads.softmax(z, np.eye(300), None, labels, reduction="none"))(z)
    assert_close(loss, np.log(np.exp(z).sum(1)) - z[[0, 1], [255, 0]], tolerance(F64))


@pytest.mark.parametrize("bad", [-0.5, 1.5, 2.0])
def test_no_probability_under_jit_is_nan(bad):
    """A target of the logistic head outside [0, 1]: its own loss alone."""
    t = jnp.array([0.2, bad, 1.0])
    losses = jax.jit(lambda t: heads.logistic(jnp.ones((3, 1)), jnp.ones(1), None, t, reduction="none"))(t)
    assert np.isnan(losses).tolist() == [False, True, False]
