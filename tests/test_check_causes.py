"""The checker's explanations: which equation, which step, which factor; and what the arguments cannot show."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.mutants import DERIVATIONS, KINDS, MUTANTS, SUBJECTS
from benchmarks.mutants.__main__ import drawn, judge, report_on
from jaxnets import check
from jaxnets.check import _board

rng = np.random.default_rng(0)
W = rng.normal(size=(3, 4))
X = rng.normal(size=(5, 3))


class Params(NamedTuple):
    W: jax.Array
    b: jax.Array


def params():
    return Params(jnp.asarray(W), jnp.asarray([0.1, -0.2, 0.3, 0.4]))


def loss(params, x):
    return jnp.sum(jnp.tanh(x @ params.W + params.b) ** 2)


@pytest.fixture(autouse=True)
def ordinary_settings():
    """The functions that are checked here are written as users write theirs: ranks and dtypes are promoted."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), jax.enable_x64(True):
        yield


def kinds(leaf):
    return [cause.kind for cause in leaf.causes]


# On the numbers of a leaf


def mean_loss(W, x):
    return jnp.mean(jnp.sum(jnp.tanh(x @ W) ** 2, 1))


@pytest.mark.parametrize(
    ("factor", "kind", "told"),
    [
        (lambda W, x: len(x), "batch", "axis 0 of x (4); with that axis one shorter, 3"),
        (lambda W, x: 1 / len(x), "batch", "times 1 / axis 0 of x (4); with that axis one shorter, 1 / 3"),
        (lambda W, x: x.shape[1], "scale", "axis 1 of x (4); with that axis one shorter"),
        (lambda W, x: 4, "scale", "times 4"),
    ],
)
def test_a_factor_is_told_from_another_of_the_same_size(factor, kind, told):
    """Batch and width are both 4: only other lengths show which of them it is."""
    right = jax.grad(mean_loss)
    x, square = jnp.asarray(rng.normal(size=(4, 4))), jnp.asarray(rng.normal(size=(4, 3)))
    report = check.gradient(mean_loss, lambda W, x: factor(W, x) * right(W, x), (square, x))
    if told.startswith("axis 1"):  # a shorter axis 1 of x alone does not fit W: nothing more can be told
        assert kind in kinds(report["W"])
    else:
        assert any(c.kind == kind and told in c.detail for c in report["W"].causes[:3])


def test_blocks_in_another_order():
    def by_hand(p, x):
        g = jax.grad(loss)(p, x)
        i, f, o = jnp.split(g.W, 3, 1)
        return g._replace(W=jnp.concatenate([f, i, o], 1))

    wide = Params(jnp.asarray(rng.normal(size=(3, 6))), jnp.zeros(6))
    cause = check.gradient(loss, by_hand, (wide, X))["W"].causes[0]
    assert cause.kind == "place"
    assert "the 3 blocks of axis 1 stand in the order (1, 0, 2)" in cause.detail


def test_a_winner_that_is_another():
    def f(x):
        return jnp.sum(jnp.max(x, 1) ** 2)

    def by_hand(x):
        return 2 * jnp.max(x, 1)[:, None] * (x == jnp.min(x, 1)[:, None])

    assert "place" in kinds(check.gradient(f, by_hand, (jnp.asarray(W),))["x"])


# At an equation


def test_the_equation_is_named_with_its_line():
    def by_hand(p, x):
        h = jnp.tanh(x @ p.W + p.b)
        return x.T @ (2 * h * (1 - h)), (2 * h * (1 - h * h)).sum(0)

    report = check.gradient(loss, by_hand, (params(), X))
    cause = report["W"].causes[0]
    assert cause.kind == "factor"
    assert "jnp.tanh(x @ params.W + params.b)" in cause.detail
    assert "test_check_causes.py line" in cause.detail
    assert cause.leftover < 1e-8


def rnn_loss(W, U, x):
    def step(h, x_t):
        h = jnp.tanh(h @ W + x_t @ U)
        return h, h

    h, _ = jax.lax.scan(step, jnp.zeros(4), x)
    return jnp.sum(h**2)


