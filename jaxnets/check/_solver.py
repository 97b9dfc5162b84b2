"""Rules of solvers: a derivative of the solution, held against an iteration that stops short of it.

Where a loop ends once its error is small enough, the derivative of its steps and that of what they lead to differ by
about as much as the loop tolerates; so does a rule that solves an equation in a loop of its own. A tolerance is a small
constant that does nothing but end loops. If these are made smaller on both sides, a difference that they made goes
away, and one that a wrong rule made stays. Where that says nothing (the steps have no derivative, or adapt to the
tolerance), differences of what the function gives decide.
"""

import contextlib
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.check import _walk
from jaxnets.check._flow import Tolerance, tolerances
from jaxnets.check._numeric import size_of, source
from jaxnets.check._precision import double
from jaxnets.check._reference import CANNOT

_SMALL = 0.1  # what may be a tolerance, and
_ROUNDING = 500  # how many roundings none is brought below; of a square, the square of so many
_SQUARED = 1e3  # how many times that a tolerance may be and still one of a square
_TURNS = 10_000  # of a loop that no longer comes to its end
_FACTORS = (1.0, 2.0**6, 2.0**14, 2.0**24)
_AS_IS = (1.0, 0.0)
# How much of a difference may be left of one that tolerances make, and how many times smaller it is then: the steps of
# a descent along a line have a derivative that comes to rest late.
_FADES = ((1e-6, 4), (3e-5, 8))
_NEGLIGIBLE = 1e-6
_NOTHING = 1e-25  # as much of the function's own size is no difference
# How far from linear a loop may still be, relative to the gradient: small cotangents are near what is left.
_LOOSE = 1e-5


class Excuse(NamedTuple):
    """A difference along some direction, relative to the gradient: as it is, and once tolerances are tightened."""

    before: float
    after: float
    by_differences: bool = False

    @property
    def fades(self) -> bool:
        """Whether the difference goes away, or is none to begin with."""
        goes = any(self.after <= min(least, self.before / by) for least, by in _FADES)
        return self.before <= _NOTHING or goes

    def __str__(self) -> str:
        if self.by_differences:
            return f"a solver: right for what its steps lead to, seen by differences to {self.after:.1e}"
        return (
            f"a solver, right within its tolerance: off by {self.before:.1e}, "
            f"and by {self.after:.1e} once that is tightened"
        )


class _Tightened:
    """A visitor under which these tolerances are smaller by a factor; it counts how often loops go round."""

    most = _TURNS

    def __init__(self, which: set[Tolerance], tighter: Any, least: float, counts: Counter[Any]):
        self.which, self.tighter, self.least, self.counts = which, tighter, least, counts

    def turned(self, place, turns):
        def count(turns):
            self.counts[id(self.which), place] += int(turns)

        jax.debug.callback(count, turns)

    def __call__(self, place, eqn, operands, given):
        return _walk.plain(place, eqn, operands, given)

    def literal(self, place, k, value):
        if (place, k) not in self.which:
            return value
        (factor, of_small), size, least = self.tighter, abs(float(value)), self.least
        if size <= _SQUARED * self.least:
            least = of_small if size > self.least else self.least**2
        return (np.sign(float(value)) * jnp.maximum(size / factor, least)).astype(value.dtype)


