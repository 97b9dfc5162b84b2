"""The checker: verdicts, names, causes, kinks, precision."""

import functools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import check
from jaxnets.check import _compiled
from jaxnets.check._picture import errors_of

pytestmark = pytest.mark.usefixtures("ordinary_settings")

rng = np.random.default_rng(0)
W = rng.normal(size=(3, 4))
X = rng.normal(size=(5, 3))


class Params(NamedTuple):
    W: jax.Array
    b: jax.Array


def loss(params, x):
    return jnp.sum(jnp.tanh(x @ params.W + params.b) ** 2)


def grads(params, x, by=1.0):
    h = jnp.tanh(x @ params.W + params.b)
    a_bar = 2 * h * (1 - h * h)
    return {"W": x.T @ a_bar, "b": by * a_bar.sum(0)}


def params(dtype="float64"):
    return Params(jnp.asarray(W, dtype), jnp.asarray([0.1, -0.2, 0.3, 0.4], dtype))


def kinds(leaf):
    return [cause.kind for cause in leaf.causes]


# Names and forms


@pytest.mark.parametrize(
    "form", [dict, tuple, list, lambda g: Params(*g.values()), lambda g: {"params.W": g["W"], "b": g["b"]}]
)
def test_gradients_come_in_any_form(form):
    def by_hand(p, x):
        g = grads(p, x)
        return form(g.values()) if form in (tuple, list) else form(g)

    report = check.gradient(loss, by_hand, (params(), X))
    assert report.ok
    assert [leaf.name for leaf in report] == ["params.W", "params.b"]
    assert report["W"] is report["params.W"]


def test_names_follow_keys_lists_and_star_arguments():
    def f(*args, scale=2.0):
        first, second = args
        return scale * jnp.sum(first["layers"][0]["W"] * second)

    tree = {"layers": [{"W": jnp.ones(3)}]}
    report = check.gradient(f, lambda a, b: (2 * b, 2 * a["layers"][0]["W"]), (tree, jnp.arange(3.0)), argnums=(0, 1))
    assert [leaf.name for leaf in report] == ["args[0].layers[0].W", "args[1]"]
    assert report["layers[0].W"].verdict == report["W"].verdict == "right"
    with pytest.raises(KeyError, match="no such leaf"):
        report["V"]


def test_an_ambiguous_name_is_refused():
    tree = [{"W": jnp.ones(2)}, {"W": jnp.ones(2)}]
    report = check.gradient(lambda p: jnp.sum(p[0]["W"] * p[1]["W"]), lambda p: [p[1], p[0]], (tree,))
    assert report.ok
    with pytest.raises(KeyError, match=r"which of p\[0\].W, p\[1\].W"):
        report["W"]


def test_a_missing_leaf_is_wrong():
    report = check.gradient(loss, lambda p, x: {"W": grads(p, x)["W"]}, (params(), X))
    assert report["W"].verdict == "right"
    assert report["b"].verdict == "wrong"
    assert kinds(report["b"]) == ["shape"]
    assert report.first == "params.b"


def test_the_callers_error_is_told_with_its_line():
    def by_hand(p, x):
        return x @ p.W.T

    with pytest.raises(check.CallerError, match=r"by_hand raised .* line \d+, in by_hand: `return x @ p.W.T`") as told:
        check.gradient(loss, by_hand, (params(), X))
    assert "(5, 3)" in str(told.value)
    assert told.value.__cause__ is not None


def test_bad_calls_are_refused_by_name():
    with pytest.raises(TypeError, match="args must be a tuple"):
        check.gradient(loss, grads, params().W)
    with pytest.raises(ValueError, match="argnums must lie within"):
        check.gradient(loss, grads, (params(), X), argnums=2)
    with pytest.raises(ValueError, match=r"must return one number; got shape \(5,\)"):
        check.gradient(lambda w: X @ w, lambda w: w, (jnp.ones(3),))
    for argnums in (0, None):
        with pytest.raises(TypeError, match="k must hold floating numbers to differentiate by; got int64"):
            check.gradient(lambda k: jnp.sum(k), lambda k: k, (jnp.arange(3),), argnums)
    with pytest.raises(TypeError, match="args must hold floating numbers to differentiate by; got nothing"):
        check.gradient(lambda: 0.0, lambda: (), (), None)


