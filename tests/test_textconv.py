"""Text convolution: ties, repeated words, shared winners, short sentences, what is beyond a length."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import assert_close, assert_same, tolerance
from jaxnets import heads, textconv

F64 = jnp.float64
RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def f(*shape):
    return RNG.normal(size=shape)


@cache
def net(embed=3, widths=(2, 3), filters=4, outputs=1, vocab=None, dtype="float64"):
    """Weights in the shapes of `init`, biases drawn too, by NumPy: JAX would compile a program for each."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(textconv.init, KEY, embed, widths, filters, outputs, vocab))
    return jax.tree.map(lambda a: jax.device_put(rng.normal(size=a.shape).astype(dtype) / 2), shapes)


def vjp(f, *args):
    """The value of `f` and its adjoints, as NumPy's, for a cotangent drawn at random."""
    bar = RNG.normal(size=jax.eval_shape(f, *args).shape)

    @jax.jit
    def both(bar, *args):
        out, back = jax.vjp(f, *args)
        return out, back(bar)

    return jax.tree.map(np.asarray, both(bar, *args))


@pytest.mark.parametrize("f", ["max_over_time", "reference"])
def test_ties_go_to_the_first(f):
    """All windows score alike: the first one has the value and all of the gradient."""
    x, U = np.ones((2, 6, 3)), RNG.normal(size=(2, 3, 4))

    def features(x):
        if f == "max_over_time":
            return textconv.max_over_time(x, U)
        return textconv.reference(textconv.Params(None, (U,), None, np.eye(4), None), x)

    h, (x_bar,) = vjp(features, x)
    assert_close(h, np.broadcast_to(np.tanh(U.sum((0, 1))), (2, 4)), tolerance(F64))
    assert (x_bar[:, :2] != 0).all()
    assert (x_bar[:, 2:] == 0).all()


def test_tie_of_two_among_many():
    """The highest score twice, at 1 and at 3."""
    x = np.array([[0.0], [2.0], [1.0], [2.0]])
    h, (x_bar,) = vjp(lambda x: textconv.max_over_time(x, np.ones((1, 1, 1))), x)
    assert_close(h, np.tanh([2.0]), tolerance(F64))
    assert np.flatnonzero(x_bar).tolist() == [1]


def test_tie_that_the_bias_makes():
    """Scores that differ by less than the bias leaves of them tie, as on the page: s has the bias in it."""
    x, U, b = np.array([[1e-18], [3e-18], [2e-18]]), np.ones((1, 1, 1)), np.ones(1)
    params = textconv.Params(None, (U,), (b,), np.ones(1), None)
    forms = textconv.forward, textconv.reference
    got, want = jax.jit(lambda *args: [jax.grad(f, 1)(*args) for f in forms])(params, x)
    assert np.flatnonzero(got).tolist() == [0]
    assert_close(got, want, tolerance(F64))


def test_filters_that_win_at_one_word_accumulate():
    x, U = np.array([[0.0, 0.0], [3.0, 1.0], [0.0, 0.0]]), np.array([[[0.2, 0.1, 0.3], [0.1, 0.3, 0.2]]])
    c = np.array([2.0, 3.0, 5.0])
    (x_bar,) = jax.jit(lambda x, c: jax.vjp(lambda x: textconv.max_over_time(x, U), x)[1](c))(x, c)
    h, want = np.tanh(x[1] @ U[0]), np.zeros((3, 2))
    want[1] = U[0] @ (c * (1 - h * h))
    assert_close(x_bar, want, tolerance(F64))


def test_repeated_words_accumulate():
    """One word all over: its row of E has the whole gradient, the others none."""
    params, tokens, y = net(vocab=5), np.full((2, 6), 3), np.array([0, 1])

    @jax.jit
    def both(params, tokens, words):
        of_words = jax.grad(lambda w: textconv.loss(params._replace(E=None), w, y))
        return jax.grad(textconv.loss)(params, tokens, y).E, of_words(words)

    E_bar, words_bar = both(params, tokens, np.asarray(params.E)[tokens])
    want = np.zeros((5, 3))
    want[3] = np.asarray(words_bar).sum((0, 1))
    assert_close(E_bar, want, tolerance(F64))


def test_one_width_after_another():
    """Several widths at once are the widths one by one, side by side."""
    x, lengths = f(4, 6, 3), np.array([6, 0, 3, 1])

    @jax.jit
    def both(params, x, lengths):
        one_by_one = [textconv.max_over_time(x, U, b, lengths) for U, b in zip(params.U, params.b, strict=True)]
        return textconv.forward(params, x, lengths), jnp.concatenate(one_by_one, 1) @ params.V + params.c

    assert_close(*both(net(widths=(1, 4, 2), filters=5), x, lengths), tolerance(F64))


