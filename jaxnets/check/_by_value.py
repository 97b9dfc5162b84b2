"""Why is a leaf wrong: a factor too much, too few, or another than it should be, among the values that are known."""

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from jaxnets.check._alike import softmax
from jaxnets.check._report import Cause
from jaxnets.check._wrong import LOOSE, Wrong

_SATURATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "{}": lambda q: q,
    "1 − {}": lambda q: 1 - q,
    "{}²": lambda q: q * q,
    "1 − {}²": lambda q: 1 - q * q,
    "{0} (1 − {0})": lambda q: q * (1 - q),
    "1 − tanh²({})": lambda q: 1 - np.tanh(q) ** 2,
    "σ({0}) (1 − σ({0}))": lambda q: 0.25 / np.cosh(np.clip(q / 2, -300, 300)) ** 2,
    "softmax({})": softmax,
    "1 − softmax({})": lambda q: 1 - softmax(q),
    "softmax({0}) (1 − softmax({0}))": lambda q: softmax(q) * (1 - softmax(q)),
}
_DERIVATIVES = ("1 − {}²", "{0} (1 − {0})", "1 − tanh²({})", "σ({0}) (1 − σ({0}))")
_MOST = 20_000  # entries up to which every pair of factors is tried


def by_value(w: Wrong, values: Mapping[str, np.ndarray], alone: bool = False) -> Iterator[Cause]:
    """A factor too much, too few, or another than it should be, made from values that fit the leaf's shape."""
    if not 2 <= w.got.size <= _MOST:
        return
    factors: list[tuple[str, str, np.ndarray]] = [("", "", np.ones(()))]
    for name, q in values.items():
        for fitted in _fitted(np.asarray(q, np.float64), w.got.shape):
            for form, make in itertools.islice(_SATURATIONS.items(), 4 if alone else None):
                with np.errstate(all="ignore"):
                    d = make(fitted)
                if np.all(np.isfinite(d)) and np.ptp(d):
                    factors.append((name, form, d))
                    if w.value is not None and np.array_equal(q, w.value) and form in _DERIVATIVES:
                        yield from _taken_at_the_leaf(w, d, form.format(name))
    for (name, form, d), (other, other_form, e) in itertools.permutations(factors[: None if alone else 60], 2):
        if alone and name and other:
            continue  # many values: each by itself
        # got · e = want · d: the factor d is there, where e should be
        difference = w.got * e - w.want * d
        reach = LOOSE * max(w.limit, 1e-7 * w.scale) * max(1.0, float(np.max(np.abs(e))))
        if float(np.max(np.abs(difference))) > reach or not np.any(w.got):
            continue
        left = float(np.max(np.abs(difference))) / w.scale
        there, lacking = form.format(name), other_form.format(other)
        if not other:
            yield Cause("factor", f"{there} is there once too often", left)
        elif not name:
            yield Cause("factor", f"{lacking} is missing", left)
        else:
            kind = "place" if form == other_form or (form in _DERIVATIVES and other_form in _DERIVATIVES) else "factor"
            yield Cause(kind, f"{there} stands where {lacking} should", left)


def _fitted(q: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """A value as it can be multiplied with a leaf: along its last axes, or along its first."""
    if q.size < 2 or q.ndim > len(shape):
        return
    first = q.reshape(q.shape + (1,) * (len(shape) - q.ndim))
    for placed in (q,) if q.ndim == len(shape) else (q, first):
        ends = zip(placed.shape[::-1], shape[::-1], strict=False)
        if all(n in (1, m) for n, m in ends):
            yield np.broadcast_to(placed, shape)


def _taken_at_the_leaf(w: Wrong, d: np.ndarray, told: str) -> Iterator[Cause]:
    rest = np.where(d != 0, w.got / np.where(d == 0, 1, d), 0)
    for axis in range(rest.ndim):
        if rest.shape[axis] < 2:
            continue
        uneven = float(np.max(np.abs(rest - np.take(rest, [0], axis))))
        if np.any(rest) and uneven <= 1e-6 * float(np.max(np.abs(rest))):
            told = f"{told} is taken at the parameter, not at a result"
            yield Cause("place", f"{told}; and what it multiplies is the same all along axis {axis}", uneven / w.scale)
            return