def test_the_report_is_data_and_text():
    report = check.gradient(loss, functools.partial(grads, by=1.01), (params(), X))
    told = json.loads(report.to_json())
    assert told["ok"] is report.ok is False
    assert told["first"] == report.first == "params.b"
    assert told["leaves"][1]["causes"][0]["kind"] == "scale"
    assert "params.b  wrong" in str(report)
    with pytest.raises(check.AgreementError, match=r"params\.b"):
        report.raise_if_wrong()
    assert report["b"].worst is not None
    assert report["b"].error == pytest.approx(0.01, rel=1e-3)
    assert report["b"].ulp == pytest.approx(0.01 / np.finfo(float).eps, rel=1e-3)


def test_the_same_inputs_give_the_same_report():
    """To the letter, the search for causes included."""
    by_hand = functools.partial(grads, by=-1.5)
    one, other = (check.gradient(loss, by_hand, (params(), X)).to_json() for _ in range(2))
    assert one == other


def test_a_compiler_without_our_options_is_no_hindrance(monkeypatch):
    monkeypatch.setattr(_compiled, "_QUICK", {"xla_no_such_option": 1})
    _compiled._options.cache_clear()
    try:
        assert _compiled._options() == {}
        assert not check.gradient(loss, functools.partial(grads, by=2.0), (params(), X)).ok
    finally:
        _compiled._options.cache_clear()


# NumPy


def numpy_loss(w, x):
    return np.sum(np.tanh(x @ w))


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "right"), (1.0001, "wrong")])
def test_numpy_functions(factor, verdict):
    report = check.gradient(numpy_loss, lambda w, x: factor * x.T @ (1 - np.tanh(x @ w) ** 2), (W, X))
    assert report["w"].verdict == verdict
    assert "jax.numpy in NumPy's place" in report.reference


def test_numpy_by_hand_beside_a_jax_loss():
    def by_hand(p, x):
        h = np.tanh(x @ np.asarray(p.W) + np.asarray(p.b))
        return 2 * x.T @ (h * (1 - h * h)), np.sum(2 * h * (1 - h * h), 0)

    check.gradient(loss, by_hand, (params("float32"), X.astype(np.float32))).raise_if_wrong()


def test_a_wrong_entry_is_found_by_halving():
    """Where there is no program to differentiate, and too many entries to go through one by one."""
    w = rng.normal(size=6000)

    def written_into(w):
        out = np.zeros(1)
        out[0] = np.sum(np.sin(w))
        return out[0]

    def by_hand(w):
        g = np.cos(w)
        g[4321] *= -1
        return g

    report = check.gradient(written_into, by_hand, (w,))
    assert report["w"].verdict == "wrong"
    assert report["w"].worst == (4321,)


def test_a_complex_step_is_not_trusted_through_abs():
    report = check.gradient(lambda x: np.sum(np.abs(x) * x), lambda x: 2 * np.abs(x), (np.array([1.0, -2.0]),))
    assert report.ok


# Precision


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("x64", [True, False])
def test_a_small_error_is_seen_in_every_dtype(dtype, x64):
    with jax.enable_x64(x64):
        if dtype == "float64" and not x64:
            return
        args = (params(dtype), jnp.asarray(X, dtype))
        check.gradient(loss, grads, args).raise_if_wrong()
        report = check.gradient(loss, functools.partial(grads, by=1.01), args)
        assert report["b"].verdict == "wrong"
        assert report["W"].verdict == "right"


