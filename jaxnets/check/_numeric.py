"""Derivatives by differences, in float64, each with an error bar: the reference that no derivative rule can mislead."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

EPS = float(np.finfo(np.float64).eps)
STEPS = 7
_STEPS = 0.1 * 8.0 ** -np.arange(STEPS)  # relative to the size of what is moved
_Function = Callable[[list[np.ndarray]], Any]


class Slope(NamedTuple):
    """A derivative along a direction; `left` and `right` differ where the function has a kink there."""

    value: float
    bar: float  # no error of this derivative below it could be seen
    left: float
    right: float
    kinked: bool


def source(*numbers: int) -> np.random.Generator:
    """Random numbers of our own: no caller's generator draws the same. An `x` from `default_rng(0)` beside a cotangent
    from `default_rng(0)` is a special point, at which a normalisation, for one, sends the cotangent to nothing."""
    return np.random.Generator(np.random.SFC64([0x6A61786E657473, 0x636865636B, *numbers]))


UNKNOWN = Slope(np.nan, np.inf, np.nan, np.nan, False)


def size_of(x: np.ndarray) -> float:
    """The step unit for a leaf: its largest entry, 1 for a leaf of zeros."""
    return float(np.max(np.abs(x), initial=0)) or 1.0


def slope(
    f: _Function,
    x: Sequence[np.ndarray],
    leaf: int,
    direction: np.ndarray,
    at_x: float,
    eps: float = EPS,
    unit: float | None = None,
) -> Slope:
    """Derivative of `f` where `x[leaf]` moves along `direction`, by Richardson's extrapolation of central differences.

    The steps go down by factors of 8; of all extrapolations the one is taken that differs least from its neighbours.
    `eps` is the rounding of the narrowest float that `f` computes with; `unit` is what steps are relative to, the size
    of the leaf if not given. Steps that lead where `f` is not finite are left out; where it jumps, there is no slope.
    """
    steps = _STEPS * (unit or size_of(x[leaf])) / (np.max(np.abs(direction), initial=0) or 1.0)
    right, left, table, best, fine = [], [], [], (np.nan, np.inf), (np.nan, np.inf)
    largest = abs(at_x)
    for i, step in enumerate(steps):
        up, down = (float(f(_moved(x, leaf, s * step * direction))) for s in (1, -1))
        right.append((up - at_x) / step)
        left.append((at_x - down) / step)
        if not np.isfinite(up - down):
            table = []
            continue
        largest = max(largest, abs(up), abs(down))
        row = [(up - down) / (2 * step)]
        rounding = 4 * eps * largest / step
        for m, coarser in enumerate(table[-1] if table else []):
            row.append((64 ** (m + 1) * row[m] - coarser) / (64 ** (m + 1) - 1))
            bar = max(abs(row[-1] - row[-2]), abs(row[-1] - coarser)) + rounding
            best = min(best, (row[-1], bar), key=lambda found: found[1])
            if i >= STEPS - 3:
                fine = min(fine, (row[-1], bar), key=lambda found: found[1])
        table.append(row)
    if abs(best[0] - fine[0]) > best[1] + fine[1]:  # from afar a bend looks like two straight lines
        best = fine
    # One-sided: the error of a difference over h is linear in h, so two steps cancel it.
    k = 5 if eps < 1e-12 else 2
    if any(_jumps(np.array(side) * steps, k, 64 * eps * largest) for side in (right, left)):
        return UNKNOWN
    (above, below), (nearer, from_below) = (
        [(8 * side[j] - side[j - 1]) / 7 for side in (right, left)] for j in (k, k + 1)
    )
    gap, noise = abs(above - below), 64 * eps * largest / steps[k]
    stays = abs(nearer - from_below) + 8 * noise > gap / 4  # that of a curve shrinks with the step
    kinked = bool(gap > 1e-5 * max(abs(above), abs(below)) + noise and stays)
    return Slope(float(best[0]), float(best[1]), float(below), float(above), kinked)


def _jumps(changes: np.ndarray, k: int, noise: float) -> bool:
    """Whether a change does not vanish with its step: it is more than half as large over an eightfold smaller one."""
    before, after = np.abs(changes[k - 1 : k + 1])
    return bool(after > 0.5 * before and after > noise)


def complex_slope(f: _Function, x: Sequence[np.ndarray], leaf: int, direction: np.ndarray) -> float | None:
    """The same by a complex step, exact to rounding; None where `f` does not take complex numbers.

    Never to be believed alone: through an absolute value or a cast it is wrong, and says nothing.
    """
    step = 1e-30 * size_of(x[leaf])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a discarded imaginary part is a warning in NumPy
        try:
            value = f(_moved([np.asarray(a, complex) for a in x], leaf, 1j * step * direction))
            return float(np.imag(value)) / step if np.iscomplexobj(value) else None
        except Exception:  # the caller's code may refuse complex numbers in any way
            return None


def _moved(x: Sequence[np.ndarray], leaf: int, by: np.ndarray) -> list[np.ndarray]:
    with np.errstate(invalid="ignore"):  # infinite numbers cannot be moved: no derivative comes of it
        return [a + by if i == leaf else a for i, a in enumerate(x)]


def roughness(f: _Function, x: Sequence[np.ndarray], at_x: float) -> float:
    """The relative error with which `f` is computed, from differences of high order over steps too small to matter.

    Of several directions the smoothest counts: rounding is in all of them, a kink nearby in some. Each entry moves by
    a share of itself, so that none leaves where `f` is defined. Where the smallest step changes little or nothing the
    float is so narrow that a larger one must be tried.
    """
    rng, found = source(5), []
    for _ in range(5):
        directions = [rng.normal(size=a.shape) * np.where(a == 0, size_of(a), np.abs(a)) for a in x]
        for step in (1e-6, 1e-4, 1e-2):
            points = [float(f([a + k * step * d for a, d in zip(x, directions, strict=True)])) for k in range(7)]
            if len(set(points)) > 4:
                break
        found.append(abs(float(np.diff(points, 6)[0])) / np.sqrt(924.0))
    rough = min((r for r in found if np.isfinite(r)), default=0.0)
    return rough / abs(at_x) if at_x else 0.0


def best_slope(
    f: _Function,
    x: Sequence[np.ndarray],
    leaf: int,
    direction: np.ndarray,
    at_x: float,
    complex_too: bool,
    eps: float,
    unit: float | None = None,
) -> Slope:
    """Differences, sharpened by a complex step where that works and the differences agree with it."""
    found = slope(f, x, leaf, direction, at_x, eps, unit)
    if complex_too and not found.kinked:
        sharp = complex_slope(f, x, leaf, direction) if np.isfinite(found.bar) else None
        if sharp is not None and abs(sharp - found.value) <= 10 * found.bar + 1e-9 * abs(found.value):
            return found._replace(value=sharp, bar=64 * EPS * max(abs(sharp), EPS))
    return found


def gradient(
    f: _Function, x: Sequence[np.ndarray], leaf: int, at_x: float, complex_too: bool, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Entry by entry: values, bars, and the one-sided slopes from below and from above where these differ."""
    entries = []
    for index in np.ndindex(x[leaf].shape):
        direction = np.zeros(x[leaf].shape)
        direction[index] = 1.0
        found = best_slope(f, x, leaf, direction, at_x, complex_too, eps)
        if not np.isfinite(found.bar) and x[leaf][index]:  # too near to where f ends for steps of the leaf's size
            found = best_slope(f, x, leaf, direction, at_x, complex_too, eps, abs(float(x[leaf][index])))
        entries.append(found if found.kinked else found._replace(left=found.value, right=found.value))
    columns = np.array([e[:4] for e in entries], float).reshape((*x[leaf].shape, 4))
    value, bar, left, right = np.moveaxis(columns, -1, 0)
    return value, bar, left, right
