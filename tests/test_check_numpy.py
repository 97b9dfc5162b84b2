"""Functions in NumPy: kinks, jumps, ends of the domain, arguments written into, code that refuses what it is given."""

import jax
import numpy as np
import pytest

from jaxnets import check
from jaxnets.check import _numeric


def relu(w):
    return np.sum(np.maximum(w, 0))


def hinge(w):
    return np.sum(np.maximum(0, 1 - w))


def largest(w):
    return float(np.asarray(w).max())


def relu_in_a_loop(w):
    total = np.zeros(1)
    for i in range(len(w)):
        total[0] += max(float(w[i]), 0.0)  # which jax.numpy cannot follow
    return total[0]


AT_KINKS = {
    "relu": (relu, np.array([0.0, -1.2, 0.7]), [0.0, 0.3, 1.0], np.array([1.0, 0, 0]), np.array([0, 0, 1.0])),
    "relu in a loop": (relu_in_a_loop, np.array([0.0, -1.2, 0.7]), [0.0, 0.3, 1.0], np.eye(3)[0], np.eye(3)[2]),
    "abs": (lambda w: np.sum(np.abs(w)), np.array([0.0, -1.2, 0.7]), [-1.0, 1.0], np.eye(3)[0], np.array([0, -1, 1.0])),
    "hinge": (hinge, np.array([1.0, 2.0, 0.3]), [-1.0, 0.0], np.eye(3)[0], np.array([0, 0, -1.0])),
    "largest": (largest, np.array([1.0, 1.0, 0.3]), [0.0, 0.5, 1.0], np.array([1.0, -1, 0]), np.eye(3)[1]),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", AT_KINKS)
def test_between_the_slopes_of_a_kink(name, dtype):
    f, w, shares, side, rest = AT_KINKS[name]
    for share in shares:
        report = check.gradient(f, lambda w, g=share * side + rest: g.astype(w.dtype), (w.astype(dtype),))
        assert report.ok, report
        assert report.leaves[0].verdict == "at a kink", report
        assert "kink" in str(report)
    for wrong in (1.4 * side + rest, -1.4 * side + rest, shares[0] * side + 1.1 * rest):
        assert not check.gradient(f, lambda w, g=wrong: g.astype(w.dtype), (w.astype(dtype),)).ok


def net(W1, b1, W2, x, t):
    return np.mean((np.maximum(x @ W1 + b1, 0) @ W2 - t) ** 2)


def net_grads(W1, b1, W2, x, t):
    z = x @ W1 + b1
    h = np.maximum(z, 0)
    d = 2 * (h @ W2 - t) / len(t)
    z_bar = np.outer(d, W2) * (z > 0)
    return x.T @ z_bar, z_bar.sum(0), h.T @ d


def untraceable(f):
    """The same, through a cell of an array, which `jax.numpy` cannot write into."""

    def g(*args):
        out = np.zeros(1)
        out[0] = f(*args)
        return out[0]

    return g


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("hide", [False, True])
def test_kinks_nearby_are_no_alarm(seed, hide):
    """A random relu net has some unit close to its kink; differences must not take that for rounding."""
    rng = np.random.default_rng(seed)
    B, D, H = 32, 10, 50
    args = rng.normal(size=(D, H)) / D**0.5, rng.normal(size=H) * 0.1, rng.normal(size=H) / H**0.5
    args += rng.normal(size=(B, D)), rng.normal(size=B)
    f = untraceable(net) if hide else net
    report = check.gradient(f, net_grads, args, (0, 1, 2))
    assert report.ok, report
    if seed == 0:
        off = check.gradient(
            f, lambda *a: [g * s for g, s in zip(net_grads(*a), (1, 1.01, 1), strict=True)], args, (0, 1, 2)
        )
        assert [leaf.name for leaf in off.wrong] == (["args[1]"] if hide else ["b1"]), off


def test_a_program_in_numpys_place_is_told():
    report = check.gradient(relu, lambda w: (w > 0) * 1.0, (np.array([0.5, -1.2, 0.7]),))
    assert "jax.numpy in NumPy's place, in float64, confirmed by differences" in report.reference
    report = check.gradient(relu_in_a_loop, lambda w: (w > 0) * 1.0, (np.array([0.5, -1.2, 0.7]),))
    assert "differences are the only reference" in str(report)


def by_default(w, *, power=2.0):
    return np.sum(np.abs(w) ** power)


def test_defaults_of_keywords_do_not_hide_the_program():
    report = check.gradient(lambda w: by_default(w), lambda w: 2 * w, (np.array([0.5, -1.2]),))
    assert "jax.numpy in NumPy's place" in report.reference
    assert "jax.numpy in NumPy's place" in check.gradient(by_default, lambda w: 2 * w, (np.ones(2),)).reference


def test_arguments_that_are_written_into():
    def f(w):
        w += 1
        return float(np.sum(w**2))

    w = np.random.default_rng(0).normal(size=(5, 3))
    before = w.copy()
    assert check.gradient(f, lambda w: 2 * (w + 1), (w,)).ok
    for wrong in (lambda w: -2 * (w + 1), lambda w: 3 * w):
        assert check.gradient(f, wrong, (w,)).wrong
    np.testing.assert_array_equal(w, before)

    def scaled(x, w):
        x /= 255
        return float(np.sum(np.tanh(x @ w)))

    def grads(x, w):
        x = x / 255
        return x.T @ (1 - np.tanh(x @ w) ** 2)

    rng = np.random.default_rng(1)
    assert check.gradient(scaled, grads, (255 * rng.normal(size=(5, 3)), rng.normal(size=(3, 2))), argnums=1).ok


@pytest.mark.parametrize("hide", [False, True])
def test_near_the_end_of_the_domain(hide):
    """A step of the leaf's size leads beyond it; steps of the entry's size do not."""
    wrap = untraceable if hide else lambda f: f
    w = np.array([1e-6, 0.5, 0.5])
    assert check.gradient(wrap(lambda w: -np.sum(np.log(w))), lambda w: -1 / w, (w,)).ok
    assert check.gradient(wrap(lambda w: np.sum(np.sqrt(w))), lambda w: 0.5 / np.sqrt(w), (w,)).ok
    twice = check.gradient(wrap(lambda w: -np.sum(np.log(w))), lambda w: -2 / w, (np.array([1e-4, 1.0, 10.0]),))
    assert twice.wrong
    assert "scale" in {c.kind for c in twice.leaves[0].causes}, twice


def test_where_nothing_can_be_seen():
    def f(w):  # finite here alone
        return float(np.sum(w)) if np.array_equal(w, np.ones(3)) else np.nan

    report = check.gradient(f, np.ones_like, (np.ones(3),))
    assert report.leaves[0].verdict == "undecidable"


@pytest.mark.parametrize("k", [1000, 3000])
def test_functions_that_vary_fast(k):
    w = np.random.default_rng(0).normal(size=(5, 3))
    for wrap in (untraceable, lambda f: f):
        report = check.gradient(wrap(lambda w: np.sum(np.sin(k * w))), lambda w: k * np.cos(k * w), (w,))
        assert report.leaves[0].verdict in ("right", "undecidable"), report
        assert "narrower" not in str(report)


def refuses_negative(w):
    w = np.asarray(w)
    if np.isrealobj(w) and (w < 0).any():
        raise ValueError("negative probability")
    return float(np.sum(np.sqrt(w)).real)


def refuses_complex(w):
    assert np.isrealobj(w), "real input only"
    return float(np.sum(np.asarray(w) ** 2))


def test_code_that_refuses_other_numbers():
    w = np.array([0.1, 0.5, 3.0])
    report = check.gradient(refuses_negative, lambda w: 0.5 / np.sqrt(w), (w,))
    assert report.ok, report
    assert "refuses arguments nearby (ValueError: negative probability)" in str(report)
    assert check.gradient(refuses_complex, lambda w: 2 * w, (w,)).ok
    assert check.gradient(refuses_complex, lambda w: 3 * w, (w,)).wrong


def test_roughness_of_narrow_floats_and_of_none():
    x = [np.random.default_rng(0).normal(size=20)]
    for dtype in (np.float32, np.float16):
        seen = _numeric.roughness(lambda x, t=dtype: float(np.sum(np.sin(x[0].astype(t).astype(float)))), x, 1.0)
        assert 0.01 < seen / np.finfo(dtype).eps < 30
    assert _numeric.roughness(lambda x: float(np.sum(np.abs(x[0] - 1e-5))), x, 1.0) < 1e-13


def test_gradients_as_nested_lists():
    w = np.random.default_rng(0).normal(size=(5, 3))
    assert check.gradient(lambda w: np.sum(w**2), lambda w: (2 * w).tolist(), (w,)).ok


@pytest.mark.parametrize("draw", [lambda rng: (rng.normal(size=3),), lambda key: (jax.random.normal(key, (3,)),)])
def test_arguments_drawn_from_a_source(draw):
    assert check.gradient(lambda w: (w**2).sum(), lambda w: 2 * w, draw).ok


def normalised(W, b, gamma, x, t):
    """Written into, so that it cannot be read as a program."""
    z = x @ W + b
    out = np.zeros_like(z)
    out[:] = gamma * (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
    return float(np.mean((np.tanh(out).sum(1) - t) ** 2))


def normalised_grads(W, b, gamma, x, t, off=0.0):
    z = x @ W + b
    s = np.sqrt(z.var(0) + 1e-5)
    z_hat = (z - z.mean(0)) / s
    h = np.tanh(gamma * z_hat)
    out_bar = 2 * ((h.sum(1) - t) / len(t))[:, None] * (1 - h * h)
    bar = out_bar * gamma
    z_bar = (bar - bar.mean(0) - z_hat * (bar * z_hat).mean(0)) / s
    return x.T @ z_bar, z_bar.sum(0) + off * np.abs(z_bar).sum(0), (out_bar * z_hat).sum(0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", range(5))
def test_a_bias_before_a_normalisation(seed, dtype):
    """Its true gradient is zero; what comes out is rounding, and is not judged against rounding."""
    rng = np.random.default_rng(seed)
    args = tuple(rng.normal(size=s).astype(dtype) for s in ((4, 3), 3, 3, (6, 4), 6))
    check.gradient(normalised, normalised_grads, args, (0, 1, 2)).raise_if_wrong()
    off = check.gradient(normalised, lambda *a: normalised_grads(*a, off=0.01), args, (0, 1, 2))
    assert [leaf.name for leaf in off.wrong] == ["b"]