def test_small_and_large_leaves_side_by_side():
    def f(a, b):
        return jnp.sum(jnp.sin(1e8 * a)) + jnp.sum(jnp.sin(1e-8 * b))

    def by_hand(a, b, wrong=1.0):
        return 1e8 * jnp.cos(1e8 * a), wrong * 1e-8 * jnp.cos(1e-8 * b)

    args = (jnp.arange(1.0, 4) * 1e-8, jnp.arange(1.0, 6) * 1e8)
    assert check.gradient(f, by_hand, args, argnums=(0, 1)).ok
    report = check.gradient(f, functools.partial(by_hand, wrong=1.001), args, argnums=(0, 1))
    assert [leaf.verdict for leaf in report] == ["right", "wrong"]


def test_one_percent_of_a_small_bias_beside_a_hundred_thousand():
    big = jnp.asarray(rng.normal(size=(400, 300)) / 30, jnp.float32)

    def f(p, x):
        return jnp.sum(jnp.tanh(x @ p.W)) + jnp.sum(jnp.sin(p.b))

    def by_hand(p, x):
        return x.T @ (1 - jnp.tanh(x @ p.W) ** 2), 1.01 * jnp.cos(p.b)

    args = (Params(big, jnp.arange(3.0, dtype=jnp.float32)), jnp.asarray(rng.normal(size=(4, 400)), jnp.float32))
    report = check.gradient(f, by_hand, args)
    assert [leaf.verdict for leaf in report] == ["right", "wrong"]


def test_one_flipped_entry_among_many():
    w = jnp.asarray(rng.normal(size=(300, 300)), jnp.float32)

    def by_hand(w):
        return jnp.cos(w).at[123, 45].multiply(-1)

    leaf = check.gradient(lambda w: jnp.sum(jnp.sin(w)), by_hand, (w,))["w"]
    assert leaf.verdict == "wrong"
    assert leaf.worst == (123, 45)
    assert leaf.causes[0].kind == "sign"
    assert "[123, 45]" in leaf.causes[0].detail


def test_values_near_a_hundred_are_no_alarm():
    x = jnp.asarray(100 + rng.normal(size=(8, 256)), jnp.float32)
    p = Params(jnp.asarray(rng.normal(size=(256, 5)) / 1000, jnp.float32), jnp.zeros(5, jnp.float32))
    assert check.gradient(loss, grads, (p, x)).ok


def test_a_gradient_that_is_truly_zero():
    """The bias before a normalisation: what is left is rounding, and an error shows against the terms that cancel."""

    def f(b, x):
        z = x + b
        z = (z - z.mean(0)) / z.std(0)
        return jnp.sum(z**3)

    x = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)
    b = jnp.asarray([0.1, 0.2, 0.3], jnp.float32)
    report = check.gradient(f, lambda b, x: jnp.full(3, 1e-7, jnp.float32), (b, x))
    assert report["b"].verdict == "right"
    assert "true gradient is zero" in " ".join(report["b"].remarks)
    assert check.gradient(f, lambda b, x: jnp.full(3, 0.1, jnp.float32), (b, x))["b"].verdict == "wrong"
    assert errors_of(report["b"]).max() < 1e-6  # the picture has the verdict's scale


def test_nan_is_never_agreement():
    report = check.gradient(lambda x: jnp.sum(jnp.sqrt(x)), lambda x: x * jnp.nan, (jnp.ones(3),))
    assert report["x"].verdict == "wrong"
    assert kinds(report["x"]) == ["nan"]
    both = check.gradient(
        lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0)), lambda x: x * jnp.nan, (jnp.array([-1.0, 2.0]),)
    )
    assert not both.ok


