"""Text convolution: ties, repeated words, shared winners, short sentences, what is beyond a length."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import assert_close, assert_same, tolerance
from jaxnets import heads, textconv

F64 = jnp.float64
RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def vjp(f, *args):
    out, back = jax.vjp(f, *args)
    return out, back(jnp.asarray(RNG.normal(size=out.shape)))


@pytest.mark.parametrize("f", ["max_over_time", "reference"])
def test_ties_go_to_the_first(f):
    """All windows score alike: the first one has the value and all of the gradient."""
    x, U = jnp.ones((2, 6, 3)), jnp.asarray(RNG.normal(size=(2, 3, 4)))

    def features(x):
        if f == "max_over_time":
            return textconv.max_over_time(x, U)
        return textconv.reference(textconv.Params(None, (U,), None, jnp.eye(4), None), x)

    h, (x_bar,) = vjp(features, x)
    assert_close(h, jnp.broadcast_to(jnp.tanh(U.sum((0, 1))), (2, 4)), tolerance(F64))
    assert (x_bar[:, :2] != 0).all()
    assert (x_bar[:, 2:] == 0).all()


def test_tie_of_two_among_many():
    """The highest score twice, at 1 and at 3."""
    x = jnp.array([[0.0], [2.0], [1.0], [2.0]])
    h, (x_bar,) = vjp(lambda x: textconv.max_over_time(x, jnp.ones((1, 1, 1))), x)
    assert_close(h, jnp.tanh(jnp.array([2.0])), tolerance(F64))
    assert np.flatnonzero(x_bar).tolist() == [1]


def test_tie_that_the_bias_makes():
    """Scores that differ by less than the bias leaves of them tie, as on the page: s has the bias in it."""
    x, U, b = jnp.array([[1e-18], [3e-18], [2e-18]]), jnp.ones((1, 1, 1)), jnp.ones(1)
    params = textconv.Params(None, (U,), (b,), jnp.ones(1), None)
    got, want = (jax.grad(f, 1)(params, x) for f in (textconv.forward, textconv.reference))
    assert np.flatnonzero(got).tolist() == [0]
    assert_close(got, want, tolerance(F64))


def test_filters_that_win_at_one_word_accumulate():
    x, U = jnp.array([[0.0, 0.0], [3.0, 1.0], [0.0, 0.0]]), jnp.array([[[0.2, 0.1, 0.3], [0.1, 0.3, 0.2]]])
    _, back = jax.vjp(lambda x: textconv.max_over_time(x, U), x)
    c = jnp.array([2.0, 3.0, 5.0])
    (x_bar,) = back(c)
    h = jnp.tanh(x[1] @ U[0])
    assert_close(x_bar, jnp.zeros((3, 2)).at[1].set(U[0] @ (c * (1 - h * h))), tolerance(F64))


def test_repeated_words_accumulate():
    """One word all over: its row of E has the whole gradient, the others none."""
    params = textconv.init(KEY, embed=3, widths=(2, 3), filters=4, vocab=5, dtype=F64)
    tokens = jnp.full((2, 6), 3)
    grads = jax.grad(textconv.loss)(params, tokens, np.array([0, 1]))
    words = jax.grad(lambda w: textconv.loss(params._replace(E=None), w, np.array([0, 1])))(params.E[tokens])
    assert_close(grads.E, jnp.zeros((5, 3)).at[3].set(words.sum((0, 1))), tolerance(F64))


def test_one_width_after_another():
    """Several widths at once are the widths one by one, side by side."""
    params = textconv.init(KEY, embed=3, widths=(1, 4, 2), filters=5, dtype=F64)
    x, lengths = jnp.asarray(RNG.normal(size=(4, 6, 3))), np.array([6, 0, 3, 1])
    h = jnp.concatenate([textconv.max_over_time(x, U, b, lengths) for U, b in zip(params.U, params.b, strict=True)], 1)
    assert_close(textconv.forward(params, x, lengths), h @ params.V + params.c, tolerance(F64))


@pytest.mark.parametrize("tokens", [True, False])
def test_what_lies_beyond_is_never_read(tokens):
    """NaN vectors and impossible tokens beyond the lengths change nothing; the gradient there is 0."""
    params = textconv.init(KEY, embed=3, widths=(2, 5), filters=4, vocab=7 if tokens else None, dtype=F64)
    x = jnp.asarray(RNG.integers(0, 7, (4, 6)) if tokens else RNG.normal(size=(4, 6, 3)))
    lengths, y = np.array([6, 0, 3, 1]), np.array([0, 1, 1, 0])
    beyond = jnp.arange(6)[None] >= jnp.asarray(lengths)[:, None]
    dirty = jnp.where(beyond, -99, x) if tokens else jnp.where(beyond[:, :, None], jnp.nan, x)
    argnums = 0 if tokens else (0, 1)
    clean = jax.value_and_grad(textconv.loss, argnums)(params, x, y, lengths)
    assert_same(jax.value_and_grad(textconv.loss, argnums)(params, dirty, y, lengths), clean)
    assert_close(jax.jit(jax.value_and_grad(textconv.loss, argnums))(params, dirty, y, lengths), clean, tolerance(F64))
    if not tokens:
        assert (jnp.where(beyond[:, :, None], clean[1][1], 0) == 0).all()


def test_shorter_than_the_window():
    """Missing words are zero vectors: a short sentence equals itself with zeros behind, length 0 equals all zeros."""
    U, b = jnp.asarray(RNG.normal(size=(4, 3, 5))), jnp.asarray(RNG.normal(size=5))
    for T in range(5):
        x = jnp.asarray(RNG.normal(size=(2, T, 3)))
        padded = jnp.pad(x, ((0, 0), (0, 4 - T), (0, 0)))
        want = jnp.tanh(jnp.einsum("nis,isf->nf", padded, U) + b[None])
        h, (x_bar, U_bar) = vjp(lambda x, U: textconv.max_over_time(x, U, b), x, U)
        assert_close(h, want, tolerance(F64))
        assert x_bar.shape == x.shape
        assert U_bar.shape == U.shape
        whole = jnp.pad(x, ((0, 0), (0, 6 - T), (0, 0)), constant_values=jnp.nan)
        assert_close(textconv.max_over_time(whole, U, b, np.array([T, T])), want, tolerance(F64))


def test_page_form_of_the_filters():
    """[k·S, F] with width=k is [k, S, F]."""
    x, U = jnp.asarray(RNG.normal(size=(2, 6, 3))), jnp.asarray(RNG.normal(size=(2, 3, 5)))
    assert_same(textconv.max_over_time(x, U.reshape(6, 5), width=2), textconv.max_over_time(x, U))


def test_saturated_filters_pass_no_gradient():
    x, U = jnp.full((2, 5, 3), 1e3), jnp.ones((2, 3, 4))
    h, (x_bar, U_bar) = vjp(textconv.max_over_time, x, U)
    assert (h == 1).all()
    assert (x_bar == 0).all()
    assert (U_bar == 0).all()


@pytest.mark.parametrize("lengths", [[7, 3, 2], [-1, 3, 2]])
def test_length_out_of_range_under_jit_is_nan(lengths):
    x, U = jnp.asarray(RNG.normal(size=(3, 6, 3))), jnp.asarray(RNG.normal(size=(2, 3, 4)))
    h = jax.jit(lambda n: textconv.max_over_time(x, U, lengths=n))(jnp.array(lengths))
    assert np.isnan(h).all(1).tolist() == [True, False, False]


@pytest.mark.parametrize("bad", [-1, 7, 2**31 - 1, 2**32, 2**32 + 1])
def test_token_out_of_range_under_jit_is_nan(bad):
    """Not the last row, not a clamped neighbour."""
    params = textconv.init(KEY, embed=3, widths=(2,), filters=4, vocab=7, dtype=F64)
    x = jnp.zeros((3, 5), jnp.int64).at[1, 2].set(bad)
    losses = jax.jit(lambda x: textconv.loss(params, x, jnp.array([0, 1, 0]), reduction="none"))(x)
    assert np.isnan(losses).tolist() == [False, True, False]
    grads = jax.jit(jax.grad(textconv.loss))(params, x, jnp.array([0, 1, 0]))
    assert all(np.isnan(g).any() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int64", "uint32", "uint64"])
def test_tokens_of_any_integer_dtype(dtype):
    """A table longer than the dtype reaches is no trouble."""
    params = textconv.init(KEY, embed=3, widths=(2,), filters=4, vocab=300)
    x = jnp.array([[0, 100, 5, 7]])
    want = jax.value_and_grad(textconv.loss)(params, x, np.array([1]))
    assert_same(jax.value_and_grad(textconv.loss)(params, x.astype(dtype), np.array([1])), want)


@pytest.mark.parametrize("where", [0, 3, 5])
def test_nan_under_jit_is_nan(where):
    x, U = jnp.asarray(RNG.normal(size=(2, 6, 3))).at[1, where, 1].set(jnp.nan), jnp.ones((2, 3, 4))
    h, (x_bar, U_bar) = jax.jit(lambda x: vjp(textconv.max_over_time, x, U))(x)
    assert np.isfinite(h[0]).all()
    assert np.isnan(h[1]).all()
    assert np.isnan(U_bar).any()
    assert np.isnan(x_bar[1]).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (7, 3), (54, 100), (400, 128)])
def test_the_first_of_the_highest(shape):
    """Of few values, so that many tie; NaN, which a compiled maximum may overlook, wins."""
    for case in range(6):
        s = RNG.integers(0, 5, shape).astype(np.float32)
        if case % 2:
            s[tuple(RNG.integers(0, n) for n in shape)] = np.nan
        m, s_m = jax.jit(textconv._first_of_highest)(s)
        assert_same(m, s.argmax(0).astype(np.int32))
        assert_same(s_m, s.max(0))


@pytest.mark.parametrize("tokens", [True, False])
def test_all_devices_compute_the_same(tokens):
    """A few sentences at a time, as on a CPU, and all at once, as elsewhere."""
    params = textconv.init(KEY, embed=3, widths=(2, 3), filters=4, vocab=6 if tokens else None, dtype=F64)
    x = jnp.asarray(RNG.integers(0, 6, (5, 7)) if tokens else RNG.normal(size=(5, 7, 3)))
    inputs = x, params.E, params.U, params.b, jnp.array([7, 0, 4, 1, 2], jnp.int32)
    found = {}
    for scores in (textconv._convolved, textconv._by_word):
        found[scores] = textconv._features_fwd(*inputs, lambda f, *args, s=scores: jax.vmap(partial(f, s))(*args))
    (whole, saved), (by_word, _) = found.values()
    assert_close(by_word, whole, tolerance(F64))
    h_bar = jnp.asarray(RNG.normal(size=whole.shape))
    row_by_row = textconv._features_bwd(saved, h_bar, textconv._row_by_row)
    assert_close(textconv._features_bwd(saved, h_bar, textconv._all_at_once), row_by_row, tolerance(F64))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_blocks_of_any_size_compute_the_same(size, monkeypatch):
    """Also where the last block is shorter."""
    params = textconv.init(KEY, embed=3, widths=(2, 3), filters=4, dtype=F64)
    x, lengths = jnp.asarray(RNG.normal(size=(5, 7, 3))), jnp.array([7, 0, 4, 1, 2])
    want = textconv.reference(params, x, lengths)
    monkeypatch.setattr(textconv, "_rows_at_once", lambda *sizes: size)
    assert_close(textconv.forward(params, x, lengths), want, tolerance(F64))


def test_the_formula_of_blocks():
    """A MiB of scores, two sentences at least, in blocks that divide the batch where one is near."""
    assert textconv._rows_at_once(64, 400, 100) == 4
    assert textconv._rows_at_once(32, 1000, 128) == 2
    assert textconv._rows_at_once(50, 56, 100) == 50
    assert textconv._rows_at_once(61, 400, 100) == 6
    assert textconv._rows_at_once(8, 10**6, 100) == 2
    assert textconv._rows_at_once(1, 10**6, 100) == 1


def test_winners_fewer_than_words_go_straight_to_the_table():
    """Long texts and few filters: Ē is what it is by way of w̄, repeated words and windows beyond the text included."""
    params = textconv.init(KEY, embed=3, widths=(2, 3), filters=1, vocab=6, outputs=1, dtype=F64)
    x, y = jnp.asarray(RNG.integers(0, 6, (5, 40))), jnp.array([0, 1, 1, 0, 1])
    lengths = np.array([40, 1, 2, 3, 17])
    got = jax.jit(jax.grad(textconv.loss))(params, x, y, lengths)
    want = jax.grad(lambda p: heads.reference_loss(textconv.reference(p, x, lengths), y))(params)
    assert_close(got, want, tolerance(F64))


def test_no_array_of_all_words():
    """With a table neither the word vectors of the batch nor their adjoints exist as a whole."""
    params = textconv.init(KEY, embed=300, filters=100, vocab=50)
    x, y = jnp.zeros((64, 400), jnp.int32), jnp.zeros(64, jnp.int32)
    words = 64 * 400 * 300 * 4
    with jax.default_device(jax.devices("cpu")[0]):
        step = jax.jit(jax.grad(textconv.loss)).lower(params, x, y).compile()
    assert step.memory_analysis().temp_size_in_bytes < 0.3 * words


def test_second_derivatives_at_ties():
    """The first winner has them too: windows that tie and differ, where a mean over winners would show."""
    U = jnp.array([[[1.0], [0.0]]])  # it reads the first number of a word alone
    x = jnp.array([[[0.5, 1.0], [0.5, -3.0], [0.1, 2.0]]])
    got = jax.hessian(lambda U: textconv.loss(textconv.Params(None, (U,), None, jnp.ones(1), None), x, jnp.ones(1)))(U)
    want = jax.hessian(
        lambda U: heads.reference_loss(
            textconv.reference(textconv.Params(None, (U,), None, jnp.ones(1), None), x), jnp.ones(1)
        )
    )(U)
    assert_close(got, want, tolerance(F64))