class Solver:
    """A rule's pull-back `pulled(floats, bars)` and its function `plain(*floats)`, where loops are in them that end by
    their own judgement; at operands as precise as the rule can take them."""

    def __init__(self, plain: Callable[..., Any], pulled: Callable[..., Any], floats: list[np.ndarray], bars: Any):
        self.floats, self.wide = floats, all(v.dtype == np.float64 for v in floats)
        with self.precision():
            self.ruled = _walk.trace(pulled, floats, bars)
            self.function = _walk.trace(plain, *floats)
        self.least = _ROUNDING * max(float(jnp.finfo(v.dtype).eps) for v in floats)
        self.of_rule, self.of_function = (
            tolerances(p, lambda size: self.least**2 < size <= _SMALL) for p in (self.ruled, self.function)
        )
        self.counts: Counter[Any] = Counter()  # of the turns of loops in a run
        self.sides = jax.jit(self._sides)
        self.value = jax.jit(self._value)
        self.back = jax.jit(self._back)

    def precision(self) -> contextlib.AbstractContextManager[None]:
        return double() if self.wide else contextlib.nullcontext()

    @cached_property
    def loops(self) -> bool:
        """Whether there is a loop at all that could tolerate something."""
        return any(_holds(p, "while") for p in (self.ruled, self.function))

    def excuse(self, bars: list[np.ndarray], i: int) -> Excuse | None:
        """The difference between what is pulled back to operand `i` and the derivative of what the function does, if
        tolerances make it; None where it stays."""
        if not self.loops:
            return None
        with self.precision():
            try:
                for of_small in self.floors:
                    seen = [self._along(bars, i, direction, of_small) for direction in self._directions(i)]
                    worst = Excuse(max(e.before for e in seen), max(e.after for e in seen))
                    if worst.fades:
                        return worst
            except CANNOT:  # not to be differentiated forward
                pass
            return self._by_differences(bars, i) if self.wide and not self._stopped_in_part(bars, i) else None

    def _stopped_in_part(self, bars, i) -> bool:
        """Whether a derivative is stopped in the function, which differences cannot see; not where all of it is, as
        by who lets an iteration run and gives it a rule."""
        if not _holds(self.function, "stop_gradient"):
            return False
        try:
            return any(float(self.sides(self.floats, bars, d, _AS_IS)[1]) for d in self._directions(i))
        except CANNOT:
            return True

    def pull(self, bars: list[np.ndarray]) -> list[Any]:
        """What is pulled back where loops tolerate less."""
        with self.precision():
            return self.back(self.floats, bars, self.tightest)

    @property
    def room(self) -> float:
        """How far from each other two ways to the same may be once loops tolerate less, relative to the gradient."""
        return _LOOSE if self.wide else 1e3 * _LOOSE

    def _directions(self, i):
        rng = source(21)
        for _ in range(2):
            directions = [np.zeros_like(v) for v in self.floats]
            directions[i] = rng.normal(size=self.floats[i].shape).astype(self.floats[i].dtype)
            yield directions

    @property
    def floors(self) -> tuple[float, float]:
        """What a small tolerance is not brought below: a length need not get there, its square must."""
        return self.least, self.least**2

    @property
    def tightest(self) -> tuple[float, float]:
        return _FACTORS[-1], self.least

    def _along(self, bars, i, directions, of_small):
        seen, turns = [], []
        for factor in _FACTORS:
            self.counts.clear()
            seen.append([float(v) for v in self.sides(self.floats, bars, directions, (factor, of_small))])
            jax.effects_barrier()
            turns.append(self.counts.copy())
        size = self._size(seen, i)
        first, *others = (abs(got - want) / size for got, want, *_ in seen)
        # What is asked for less than it tolerates goes round more often; else it is no tolerance.
        longer = all(turns[-1][loop] >= count for loop, count in turns[0].items())
        ends = all(count < _TURNS for count in turns[-1].values())
        return Excuse(first, min(others) if longer and ends else np.inf)

    def _ends(self, bars):
        """Whether all loops come to their end where they tolerate less: time that goes by in smaller steps does not."""
        self.counts.clear()
        jax.block_until_ready((self.value(self.floats, bars), self.back(self.floats, bars, self.tightest)))
        jax.effects_barrier()
        return all(count < _TURNS for count in self.counts.values())

    def _by_differences(self, bars, i):
        """Where the steps themselves say nothing, as those of a bisection, what they lead to does."""
        if not self._ends(bars):
            return None
        worst = Excuse(0.0, 0.0)
        for directions in self._directions(i):
            h = 1e-2 * size_of(self.floats[i]) / float(np.max(np.abs(directions[i]), initial=1e-300))

            def central(h, directions=directions):
                ends = (
                    float(self.value([x + s * h * d for x, d in zip(self.floats, directions, strict=True)], bars))
                    for s in (1, -1)
                )
                return (next(ends) - next(ends)) / (2 * h)

            wide, middle, narrow = (central(h / k) for k in (1, 2, 4))
            coarse, fine = (4 * middle - wide) / 3, (4 * narrow - middle) / 3
            want = fine + (fine - coarse) / 15
            now, tight = (self.back(self.floats, bars, tighter)[i] for tighter in (_AS_IS, self.tightest))
            first, got = (float(np.sum(np.asarray(g) * directions[i])) for g in (now, tight))
            size = float(np.sqrt(np.sum((np.asarray(tight) * directions[i]) ** 2))) or 1.0
            bar = max(_NEGLIGIBLE * size, 3 * abs(fine - coarse))  # a minimum is found to half of the digits only
            if not (abs(got - want) <= bar <= 10 * _LOOSE * size):
                return None
            sides = abs(first - want) / size, abs(got - want) / size
            worst = Excuse(max(worst.before, sides[0]), max(worst.after, sides[1]), by_differences=True)
        return worst

    def _size(self, seen, i):
        natural = max(n for *_, n in seen) / size_of(self.floats[i])
        return max(*(s for _, _, s, _ in seen), 1e-3 * natural) or 1.0

    def _sides(self, floats, bars, directions, tighter):
        """What the rule and what the function give along directions; the size of the first; the function's own."""
        visit = _Tightened(self.of_function, tighter, self.least, self.counts)
        out, along = jax.jvp(lambda x: _walk.run(self.function, x, visit)[0], (floats,), (directions,))
        came = self._back(floats, bars, tighter)
        want = sum(_sum(b, m) for b, m in zip(bars, along, strict=True))
        natural = sum(jnp.abs(_sum(jnp.abs(b), jnp.abs(o))) for b, o in zip(bars, out, strict=True))
        got = sum(_sum(d, g) for d, g in zip(directions, came, strict=True))
        size = sum(jnp.sqrt(_sum(d * d, g * g)) for d, g in zip(directions, came, strict=True))
        return got, want, size, natural

    def _back(self, floats, bars, tighter):
        return _walk.run(self.ruled, [*floats, *bars], _Tightened(self.of_rule, tighter, self.least, self.counts))[0]

    def _value(self, floats, bars):
        visit = _Tightened(self.of_function, self.tightest, self.least, self.counts)
        out = _walk.run(self.function, list(floats), visit)[0]
        return sum(_sum(b, o) for b, o in zip(bars, out, strict=True))


class _Bounded:
    """A visitor under which no loop goes on for ever."""

    most = _TURNS

    def __call__(self, place, eqn, operands, given):
        return _walk.plain(place, eqn, operands, given)


def bounded(pull: Callable[..., Any], floats: list[np.ndarray], bars: list[np.ndarray]) -> Callable[..., Any]:
    """The same as a program without endless loops: one may never come to its end where a cotangent is larger than its
    tolerance is meant for."""
    program = _walk.trace(pull, floats, bars)
    return jax.jit(lambda floats, bars: _walk.run(program, [*floats, *bars], _Bounded())[0])


def _holds(program: Any, name: str) -> bool:
    return any(s.eqn.primitive.name == name for s in _walk.sites(program, holders=True))


def _sum(weights, values):
    """Of the products; what has no weight need not be a number."""
    return jnp.sum(jnp.where(weights == 0, 0, weights * values))