def test_where_autodiff_is_nan_differences_decide():
    def f(x):
        return jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0))

    def by_hand(x):
        return jnp.where(x > 0, 0.5 / jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)

    x = jnp.array([-1.0, 2.0])
    report = check.gradient(f, by_hand, (x,))
    assert report["x"].verdict == "right"
    assert "autodiff of f gives nan at [0]: judged by differences" in report["x"].remarks
    assert not check.gradient(f, lambda x: by_hand(x) + jnp.array([0.1, 0.0]), (x,)).ok


@pytest.mark.parametrize("library", [jnp, np])
@pytest.mark.parametrize(("at_zero", "verdict"), [(0.0, "at a kink"), (0.5, "at a kink"), (2.0, "wrong")])
def test_the_norm_of_a_row_of_zeros_has_a_kink(at_zero, verdict, library):
    """Group lasso; autodiff gives NaN there, and every subgradient is right."""

    def by_hand(W):
        norm = library.sqrt((W**2).sum(1))[:, None]
        return library.where(norm > 0, W / library.where(norm > 0, norm, 1), at_zero)

    W = library.asarray(np.where(np.arange(4)[:, None] == 1, 0.0, X[:4]))
    report = check.gradient(lambda W: library.sum(library.sqrt(library.sum(W**2, 1))), by_hand, (W,))
    assert report["W"].verdict == verdict, report


def test_a_dtype_fixed_inside_blunts_the_reference_and_says_so():
    def f(x):
        return jnp.sum(jnp.tanh(x.astype(jnp.bfloat16).astype(jnp.float32) * 3))

    def by_hand(x):
        return 3 * (1 - jnp.tanh(x.astype(jnp.bfloat16).astype(jnp.float32) * 3) ** 2)

    report = check.gradient(f, by_hand, (jnp.linspace(0.1, 1, 7, dtype=jnp.float32),))
    assert report["x"].verdict != "wrong"
    assert any("narrower float" in r for r in report.remarks)


def test_stop_gradient_is_honoured_and_said():
    report = check.gradient(lambda x: jnp.sum(jax.lax.stop_gradient(x) * x), lambda x: x, (jnp.arange(1.0, 4),))
    assert report.ok
    assert any("stop_gradient" in r for r in report.remarks)


def test_while_loops_take_forward_mode():
    def f(x):
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1].sum()

    def by_hand(x):
        return jnp.cos(jnp.sin(jnp.sin(x))) * jnp.cos(jnp.sin(x)) * jnp.cos(x)

    report = check.gradient(f, by_hand, (jnp.arange(1.0, 4),))
    assert report.ok
    assert any("forward mode" in r for r in report.remarks)


# Kinks


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.5, 1.0])
def test_between_the_slopes_of_a_relu(slope):
    report = check.gradient(
        lambda x: jnp.sum(jax.nn.relu(x) * jnp.arange(1.0, 4)),
        lambda x: jnp.array([slope, 0.0, 3.0]),
        (jnp.array([0.0, -1.0, 2.0]),),
    )
    assert report["x"].verdict == "at a kink"
    assert report.ok


@pytest.mark.parametrize("slope", [-0.1, 1.1])
def test_outside_the_slopes_of_a_relu(slope):
    report = check.gradient(
        lambda x: jnp.sum(jnp.maximum(x, 0)), lambda x: jnp.array([slope, 1.0]), (jnp.array([0.0, 1.0]),)
    )
    assert report["x"].verdict == "wrong"


def test_a_kink_closer_than_halves_can_tell_is_one():
    """In float64 the first number is a little above it, in float16 on it: differences know of no kink there."""
    a, b = np.float16([1.001, 0.5]), np.float16([1.00195, 0.1])

    def f(x):
        return jnp.sum(jnp.maximum(x * a - b, 0))

    def by_hand(x):
        return jnp.where(x * a - b > 0, a, 0).astype(x.dtype)

    report = check.gradient(f, by_hand, (jnp.asarray([1.001, 2.0], jnp.float16),))
    assert report["x"].verdict == "at a kink", report
    assert not check.gradient(f, lambda x: 2 * by_hand(x), (jnp.asarray([1.001, 2.0], jnp.float16),)).ok