@pytest.mark.parametrize("tokens", [True, False])
def test_what_lies_beyond_is_never_read(tokens):
    """NaN vectors and impossible tokens beyond the lengths change nothing; the gradient there is 0."""
    params = net(widths=(2, 5), vocab=7 if tokens else None)
    x = RNG.integers(0, 7, (4, 6)) if tokens else f(4, 6, 3)
    lengths, y = np.array([6, 0, 3, 1]), np.array([0, 1, 1, 0])
    beyond = np.arange(6)[None] >= lengths[:, None]
    dirty = np.where(beyond, -99, x) if tokens else np.where(beyond[:, :, None], np.nan, x)
    grad = jax.jit(jax.value_and_grad(textconv.loss, 0 if tokens else (0, 1)))
    clean = grad(params, x, y, lengths)
    assert_same(grad(params, dirty, y, lengths), clean)
    if not tokens:
        assert (np.asarray(clean[1][1])[beyond] == 0).all()

    # What is known outside is checked as it is without jit, but compiles as one program; one case runs without any.
    def known(params):
        return jax.value_and_grad(textconv.loss)(params, dirty, y, lengths)

    clean = clean if tokens else (clean[0], clean[1][0])
    assert_close(jax.jit(known)(params), clean, tolerance(F64))
    if tokens:
        assert_close(known(params), clean, tolerance(F64))


def test_shorter_than_the_window():
    """Missing words are zero vectors: a short sentence equals itself with zeros behind, length 0 equals all zeros."""
    U, b, bar = f(4, 3, 5), f(5), f(2, 5)
    texts = [f(2, T, 3) for T in range(5)]
    # The same sentences in an array longer than the window: what is beyond their length is NaN.
    longer = [np.pad(x, ((0, 0), (0, 6 - x.shape[1]), (0, 0)), constant_values=np.nan) for x in texts]

    @jax.jit
    def all_texts(texts, longer, U):
        pulled = [jax.vjp(lambda x, U: textconv.max_over_time(x, U, b), x, U) for x in texts]
        by_length = jax.vmap(lambda x, T: textconv.max_over_time(x, U, b, jnp.full(2, T)))
        return [h for h, _ in pulled], [back(bar) for _, back in pulled], by_length(longer, jnp.arange(5))

    shorter, adjoints, by_length = all_texts(texts, np.stack(longer), U)
    for x, h, (x_bar, U_bar), h_by_length in zip(texts, shorter, adjoints, by_length, strict=True):
        padded = np.pad(x, ((0, 0), (0, 4 - x.shape[1]), (0, 0)))
        want = np.tanh(np.einsum("nis,isf->nf", padded, U) + b)
        assert_close(h, want, tolerance(F64))
        assert x_bar.shape == x.shape
        assert U_bar.shape == U.shape
        assert_close(h_by_length, want, tolerance(F64))


def test_page_form_of_the_filters():
    """[k·S, F] with width=k is [k, S, F]."""

    @jax.jit
    def both(x, U):
        return textconv.max_over_time(x, U.reshape(6, 5), width=2), textconv.max_over_time(x, U)

    assert_same(*both(f(2, 6, 3), f(2, 3, 5)))


def test_saturated_filters_pass_no_gradient():
    h, (x_bar, U_bar) = vjp(textconv.max_over_time, np.full((2, 5, 3), 1e3), np.ones((2, 3, 4)))
    assert (h == 1).all()
    assert (x_bar == 0).all()
    assert (U_bar == 0).all()


def test_length_out_of_range_under_jit_is_nan():
    features = jax.jit(lambda x, U, lengths: textconv.max_over_time(x, U, lengths=lengths))
    for lengths in ([7, 3, 2], [-1, 3, 2]):
        h = features(f(3, 6, 3), f(2, 3, 4), np.array(lengths))
        assert np.isnan(h).all(1).tolist() == [True, False, False], lengths


@cache
def losses_and_gradients():
    """One program for every token."""

    def both(params, x):
        y = np.array([0, 1, 0])
        return textconv.loss(params, x, y, reduction="none"), jax.grad(textconv.loss)(params, x, y)

    return jax.jit(both)


@pytest.mark.parametrize("bad", [-1, 7, 2**31 - 1, 2**32, 2**32 + 1])
def test_token_out_of_range_under_jit_is_nan(bad):
    """Not the last row, not a clamped neighbour."""
    x = np.zeros((3, 5), np.int64)
    x[1, 2] = bad
    losses, grads = losses_and_gradients()(net(widths=(2,), vocab=7), x)
    assert np.isnan(losses).tolist() == [False, True, False]
    assert all(np.isnan(g).any() for g in jax.tree.leaves(grads))


