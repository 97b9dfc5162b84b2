"""Every bad call: the exception's type, and that its message names the argument, what was expected and what came."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import dense, gated, heads, rnn, textconv

KEY = jax.random.key(0)
F32 = jnp.float32
TEXT = textconv.init(KEY, embed=3, widths=(2, 4), filters=5, outputs=2)
TOKENS = textconv.init(KEY, embed=3, widths=(2,), filters=5, vocab=7)
RNN = rnn.init(KEY, inputs=3, hidden=4, outputs=2)
GATED = gated.init(KEY, x=3, eta=4, hidden=5)
DENSE = dense.init(KEY, sizes=(3, 5, 2))


def ones(*shape):
    return jnp.ones(shape, F32)


def nan_at(*shape, index):
    return ones(*shape).at[index].set(jnp.nan)


Y = np.array([0, 1])
X = ones(2, 6, 3)
IDS = np.zeros((2, 6), int)

# call -> (type, argument, what was expected, what came)
BAD = {
    # ranks and widths
    "textconv rank": (lambda: textconv.forward(TEXT, ones(3)), ValueError, "x", "[B, T, S] or [T, S]", "[3]"),
    "textconv width": (lambda: textconv.forward(TEXT, ones(2, 6, 5)), ValueError, "x", "S = 3 (from params.U[0])", "[2, 6, 5]"),
    "textconv head": (lambda: textconv.forward(TEXT._replace(V=ones(9, 2)), X), ValueError, "params.V", "H = 10 (from the filters of params.U)", "[9, 2]"),
    "textconv bias": (lambda: textconv.forward(TEXT._replace(b=(ones(5),)), X), ValueError, "params.b", "a tuple of 2 arrays", "tuple of 1"),
    "textconv filters": (lambda: textconv.forward(TEXT._replace(U=ones(2, 3, 5)), X), TypeError, "params.U", "a tuple of arrays", "ArrayImpl"),
    "max_over_time width": (lambda: textconv.max_over_time(X, ones(7, 5), width=2), ValueError, "U", "k = 2", "[7, 5]"),
    "max_over_time page form": (lambda: textconv.max_over_time(X, ones(8, 5), width=2), ValueError, "x", "S = 4 (from U and width)", "[2, 6, 3]"),
    "textconv drop": (lambda: textconv.loss(TEXT, X, Y, drop=1, key=KEY), ValueError, "drop", "a number from 0 to below 1", "1"),
    "textconv key": (lambda: textconv.loss(TEXT, X, Y, drop=0.5, key=3), TypeError, "key", "one key of jax.random", "int 3"),
    "rnn rank": (lambda: rnn.forward(RNN, ones(3)), ValueError, "x", "[B, T, D] or [T, D]", "[3]"),
    "rnn width": (lambda: rnn.forward(RNN, ones(2, 6, 5)), ValueError, "x", "D = 3 (from params.U)", "[2, 6, 5]"),
    "rnn W": (lambda: rnn.forward(RNN._replace(W=ones(4, 5)), X), ValueError, "params.W", "H = 4 (from params.U)", "[4, 5]"),
    "rnn bias": (lambda: rnn.forward(RNN._replace(b=ones(1)), X), ValueError, "params.b", "H = 4", "[1]"),
    "rnn h0": (lambda: rnn.forward(RNN, X, h0=ones(3, 4)), ValueError, "h0", "B = 2 (from x)", "[3, 4]"),
    "rnn.states U": (lambda: rnn.states(X, ones(5, 4), ones(4, 4)), ValueError, "x", "D = 5 (from U)", "[2, 6, 3]"),
    "gated x": (lambda: gated.forward(GATED, ones(2, 5), ones(2, 4)), ValueError, "x", "a = 3 (from params.W)", "[2, 5]"),
    "gated eta": (lambda: gated.forward(GATED, ones(2, 3), ones(2, 3)), ValueError, "eta", "b = 4 (from params.U)", "[2, 3]"),
    "gated rows": (lambda: gated.forward(GATED, ones(2, 3), ones(3, 4)), ValueError, "eta", "B = 2 (from x)", "[3, 4]"),
    "gated worksheet": (lambda: gated.logit(ones(2, 3), ones(2, 4), ones(5, 6), ones(4, 5), ones(5), ones(3)), ValueError, "U", "c = 6 (from W)", "[4, 5]"),
    "gated worksheet, alone": (lambda: gated.logit(ones(2, 3), ones(2, 4), ones(5, 6), ones(4, 6), ones(6), ones(5)), ValueError, "x", "a = 5 (from W)", "[2, 3]"),
    "dense x": (lambda: dense.forward(DENSE, ones(2, 4)), ValueError, "x", "n0 = 3 (from params.W[0])", "[2, 4]"),
    "dense layers": (lambda: dense.layers(ones(2, 3), (ones(3, 5), ones(4, 2))), ValueError, "W[1]", "n1 = 5 (from W[0])", "[4, 2]"),
    "dense tuple": (lambda: dense.layers(ones(2, 3), ones(3, 5)), TypeError, "W", "a tuple of arrays", "ArrayImpl"),
    "dense biases": (lambda: dense.layers(ones(2, 3), (ones(3, 5),), ones(5)), TypeError, "b", "a tuple of 1 arrays", "ArrayImpl"),
    "head h": (lambda: heads.softmax(ones(2, 3), ones(4, 5), None, Y), ValueError, "h", "H = 4 (from V)", "[2, 3]"),
    "head k": (lambda: heads.softmax(ones(2, 3), ones(3, 5), None, np.zeros(4, int)), ValueError, "k", "B = 2 (from h)", "[4]"),
    "head weights": (lambda: heads.softmax(ones(2, 3), ones(3, 5), None, Y, weights=ones(3)), ValueError, "weights", "B = 2", "[3]"),
    "loss y": (lambda: rnn.loss(RNN, X, np.zeros((2, 5), int)), ValueError, "y", "T = 6 (from x)", "[2, 5]"),
    "loss y rank": (lambda: rnn.loss(RNN, X, np.zeros((2, 6, 1), int)), ValueError, "y", "[B] or [B, T]", "[2, 6, 1]"),
    "loss y against every_step": (lambda: rnn.loss(RNN, X, Y, every_step=True), ValueError, "y", "[B, T]", "[2]"),
    # empty
    "empty batch": (lambda: rnn.forward(RNN, ones(0, 6, 3)), ValueError, "x", "at least one row", "empty batch [0, 6, 3]"),
    "empty batch of text": (lambda: textconv.forward(TOKENS, IDS[:0]), ValueError, "x", "at least one row", "empty batch [0, 6]"),
    "empty batch of head": (lambda: heads.logistic(ones(0, 3), ones(3), None, ones(0)), ValueError, "h", "at least one row", "empty batch"),
    "no inputs": (lambda: rnn.states(ones(2, 6, 0), ones(0, 4), ones(4, 4)), ValueError, "U", "D at least 1", "[0, 4]"),
    # dtypes
    "mixed dtypes": (lambda: rnn.forward(RNN, X.astype(jnp.float64)), TypeError, "x", "float32, the dtype of params.U", "float64"),
    "mixed parameters": (lambda: dense.forward(DENSE._replace(b=(ones(5), ones(2).astype(jnp.float16))), ones(2, 3)), TypeError, "params.b[1]", "float32, the dtype of params.W[0]", "float16"),
    "h0 dtype": (lambda: rnn.forward(RNN, X, h0=jnp.ones((2, 4), jnp.bfloat16)), TypeError, "h0", "float32", "bfloat16"),
    "integer image": (lambda: rnn.forward(RNN, np.zeros((2, 6, 3), np.uint8)), TypeError, "x", "floating", "uint8"),
    "integer x": (lambda: dense.forward(DENSE, np.zeros((2, 3), int)), TypeError, "x", "floating", "int64"),
    "complex x": (lambda: dense.forward(DENSE, np.zeros((2, 3), complex)), TypeError, "x", "floating", "complex128"),
    "float tokens": (lambda: textconv.forward(TOKENS, ones(2, 6)), TypeError, "x", "an integer dtype", "float32"),
    "tokens without a table": (lambda: textconv.forward(TEXT, IDS), TypeError, "x", "word vectors, for this net has no table", "int64"),
    "float labels": (lambda: rnn.loss(RNN, X, ones(2)), TypeError, "y", "an integer dtype", "float32"),
    "boolean classes": (lambda: rnn.loss(RNN, X, np.array([True, False])), TypeError, "y", "an integer dtype", "bool"),
    "float lengths": (lambda: rnn.forward(RNN, X, ones(2)), TypeError, "lengths", "an integer dtype", "float32"),
    "wide targets": (lambda: gated.loss(GATED, ones(2, 3), ones(2, 4), jnp.ones(2, jnp.float64)), TypeError, "y", "float32", "float64"),
    "text for numbers": (lambda: dense.forward(DENSE, "words"), TypeError, "x", "an array", "str"),
    "nothing for numbers": (lambda: dense.forward(DENSE, None), TypeError, "x", "an array", "NoneType"),
    "list too wide": (lambda: narrow(lambda: rnn.forward(RNN, [[0, 2**40]])), ValueError, "x", "within 32 bits", "1099511627776"),
    "object array": (lambda: dense.forward(DENSE, np.array([[object()] * 3])), TypeError, "x", "an array of numbers", "ndarray of dtype object"),
    "ragged list": (lambda: dense.forward(DENSE, [[1.0, 2.0], [3.0]]), TypeError, "x", "an array", "list"),
    "masked array": (lambda: dense.forward(DENSE, np.ma.masked_equal(np.ones((2, 3)), 1)), TypeError, "x", "without a mask, which would be lost", "a masked array. Hand over .filled(…)"),
    "masked targets": (lambda: rnn.loss(RNN, X, np.ma.masked_equal(Y, 1)), TypeError, "y", "without a mask", "a masked array"),
    "another byte order": (lambda: dense.forward(DENSE, np.ones((2, 3), ">f4")), TypeError, "x", "byte order of this machine", '>f4. Convert it with .astype(a.dtype.newbyteorder("="))'),
    "beyond float32": (lambda: narrow(lambda: dense.forward(DENSE, np.array([[1, -1e300, np.inf]] * 2))), ValueError, "x", "within 32 bits", "-1e+300. Or switch 64 bits on"),
    "beyond the dtype of the others": (lambda: dense.forward(DENSE, [[0.5, 1e39, 0.0]]), ValueError, "x", "within 32 bits", "1e+39."),
    "beyond halves": (lambda: heads.logistic(ones(2, 3).astype(jnp.float16), ones(3).astype(jnp.float16), 7e4, Y), ValueError, "c", "within 16 bits", "70000.0."),
    "no layers": (lambda: dense.layers(ones(2, 3), ()), ValueError, "W", "a tuple of arrays, at least one", "an empty tuple"),
    "another net's params": (lambda: rnn.forward(DENSE, X), TypeError, "params", "a rnn.Params, as rnn.init makes it", "dense.Params"),
    "params as a dict": (lambda: dense.forward({"W": 1}, X), TypeError, "params", "a dense.Params", "dict"),
    # values
    "label too high": (lambda: rnn.loss(RNN, X, np.array([0, 2])), ValueError, "y", "within 0 … 1 (one of 2 classes)", "2 at [1]"),
    "label negative": (lambda: heads.softmax(ones(2, 3), ones(3, 5), None, np.array([-1, 0])), ValueError, "k", "within 0 … 4", "-1 at [0]"),
    "label in a step": (lambda: rnn.loss(RNN, X, np.array([[0, 1, 0, 1, 0, 7]] * 2)), ValueError, "y", "within 0 … 1", "7 at [0, 5]"),
    "target above 1": (lambda: gated.loss(GATED, ones(2, 3), ones(2, 4), np.array([0, 2])), ValueError, "y", "within 0 … 1 (a probability)", "2 at [1]"),
    "target NaN": (lambda: heads.logistic(ones(2, 3), ones(3), None, nan_at(2, index=1)), ValueError, "t", "within 0 … 1", "nan at [1]"),
    "token too high": (lambda: textconv.forward(TOKENS, IDS + 7), ValueError, "x", "within 0 … 6 (a row of params.E)", "7 at [0, 0]"),
    "token negative": (lambda: textconv.forward(TOKENS, IDS - 1), ValueError, "x", "within 0 … 6", "-1 at [0, 0]"),
    "token wider than 32 bits": (lambda: narrow(lambda: textconv.forward(TOKENS, IDS + 2**32)), ValueError, "x", "within 32 bits", "4294967296"),
    "id too high": (lambda: rnn.forward(RNN, IDS + 3), ValueError, "x", "within 0 … 2 (a row of U)", "3 at [0, 0]"),
    "length too large": (lambda: rnn.forward(RNN, X, np.array([6, 7])), ValueError, "lengths", "within 0 … 6 (the steps of x)", "7 at [1]"),
    "length negative": (lambda: textconv.forward(TEXT, X, np.array([-1, 6])), ValueError, "lengths", "within 0 … 6 (the words of x)", "-1 at [0]"),
    "NaN in x": (lambda: rnn.forward(RNN, nan_at(2, 6, 3, index=(1, 2, 0))), ValueError, "x", "free of NaN", "NaN at [1, 2, 0]"),
    "NaN in text": (lambda: textconv.forward(TEXT, nan_at(2, 6, 3, index=(0, 5, 2)), np.array([6, 6])), ValueError, "x", "free of NaN", "NaN at [0, 5, 2]"),
    "NaN in h0": (lambda: rnn.forward(RNN, X, h0=nan_at(2, 4, index=(0, 1))), ValueError, "h0", "free of NaN", "NaN at [0, 1]"),
    "NaN in eta": (lambda: gated.forward(GATED, ones(2, 3), nan_at(2, 4, index=(1, 1))), ValueError, "eta", "free of NaN", "NaN at [1, 1]"),
    "NaN in gated x": (lambda: gated.forward(GATED, nan_at(2, 3, index=(1, 1)), ones(2, 4)), ValueError, "x", "free of NaN", "NaN at [1, 1]"),
    "NaN in dense x": (lambda: dense.predict(DENSE, nan_at(2, 3, index=(1, 1))), ValueError, "x", "free of NaN", "NaN at [1, 1]"),
    "NaN in h": (lambda: heads.softmax(nan_at(2, 3, index=(0, 0)), ones(3, 5), None, Y), ValueError, "h", "free of NaN", "NaN at [0, 0]"),
    "NaN in weights": (lambda: heads.softmax(ones(2, 3), ones(3, 5), None, Y, weights=nan_at(2, index=0)), ValueError, "weights", "free of NaN", "NaN at [0]"),
    # options
    "reduction": (lambda: dense.loss(DENSE, ones(2, 3), Y, reduction="avg"), ValueError, "reduction", "one of 'mean', 'sum', 'none'", "'avg'"),
    "save": (lambda: rnn.forward(RNN, X, save="some"), ValueError, "save", "'auto', 'all'", "'some'"),
    "save 0": (lambda: rnn.forward(RNN, X, save=0), ValueError, "save", "at least 1", "0"),
    "save fraction": (lambda: rnn.forward(RNN, X, save=2.5), TypeError, "save", "an integer", "2.5"),
    "truncate 0": (lambda: rnn.forward(RNN, X, truncate=0), ValueError, "truncate", "at least 1", "0"),
    "truncate fraction": (lambda: rnn.forward(RNN, X, truncate=1.5), TypeError, "truncate", "an integer", "1.5"),
    "every_step": (lambda: rnn.forward(RNN, X, every_step="no"), TypeError, "every_step", "True or False", "'no'"),
    "every_step of a loss": (lambda: rnn.loss(RNN, X, Y, every_step=1), TypeError, "every_step", "True or False", "1"),
    "one class": (lambda: rnn.loss(RNN._replace(V=ones(4, 1), c=ones(1)), X, Y), ValueError, "params.V", "C at least 2", "[4, 1]"),
    "one class of a head": (lambda: heads.softmax(ones(2, 3), ones(3, 1), None, Y), ValueError, "V", "C at least 2", "[3, 1]"),
    "negative weights": (lambda: heads.softmax(ones(2, 3), ones(3, 5), None, Y, weights=-ones(2)), ValueError, "weights", "within 0 … inf", "-1.0 at [0]"),
    "negative whole weights": (lambda: dense.loss(DENSE, ones(2, 3), Y, weights=np.array([-1, 1])), ValueError, "weights", "a mean has no negative weights", "-1 at [0]"),
    "wide weights of halves": (lambda: heads.softmax(*(a.astype(jnp.bfloat16) for a in (ones(2, 3), ones(3, 5))), None, Y, weights=np.array([1e39, 1.0])), ValueError, "weights", "of a sum within 1e-19", "1e+39. Scale them"),
    "descent of another net": (lambda: rnn.descend(RNN, DENSE, 0.1), TypeError, "grads", "a rnn.Params", "dense.Params"),
    "weights that overflow": (lambda: heads.softmax(ones(2, 3), ones(3, 5), None, Y, weights=3e38 * ones(2)), ValueError, "weights", "of a sum within 1e-19 … 2e+19, or 0", "6e+38. Scale them"),
    "weights that vanish": (lambda: rnn.loss(RNN, X, Y, weights=np.array([1e-40, 0], np.float32)), ValueError, "weights", "of a sum within", "1e-40. Scale them"),
    "descent in another dtype": (lambda: rnn.descend(RNN, RNN._replace(W=ones(4, 4).astype(jnp.bfloat16)), 0.1), TypeError, "grads.W", "float32", "bfloat16"),
    "descent in another shape": (lambda: rnn.descend(RNN, RNN._replace(b=ones(1)), 0.1), ValueError, "grads.b", "H = 4 (from params.U)", "[1]"),
    "descent without a bias": (lambda: rnn.descend(RNN, RNN._replace(b=None), 0.1), TypeError, "grads.b", "an array, as params.b is", "None"),
    "descent with a bias": (lambda: rnn.descend(RNN._replace(c=None), RNN, 0.1), TypeError, "grads.c", "None, which params.c is", "an array"),
    "descent of one output": (lambda: rnn.descend(RNN._replace(V=ones(4), c=ones()), RNN, 0.1), ValueError, "grads.V", "[H]", "[4, 2]"),
    "descent at a complex rate": (lambda: rnn.descend(RNN, RNN, 0.1j), TypeError, "alpha", "a real number", "complex"),
    "descent at no rate": (lambda: rnn.descend(RNN, RNN, np.nan), ValueError, "alpha", "free of NaN", "NaN"),
    "descent at many rates": (lambda: rnn.descend(RNN, RNN, ones(2)), ValueError, "alpha", "a number", "shape [2]"),
    "reference loss": (lambda: heads.reference_loss(ones(4, 3), np.zeros(2, int)), ValueError, "y", "B = 4 (from z)", "[2]"),
    "reference of one class": (lambda: heads.reference_loss(ones(2, 1), [0, 0]), ValueError, "z", "two classes at least", "[2, 1]"),
    "reference label": (lambda: heads.reference_loss(ones(1, 3), [-1]), ValueError, "y", "within 0 … 2", "-1 at [0]"),
    # init
    "init bias": (lambda: rnn.init(KEY, 3, 4, 2, bias="no"), TypeError, "bias", "True or False", "'no'"),
    "init 0-d sizes": (lambda: dense.init(KEY, sizes=np.array(3)), ValueError, "sizes", "a sequence", "array(3)"),
    "init bytes": (lambda: dense.init(KEY, sizes=b"ab"), ValueError, "sizes", "a sequence", "b'ab'"),
    "init set": (lambda: textconv.init(KEY, widths={3, 5}), ValueError, "widths", "a sequence", "{3, 5}"),
    "init huge": (lambda: rnn.init(KEY, 2**40, 4, 2), ValueError, "inputs", "at most 2147483647", "1099511627776"),
    "init no dtype": (lambda: rnn.init(KEY, 3, 4, 2, dtype=None), TypeError, "dtype", "float64, float32", "None"),
    "init old key": (lambda: rnn.init(np.zeros(3, np.uint32), 3, 4, 2), TypeError, "key", "one key", "(3,)"),
    "init size": (lambda: rnn.init(KEY, inputs=0, hidden=4, outputs=2), ValueError, "inputs", "at least 1", "0"),
    "init float size": (lambda: rnn.init(KEY, inputs=3, hidden=4.0, outputs=2), TypeError, "hidden", "an integer", "4.0"),
    "init boolean size": (lambda: gated.init(KEY, x=3, eta=True, hidden=4), TypeError, "eta", "an integer", "True"),
    "init widths": (lambda: textconv.init(KEY, widths=(3, 0)), ValueError, "widths[1]", "at least 1", "0"),
    "init no widths": (lambda: textconv.init(KEY, widths=()), ValueError, "widths", "one window width or more", "()"),
    "init one width": (lambda: textconv.init(KEY, widths=3), ValueError, "widths", "a sequence", "3"),
    "init vocab": (lambda: textconv.init(KEY, vocab=0), ValueError, "vocab", "at least 1", "0"),
    "init layers": (lambda: dense.init(KEY, sizes=(3,)), ValueError, "sizes", "two layer sizes or more", "(3,)"),
    "init layer": (lambda: dense.init(KEY, sizes=(3, -1)), ValueError, "sizes[1]", "at least 1", "-1"),
    "init dtype": (lambda: dense.init(KEY, dtype=jnp.int32), TypeError, "dtype", "float64, float32, bfloat16, float16", "int32"),
    "init dtype name": (lambda: dense.init(KEY, dtype="float33"), TypeError, "dtype", "float64, float32", "'float33'"),
    "init x64": (lambda: narrow(lambda: rnn.init(KEY, 3, 4, 2, dtype="float64")), ValueError, "dtype", "jax_enable_x64", "float64"),
    "init key": (lambda: rnn.init(0, inputs=3, hidden=4, outputs=2), TypeError, "key", "jax.random.key(0)", "int"),
    "init old key of another generator": (lambda: rnn.init(jax.random.PRNGKey(0, impl="rbg"), 3, 4, 2), TypeError, "key", "one key", "(4,)"),
    "init old keys": (lambda: rnn.init(np.zeros((2, 2), np.uint32), 3, 4, 2), TypeError, "key", "one key", "(2, 2)"),
    "init keys": (lambda: rnn.init(jax.random.split(KEY), 3, 4, 2), TypeError, "key", "one key", "(2,)"),
}  # fmt: skip


def narrow(call):
    with jax.enable_x64(False):
        return call()


@pytest.mark.parametrize("name", BAD)
def test_bad_call(name):
    call, error, argument, expected, came = BAD[name]
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert re.match(rf"\w+\.\w+: {re.escape(argument)} must be ", message), message
    assert expected in message
    assert came in message.split("; got ")[1]
    assert "\n" not in message


SEEN_WHILE_TRACING = [
    name
    for name in BAD
    if not name.startswith(
        (
            "init",
            "label",
            "target",
            "token",
            "id ",
            "length",
            "NaN",
            "text for",
            "nothing",
            "ragged",
            "list",
            "object",
            "negative",
            "reference label",
            "weights that",
            "beyond",
            "descent at no rate",
        )
    )
]


@pytest.mark.parametrize("name", SEEN_WHILE_TRACING)
def test_bad_call_under_jit(name):
    """What shapes and dtypes tell is told under `jit` too."""
    call, error, argument, *_ = BAD[name]
    with pytest.raises(error, match=rf"\w+\.\w+: {re.escape(argument)} must be "):
        jax.jit(call)()


def test_values_are_checked_under_grad():
    """`jax.grad` of a loss traces the parameters alone: the data are still looked at."""
    with pytest.raises(ValueError, match=r"rnn.loss: y must be within 0 … 1 \(one of 2 classes\); got 5 at \[1\]"):
        jax.grad(rnn.loss)(RNN, X, np.array([0, 5]))


def test_concrete_values_are_checked_under_jit():
    """Data that a jitted function closes over are concrete, and checked while it is traced."""
    x = nan_at(2, 6, 3, index=(0, 0, 0))
    for data in (x, np.asarray(x)):
        with pytest.raises(ValueError, match="free of NaN"):
            jax.jit(lambda p, data=data: rnn.loss(p, data, Y))(RNN)
    with pytest.raises(ValueError, match="y must be within"):
        jax.jit(lambda p: rnn.loss(p, X, np.array([0, 2], np.uint8)))(RNN)


def test_traced_flag_is_refused():
    with pytest.raises(TypeError, match=r"rnn\.forward: every_step must be True or False"):
        jax.jit(rnn.forward)(RNN, X, every_step=True)


def test_nan_under_jit_is_nan():
    """A NaN that could not be seen is never a finite number."""
    x = nan_at(2, 6, 3, index=(1, 2, 0))
    losses = jax.jit(lambda x: rnn.loss(RNN, x, Y, reduction="none"))(x)
    assert np.isnan(losses).tolist() == [False, True]
    for loss, args in [
        (dense.loss, (DENSE, x[:, 2], Y)),
        (gated.loss, (GATED, x[:, 2], ones(2, 4), Y)),
        (textconv.loss, (TEXT, x, Y)),
    ]:
        assert np.isnan(jax.jit(lambda *a, loss=loss: loss(*a, reduction="none"))(*args)).tolist() == [False, True]
        grads = jax.jit(jax.grad(loss))(*args)
        assert all(np.isnan(g).any() for g in jax.tree.leaves(grads))


def test_lists_and_numpy_arrays_serve():
    assert dense.forward(DENSE, np.ones((2, 3), np.float32)).shape == (2, 2)
    assert jax.jit(lambda p: rnn.loss(p, X, [0, 1], [6, 3]))(RNN) == rnn.loss(RNN, X, Y, np.array([6, 3]))
    assert float(rnn.loss(RNN, X, [0, 1], [6, 3])) == float(rnn.loss(RNN, X, Y, np.array([6, 3])))


def test_numbers_of_pythons_own_take_the_dtype_of_the_others():
    """With 64 bits on as without; those of NumPy have a dtype and keep it."""
    for wide in (True, False):
        with jax.enable_x64(wide):
            assert heads.logistic([[0.5, 2.0]], np.ones(2, np.float32), 0.5, [0.3]).dtype == np.float32
            assert dense.forward(DENSE, [[0.1, 0.2, 0.3]]).dtype == np.float32
            assert rnn.forward(RNN._replace(b=[0.1] * 4), X).dtype == np.float32
            assert (
                gated.loss(GATED._replace(c=0.5), ones(2, 3), ones(2, 4), [0.2, 1.0], weights=[1.0, 0.5]).dtype
                == np.float32
            )
    with pytest.raises(TypeError, match="c must be float32"):
        heads.logistic(ones(2, 3), ones(3), np.float64(0.5), ones(2))


def test_old_keys_of_the_default_generator():
    def drawn(key):
        return dense.init(key, sizes=(3, 2)).W[0]

    assert (drawn(jax.random.PRNGKey(3)) == drawn(jax.random.key(3))).all()
    with jax.default_prng_impl("rbg"):
        assert (drawn(jax.random.PRNGKey(3)) == drawn(jax.random.key(3))).all()