@pytest.mark.parametrize(
    ("gradient", "verdict"),
    [
        ([1, 0, 0, 0], "at a kink"),
        ([0, 0, 1, 0], "at a kink"),
        ([1 / 3, 1 / 3, 1 / 3, 0], "at a kink"),
        ([0.2, 0.5, 0.3, 0], "at a kink"),
        ([1, 1, 1, 0], "wrong"),
        ([0.5, 0, 0, 0], "wrong"),
    ],
)
@pytest.mark.parametrize("library", [jnp, np])
def test_a_tie_of_three(gradient, verdict, library):
    x = library.asarray([2.0, 2.0, 2.0, 1.0])
    report = check.gradient(lambda x: library.max(x), lambda x: library.asarray(gradient, dtype=float), (x,))
    assert report["x"].verdict == verdict
    if verdict == "wrong" and sum(gradient) == 3 and library is jnp:
        assert "tie" in kinds(report["x"])


@pytest.mark.parametrize("slope", [-1.0, 0.0, 2.0, 3.0])
def test_kinks_are_summed(slope):
    """relu(x) − 2 relu(−x) has the slopes 2 and 1; each kink on its own gives from 0 to 1, and from 0 to 2."""
    f = lambda x: jnp.sum(jax.nn.relu(x) + 2 * jax.nn.relu(-x))  # noqa: E731
    report = check.gradient(f, lambda x: jnp.array([slope - 1]), (jnp.zeros(1),))
    assert report["x"].verdict == ("wrong" if slope == 3 else "at a kink")


SMOOTH = {
    "softplus": (lambda x: jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))), 0.5, (-0.4, 0.0, 1.4)),
    "relu twice": (lambda x: jax.nn.relu(x) - jax.nn.relu(-x), 1.0, (0.0, 2.0)),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("beside", [False, True])
def test_kinks_that_cancel_are_none(name, beside):
    """The slopes from both sides agree, and they are the truth, though autodiff gives another; also beside an entry
    that is at a kink indeed."""
    f, true, wrong = SMOOTH[name]

    def total(x):
        return jnp.sum(f(x[:1])) + (jnp.sum(jnp.abs(x[1:])) if beside else 0.0)

    def verdict(slope):
        given = jnp.array([slope, 0.3][: 1 + beside])
        return check.gradient(total, lambda x: given, (jnp.zeros(1 + beside),))["x"].verdict

    assert verdict(true) in ("right", "at a kink")
    assert [verdict(slope) for slope in wrong] == ["wrong"] * len(wrong)


@pytest.mark.parametrize("slope", [-1.0, 0.0, 0.7, 1.0])
def test_abs_and_hinge(slope):
    assert (
        check.gradient(lambda x: jnp.sum(jnp.abs(x)), lambda x: slope + 0 * x, (jnp.zeros(1),))["x"].verdict
        == "at a kink"
    )
    hinge = check.gradient(lambda m: jnp.sum(jnp.maximum(0, 1 - m)), lambda m: (slope - 1) / 2 + 0 * m, (jnp.ones(1),))
    assert hinge["m"].verdict == "at a kink"


def test_where_with_its_border_hit():
    f = lambda x: jnp.sum(jnp.where(x > 0, 2 * x, x))  # noqa: E731
    assert check.gradient(f, lambda x: jnp.array([1.5]), (jnp.zeros(1),))["x"].verdict == "at a kink"
    assert check.gradient(f, lambda x: jnp.array([2.5]), (jnp.zeros(1),))["x"].verdict == "wrong"


# A derivation, line by line


def forward(p, x, t):
    z = check.mark("z", x @ p["W"])
    h = check.mark("h", jnp.tanh(z))
    y = check.mark("y", h @ p["v"])
    return jnp.sum((y - t) ** 2)