def test_tokens_of_any_integer_dtype():
    """A table longer than the dtype reaches is no trouble."""
    tokens, y = np.array([[0, 100, 5, 7]]), np.array([1])
    by_dtype = {dtype: tokens.astype(dtype) for dtype in ("int8", "uint8", "uint16", "int64", "uint32", "uint64")}

    @jax.jit
    def all_dtypes(params):  # the tokens are known, as without jit
        grad = jax.value_and_grad(textconv.loss)
        return {dtype: grad(params, x, y) for dtype, x in by_dtype.items()}, grad(params, tokens, y)

    got, want = all_dtypes(net(widths=(2,), vocab=300, dtype="float32"))
    assert_same(got, dict.fromkeys(by_dtype, want))


def test_nan_under_jit_is_nan():
    U, bar = np.ones((2, 3, 4)), f(2, 4)

    @jax.jit
    def pulled(x, U):
        h, back = jax.vjp(textconv.max_over_time, x, U)
        return h, back(bar)

    for where in (0, 3, 5):
        x = f(2, 6, 3)
        x[1, where, 1] = np.nan
        h, (x_bar, U_bar) = pulled(x, U)
        assert np.isfinite(h[0]).all(), where
        assert np.isnan(h[1]).all(), where
        assert np.isnan(U_bar).any(), where
        assert np.isnan(x_bar[1]).any(), where


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
    params = net(vocab=6 if tokens else None)
    x = RNG.integers(0, 6, (5, 7)) if tokens else f(5, 7, 3)
    inputs = x, params.E, params.U, params.b, np.array([7, 0, 4, 1, 2], np.int32)

    @jax.jit
    def by_device(inputs, h_bar):
        found = []
        for scores in (textconv._convolved, textconv._by_word):
            found.append(textconv._features_fwd(*inputs, lambda f, *args, s=scores: jax.vmap(partial(f, s))(*args)))
        (whole, saved), (by_word, _) = found
        ways = textconv._row_by_row, textconv._all_at_once
        return whole, by_word, *(textconv._features_bwd(saved, h_bar, way) for way in ways)

    whole, by_word, row_by_row, all_at_once = by_device(inputs, f(5, 8))
    assert_close(by_word, whole, tolerance(F64))
    assert_close(all_at_once, row_by_row, tolerance(F64))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_blocks_of_any_size_compute_the_same(size, monkeypatch):
    """Also where the last block is shorter."""
    monkeypatch.setattr(textconv, "_rows_at_once", lambda *sizes: size)
    forms = textconv.forward, textconv.reference
    got, want = jax.jit(lambda *args: [f(*args) for f in forms])(net(), f(5, 7, 3), np.array([7, 0, 4, 1, 2]))
    assert_close(got, want, tolerance(F64))


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
    x, y, lengths = RNG.integers(0, 6, (5, 40)), np.array([0, 1, 1, 0, 1]), np.array([40, 1, 2, 3, 17])

    def plain(params, x, y, lengths):
        return heads.reference_loss(textconv.reference(params, x, lengths), y)

    grads = jax.jit(lambda *args: [jax.grad(loss)(*args) for loss in (textconv.loss, plain)])
    got, want = grads(net(filters=1, vocab=6), x, y, lengths)
    assert_close(got, want, tolerance(F64))


def test_no_array_of_all_words():
    """With a table neither the word vectors of the batch nor their adjoints exist as a whole."""
    params = jax.eval_shape(partial(textconv.init, embed=300, filters=100, vocab=50), KEY)
    x, y = np.zeros((64, 400), np.int32), np.zeros(64, np.int32)
    words = 64 * 400 * 300 * 4
    with jax.default_device(jax.devices("cpu")[0]):
        step = jax.jit(jax.grad(textconv.loss)).lower(params, x, y).compile()
    assert step.memory_analysis().temp_size_in_bytes < 0.3 * words


def test_second_derivatives_at_ties():
    """The first winner has them too: windows that tie and differ, where a mean over winners would show."""
    U = np.array([[[1.0], [0.0]]])  # it reads the first number of a word alone
    x, y = np.array([[[0.5, 1.0], [0.5, -3.0], [0.1, 2.0]]]), np.ones(1)

    def of(U):
        return textconv.Params(None, (U,), None, np.ones(1), None)

    losses = (
        lambda U, x, y: textconv.loss(of(U), x, y),
        lambda U, x, y: heads.reference_loss(textconv.reference(of(U), x), y),
    )
    got, want = jax.jit(lambda *args: [jax.hessian(loss)(*args) for loss in losses])(U, x, y)
    assert_close(got, want, tolerance(F64))