def rnn_grads(W, U, x, every=None, shift=0, keep=1.0):
    h = [jnp.zeros(4)]
    for x_t in x:
        h.append(jnp.tanh(h[-1] @ W + x_t @ U))
    carried, W_bar, U_bar = 2 * h[-1], 0 * W, 0 * U
    for t in range(len(x), 0, -1):
        delta = carried * (1 - h[t] ** 2)
        W_bar += jnp.outer(h[t - 1 + shift], delta)
        U_bar += jnp.outer(x[t - 1], delta)
        carried = keep * (W @ delta)
        if every and (t - 1) % every == 0:
            carried = 0 * carried
    return W_bar, U_bar


@pytest.mark.parametrize(
    ("mistake", "kind"),
    [
        ({}, None),
        ({"every": 2}, "truncation"),
        ({"every": 1}, "truncation"),
        ({"every": 3}, "truncation"),
        ({"shift": 1}, "shift"),
        ({"keep": 0.0}, "path"),
        ({"keep": -1.0}, "sign"),
    ],
)
def test_mistakes_in_time(mistake, kind):
    args = (jnp.asarray(W[:, :4].T @ W[:, :4] / 8), jnp.asarray(W[:2]), jnp.asarray(rng.normal(size=(6, 2))))
    report = check.gradient(rnn_loss, functools.partial(rnn_grads, **mistake), args, argnums=(0, 1))
    assert report.ok == (kind is None)
    if kind:
        assert kind in kinds(report["W"])[:3]


def test_overwritten_rows_of_a_table():
    tokens = jnp.array([1, 3, 1, 0])
    weights = jnp.asarray(rng.normal(size=(4, 2)))

    def f(table):
        return jnp.sum(table[tokens] * weights)

    report = check.gradient(f, lambda table: jnp.zeros_like(table).at[tokens].set(weights), (jnp.ones((5, 2)),))
    assert report["table"].causes[0].kind == "overwrite"


def test_the_derivative_of_the_logistic_function_once_too_often():
    """Cross-entropy's own derivative is y − t; somebody who learned squares first multiplies by y (1 − y)."""

    def f(w, x, t):
        s = x @ w
        return jnp.mean(jax.nn.softplus(s) - t * s)

    def by_hand(w, x, t):
        y = jax.nn.sigmoid(x @ w)
        return x.T @ ((y - t) * y * (1 - y)) / len(t)

    cause = check.gradient(f, by_hand, (jnp.asarray(W[:, 0]), X, jnp.asarray([0.0, 1, 1, 0, 1])))["w"].causes[0]
    assert cause.kind == "factor"
    assert "σ(x) (1 − σ(x)) is there once too often" in cause.detail


def test_numpy_loops_are_told_as_loops():
    def f(W, x):
        h = np.zeros(4)
        for x_t in x:
            h = np.tanh(h @ W + x_t)
        return np.sum(h**2)

    def by_hand(W, x, truncated=0, transposed=False):
        h = [np.zeros(4)]
        for x_t in x:
            h.append(np.tanh(h[-1] @ W + x_t))
        carried, W_bar = 2 * h[-1], 0 * W
        for t in range(len(x), truncated, -1):
            delta = carried * (1 - h[t] ** 2)
            W_bar += np.outer(h[t - 1], delta)
            carried = (W.T if transposed else W) @ delta
        return W_bar

    args = (rng.normal(size=(4, 4)) / 2, rng.normal(size=(5, 4)))
    check.gradient(f, by_hand, args).raise_if_wrong()
    for mistake, kind, told in [
        ({"truncated": 3}, "truncation", "is there in the last step of 5 alone"),
        ({"transposed": True}, "transpose", "the other factor is transposed"),
    ]:
        causes = check.gradient(f, functools.partial(by_hand, **mistake), args)["W"].causes[:3]
        assert any(c.kind == kind and told in c.detail for c in causes), causes