def backward(p, x, t, y_wrong=1.0, h_wrong=0.0, z_wrong=0.0, W_wrong=1.0):
    z = x @ p["W"]
    h = jnp.tanh(z)
    y = h @ p["v"]
    y_bar = 2 * y_wrong * (y - t)
    h_bar = y_bar[:, None] * p["v"] + h_wrong
    z_bar = h_bar * (1 - h * h) + z_wrong
    return {"y": y_bar, "h": h_bar, "z": z_bar, "W": W_wrong * x.T @ z_bar, "v": h.T @ y_bar, "x": z_bar @ p["W"].T}


DERIVED = ({"W": jnp.asarray(W), "v": jnp.arange(1.0, 5)}, jnp.asarray(X), jnp.arange(5.0))


def test_a_right_derivation_in_its_own_order():
    report = check.derivation(forward, backward, DERIVED)
    report.raise_if_wrong()
    names = [leaf.name for leaf in report]
    assert names.index("y") < names.index("h") < names.index("z") < names.index("W")
    assert report["p.W"] is report["W"]


@pytest.mark.parametrize(
    ("wrong", "first", "followers"),
    [
        ({"y_wrong": 0.5}, "y", {"h", "z", "W", "v", "x"}),
        ({"h_wrong": 0.1}, "h", {"z", "W", "x"}),
        ({"z_wrong": 0.1}, "z", {"W", "x"}),
        ({"W_wrong": -1.0}, "W", set()),
    ],
)
def test_the_first_wrong_line_and_what_follows(wrong, first, followers):
    report = check.derivation(forward, functools.partial(backward, **wrong), DERIVED)
    assert report.first == first
    assert {leaf.name for leaf in report if leaf.follows_from == first} == followers
    assert [leaf.name for leaf in report.wrong if not leaf.follows_from] == [first]
    assert "follows from" in str(report) or not followers


def test_two_wrong_lines_are_two():
    report = check.derivation(forward, functools.partial(backward, y_wrong=0.5, z_wrong=0.1), DERIVED)
    assert {leaf.name for leaf in report.wrong if not leaf.follows_from} == {"y", "z"}


def test_marks_not_returned_are_listed():
    def partial_backward(p, x, t):
        g = backward(p, x, t)
        return {"W": g["W"], "z": g["z"]}

    report = check.derivation(forward, partial_backward, DERIVED)
    assert report.ok is False  # p.v is missing beside p.W
    assert report["v"].causes[0].kind == "shape"
    assert set(report.not_compared) == {"y", "h", "x", "t"}


def test_mistaken_names_are_refused():
    with pytest.raises(ValueError, match="names no single mark or argument"):
        check.derivation(forward, lambda p, x, t: {"q": 0.0}, DERIVED)
    with pytest.raises(ValueError, match=r"two marks are called 'z'"):
        check.derivation(lambda w: jnp.sum(check.mark("z", check.mark("z", w) * 2)), lambda w: {"z": w}, (jnp.ones(2),))
    with pytest.raises(TypeError, match="must return a dict"):
        check.derivation(forward, lambda p, x, t: 1.0, DERIVED)


def test_marks_in_a_scan_have_a_row_per_step():
    def forward(W, x):
        def step(h, x_t):
            a = check.mark("a", h @ W + x_t)
            h = check.mark("h", jnp.tanh(a))
            return h, h

        h, _ = jax.lax.scan(step, jnp.zeros(4), x)
        return jnp.sum(h**2)

    def backward(W, x, wrong=1.0):
        h = [jnp.zeros(4)]
        for x_t in x:
            h.append(jnp.tanh(h[-1] @ W + x_t))
        h_bar, a_bar = [None] * len(x), [None] * len(x)
        carried, W_bar = 2 * h[-1], 0 * W
        for t in range(len(x) - 1, -1, -1):
            h_bar[t] = carried
            a_bar[t] = carried * (1 - h[t + 1] ** 2) * (wrong if t == 2 else 1.0)
            W_bar += jnp.outer(h[t], a_bar[t])
            carried = W @ a_bar[t]
        return {"h": jnp.stack(h_bar), "a": jnp.stack(a_bar), "W": W_bar, "x": jnp.stack(a_bar)}

    args = (jnp.asarray(W[:, :4].T @ W[:, :4] / 8), jnp.asarray(rng.normal(size=(5, 4))))
    check.derivation(forward, backward, args).raise_if_wrong()
    report = check.derivation(forward, functools.partial(backward, wrong=2.0), args)
    assert report.first == "a"
    assert report["a"].worst[0] == 2
    assert report["h"].follows_from == "a"
    assert report["W"].follows_from == "a"


