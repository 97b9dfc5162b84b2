"""The checker where precision decides: casts inside, random numbers, kinks within a derivation, checks of nothing."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import check

rng = np.random.default_rng(0)
W = rng.normal(size=(3, 4))
X = rng.normal(size=(5, 3))


class Params(NamedTuple):
    W: jax.Array
    b: jax.Array


def params(dtype="float64"):
    return Params(jnp.asarray(W, dtype), jnp.asarray([0.1, -0.2, 0.3, 0.4], dtype))


def loss(params, x):
    return jnp.sum(jnp.tanh(x @ params.W + params.b) ** 2)


@pytest.fixture(autouse=True)
def ordinary_settings():
    """The functions that are checked here are written as users write theirs: ranks and dtypes are promoted."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), jax.enable_x64(True):
        yield


# What the function does with its precision


def narrow(p, x):
    """Its own numbers are float32, whatever it is given."""
    return jnp.mean(jnp.tanh(x.astype("float32") @ p.W.astype("float32") + p.b.astype("float32")) ** 2)


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_a_cast_inside_is_no_kink(factor):
    def by_hand(p, x):
        g = jax.grad(narrow)(p, x)
        return g._replace(b=factor * g.b)

    report = check.gradient(narrow, by_hand, (params("float32"), jnp.asarray(X, "float32")))
    assert report["W"].verdict == "right"
    assert report["b"].verdict == ("right" if factor == 1 else "wrong")


def test_a_cast_inside_numpy_code_is_measured():
    def f(w, x):
        return float(np.mean(np.tanh(x.astype(np.float32) @ w.astype(np.float32)) ** 2))

    def by_hand(w, x, by=1.0):
        h = np.tanh(x @ w)
        return by * (x.T @ (2 * h * (1 - h * h) / h.size))

    report = check.gradient(f, by_hand, (W, X))
    assert report["w"].verdict in ("right", "undecidable")
    assert any("narrower float inside" in remark for remark in report.remarks)
    assert not check.gradient(f, functools.partial(by_hand, by=1.5), (W, X)).ok


def test_a_cast_before_a_mark():
    def forward(W, x):
        return jnp.mean(jnp.tanh(check.mark("z", x.astype("float32") @ W.astype("float32"))) ** 2)

    def backward(W, x, power=2):
        h = jnp.tanh(x @ W)
        z_bar = 2 * h * (1 - h**power) / h.size
        return {"z": z_bar, "W": x.T @ z_bar}

    args = (jnp.asarray(W), jnp.asarray(X))
    check.derivation(forward, backward, args).raise_if_wrong()
    assert check.derivation(forward, functools.partial(backward, power=1), args).first == "z"


def test_random_numbers_that_depend_on_the_precision():
    key = jax.random.key(3)

    def f(w, key):
        return jnp.sum(w**2 * jax.random.bernoulli(key, 0.5, w.shape))

    with jax.enable_x64(False):
        report = check.gradient(f, jax.grad(f), (jnp.asarray(W, "float32"), key))
    report.raise_if_wrong()
    assert any("random numbers" in remark for remark in report.remarks)


def test_long_integers_leave_the_callers_functions_as_they_were():
    tokens = np.array([[0, 1, 1], [2, 0, 2]])
    assert tokens.dtype == np.int64

    def f(table, tokens):
        return jnp.sum(jnp.tanh(table[tokens]) ** 2)

    with jax.enable_x64(False):
        args = (W.astype("float32"), tokens)
        check.gradient(f, jax.grad(f), args).raise_if_wrong()
        check.derivation(f, lambda t, k: {"table": jax.grad(f)(t, k)}, args).raise_if_wrong()
        jax.grad(f)(*args)


def test_a_derivation_at_a_kink_takes_either_side():
    def forward(W, x):
        return jnp.mean(jax.nn.relu(check.mark("z", x @ W)))

    def backward(W, x, at_zero=0.0):
        z = x @ W
        z_bar = ((z > 0) + at_zero * (z == 0)) / z.size
        return {"z": z_bar, "W": x.T @ z_bar, "x": z_bar @ W.T}

    args = (jnp.asarray(W), jnp.asarray(X).at[0].set(0.0))
    for at_zero, verdict in ((0.0, "at a kink"), (1.0, "at a kink"), (0.5, "right"), (2.0, "wrong")):
        report = check.derivation(forward, functools.partial(backward, at_zero=at_zero), args)
        assert report["z"].verdict == verdict
        assert report.ok == (verdict != "wrong")


def test_a_derivation_that_is_another_in_its_own_precision():
    def backward(w):
        return {"z": 2 * w if w.dtype == jnp.float64 else 3 * w}

    report = check.derivation(lambda w: jnp.sum(check.mark("z", w) ** 2), backward, (jnp.asarray(W, "float32"),))
    assert report["z"].verdict == "wrong"


def test_a_key_beside_the_arguments_of_rules():
    @jax.custom_vjp
    def twice(x):
        return 2 * x

    twice.defvjp(lambda x: (2 * x, None), lambda _, bar: (2 * bar,))
    args = jnp.asarray(W), jax.random.key(0)
    report = check.rules(lambda w, key: jnp.sum(twice(w) * jax.random.normal(key, w.shape)), args)
    assert report.ok
    assert report.remarks == []
    report = check.rules(lambda w: jnp.sum(twice(w)), (W,), allow=["thrice"])
    assert "allow names thrice, which is no rule that was found" in report.remarks


def test_what_cannot_be_differentiated_is_named():
    for call, told in [
        (lambda: check.gradient(lambda k, w: 0.0, lambda k, w: k, (np.arange(3), W)), r"k must hold floating .*int64$"),
        (lambda: check.gradient(lambda w: None, lambda w: w, (W,)), "f must return one number; got NoneType"),
        (lambda: check.gradient(lambda w: (w.sum(), w), lambda w: w, (W,)), "got tuple. Return the loss alone"),
        (lambda: check.gradient(loss, jax.grad(loss), (params(), X), argnums="p"), "argnums must be a number"),
    ]:
        with pytest.raises(TypeError, match=told):
            call()


# A check of nothing, and what was not confirmed


def test_a_check_of_nothing_is_not_ok():
    for report in (
        check.derivation(lambda w: jnp.sum(w**2), lambda w: {}, (W,)),
        check.rules(lambda w: jnp.sum(w**2), (W,)),
    ):
        assert not report.ok
        assert "NOTHING COMPARED" in str(report)
        with pytest.raises(check.AgreementError):
            report.raise_if_wrong()


def test_differences_confirm_only_what_they_saw():
    report = check.gradient(lambda a: jnp.log(a).sum(), lambda a: 1 / a, (-np.abs(W),))
    assert "confirmed" not in report.reference
    assert any("f is nan at these arguments" in remark for remark in report.remarks)
    assert "confirmed by differences" in check.gradient(loss, jax.grad(loss), (params(), X)).reference


def test_a_numpy_gradient_that_is_zero():
    report = check.gradient(lambda w: np.maximum(-1 - w @ w, 0.0), lambda w: 0 * w, (W[0],))
    assert report["w"].verdict == "right"


def test_the_smallest_error_has_the_smallest_explanation():
    """An error of a millionth is not explained by what leaves all of it."""

    def by_hand(p, x):
        g = jax.grad(loss)(p, x)
        return g._replace(W=g.W.at[1, 2].add(1e-6 * jnp.abs(g.W).max()))

    causes = check.gradient(loss, by_hand, (params(), X))["W"].causes
    assert causes[0].kind == "constant"
    assert "only 1 of 12 entries, the first at [1, 2]" in causes[0].detail