def test_numbers_that_are_not_finite_do_not_hide_a_cause():
    """A mask of −∞ stands in the program; alterations elsewhere must still be told."""

    def f(w, x):
        s = jnp.where(x > 0, x * w, -jnp.inf)
        return jnp.sum(jnp.exp(jnp.max(s, 1))) + jnp.sum(jnp.tanh(x @ w))

    def by_hand(w, x):
        g = jax.grad(f)(w, x)
        h = jnp.tanh(x @ w)
        return g + x.T @ ((1 - h) - (1 - h * h))

    report = check.gradient(f, by_hand, (jnp.asarray([0.3, 0.5, 0.9]), X + 1))
    assert report["w"].causes[0].kind == "factor"


def test_a_search_that_breaks_off_leaves_the_verdict(monkeypatch):
    def broken(self):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(_board.Board, "prepare", broken)
    report = check.gradient(loss, lambda p, x: jax.grad(loss)(p, x)._replace(W=jnp.sin(p.W)), (params(), X))
    assert report.first == "params.W"
    assert "the search for causes broke off (RuntimeError: no such thing)" in report.remarks


# The corpus: mistakes of every kind, and right functions


def sample():
    """A mutant for each kind, of different subjects as far as they go; all of them is what the benchmark is for."""
    # These take the longest.
    used = {"relu cnn", "lstm", "lstm, line by line", "gru", "rnn, every step", "rnn, last step", "attention"}
    chosen = {}
    for kind in sorted(KINDS):
        fitting = sorted((m for m in MUTANTS if kind in m.kinds), key=lambda m: len(m.kinds))
        chosen[kind] = next((m for m in fitting if m.subject.name not in used), fitting[0])
        used.add(chosen[kind].subject.name)
    return chosen


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_mutant_of_each_kind_is_seen_located_and_explained(kind):
    found = judge(sample()[kind])
    assert found["detected"]
    assert found["caused"], found
    assert found["located"] in (None, True)


@pytest.mark.parametrize("n", range(0, len(SUBJECTS) + len(DERIVATIONS), 5))
def test_no_right_function_is_called_wrong(n):
    subject = [*SUBJECTS, *DERIVATIONS][n]
    dtype = ("float64", "float32", "bfloat16", "float16")[n // 5 % 4]
    report_on(subject, subject.backward, drawn(subject, n, dtype)).raise_if_wrong()


# What the arguments cannot show


def test_bad_test_inputs_are_called_out():
    def f(p, x, k):
        def step(h, x_t):
            return jnp.tanh(h @ p["W"] + x_t + p["b"]), None

        h, _ = jax.lax.scan(step, jnp.zeros((x.shape[1], 3)), x)
        return jnp.sum(h * p["E"][k])

    draws = {"W": jnp.eye(3), "b": jnp.zeros(3), "E": jnp.asarray(W.T)}
    report = check.gradient(f, jax.grad(f), (draws, jnp.asarray(50 * X[None, :1]), jnp.arange(1)))
    said = "\n".join(report.remarks)
    assert report.ok
    for remark in (
        "of length 1: axis 0 of x, axis 1 of x",
        "all entries of p.b are equal",
        "p.W is symmetric",
        "a scan of one step",
        "are saturated",
    ):
        assert remark in said
    report = check.gradient(f, jax.grad(f), (draws, jnp.asarray(X[None, :4]), jnp.arange(4)))
    assert any("no number occurs twice in k" in remark for remark in report.remarks)


def test_good_test_inputs_are_not():
    assert check.gradient(loss, jax.grad(loss), (params(), X)).remarks == []


def test_below_what_a_dtype_can_hold():
    """Numbers that underflow in their own precision are no mistake of the formula."""

    def f(x):
        return 1e-9 * jnp.sum(x**2)

    report = check.gradient(f, lambda x: (2 * x) * 1e-9, (jnp.asarray(W, "float16"),))
    assert report.ok
    assert any("smaller than float16 can hold" in remark for remark in report["x"].remarks)