# Gradients under other names, and in other orders


def logistic_loss(w, b, x, t):
    s = x @ w + b
    return np.mean(np.logaddexp(0, s) - t * s)


def logistic_grads(w, b, x, t):
    d = (1 / (1 + np.exp(-(x @ w + b))) - t) / len(t)
    return x.T @ d, d.sum()


LOGISTIC = (rng.normal(size=3), 0.3, X, np.array([0.0, 1, 1, 0, 1]))


@pytest.mark.parametrize(
    "names",
    ["dw db", "d_w d_b", "gw gb", "grad_w grad_b", "w_grad b_grad", "w_bar b_bar", "dL_dw dL_db", "w b", "dw b"],
)
def test_gradients_go_by_the_names_that_people_give_them(names):
    """Whatever their order in the dict, or the alphabet's."""

    def by_hand(*args):
        return dict(zip(names.split(), logistic_grads(*args), strict=True))

    check.gradient(logistic_loss, by_hand, LOGISTIC, (0, 1)).raise_if_wrong()
    check.gradient(logistic_loss, lambda *a: dict(reversed(by_hand(*a).items())), LOGISTIC, (0, 1)).raise_if_wrong()


def test_what_cannot_be_matched_by_name_is_refused():
    def by_hand(*args):
        return dict(zip(("first", "second"), logistic_grads(*args), strict=True))

    with pytest.raises(ValueError, match=r"returned first, second, which names no single leaf; .* w, b\."):
        check.gradient(logistic_loss, by_hand, LOGISTIC, (0, 1))


def test_a_tuple_for_a_dict_is_in_the_dicts_own_order():
    args = ({"w": LOGISTIC[0], "b": 0.3}, *LOGISTIC[2:])
    report = check.gradient(
        lambda p, x, t: logistic_loss(p["w"], p["b"], x, t), lambda p, x, t: logistic_grads(p["w"], p["b"], x, t), args
    )
    report.raise_if_wrong()


class Swapped(NamedTuple):
    b: jax.Array
    a: jax.Array


def test_a_whole_argument_of_a_derivation_goes_by_name():
    """Its leaves are of one shape, so that an order would go unseen; and `w` is not `w2`."""

    def forward(p, w, w2):
        return jnp.sum(check.mark("z", p.a * jnp.sin(p.b)) * w) + jnp.sum(w2["x"] ** 3)

    def backward(p, w, w2):
        z_bar = w
        return {
            "z": z_bar,
            "p": {"a": z_bar * jnp.sin(p.b), "b": z_bar * p.a * jnp.cos(p.b)},
            "w": p.a * jnp.sin(p.b),
            "w2": {"x": 3 * w2["x"] ** 2},
        }

    args = (Swapped(jnp.arange(1.0, 4), jnp.arange(2.0, 5)), jnp.arange(3.0, 6), {"x": jnp.ones(2)})
    check.derivation(forward, backward, args).raise_if_wrong()
    with pytest.raises(ValueError, match="backward returned c, which names no single leaf"):
        check.derivation(forward, lambda *a: {"p": {"a": a[1], "c": a[1]}}, args)
