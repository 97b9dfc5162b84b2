"""Is it right: each leaf against the reference, by a tolerance that follows from precision and cancellation."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.check._kinks import Slopes
from jaxnets.check._numeric import EPS, Slope, size_of, source
from jaxnets.check._reference import Reference
from jaxnets.check._report import KINK, RIGHT, UNDECIDABLE, WRONG

# The one table of tolerances. A formula is judged on what it gives in float64, as far as matters in its own precision:
# the largest error allowed, relative to the leaf's scale.
FORMULA = {"float64": 1e-9, "float32": 2e-7, "bfloat16": 2e-7, "float16": 2e-7}
# In its own precision roundings are added: so many of them, each of the size of the terms that the leaf sums.
ROUNDINGS = {"float64": 100, "float32": 100, "bfloat16": 30, "float16": 30}
# Above this relative error a test that passed has shown nothing.
BLUNT = 0.1
DIRECTIONS = 16


class Compared(NamedTuple):
    """One leaf beside its reference: numbers for the report, arrays and the tolerance for the search for a cause."""

    name: str
    verdict: str
    error: float
    ulp: float
    worst: tuple[int, ...] | None
    limit: float  # absolute
    scale: float
    got: np.ndarray | None
    want: np.ndarray | None
    remarks: tuple[str, ...] = ()
    own_only: bool = False  # right in float64, wrong in its own precision
    raw: Any = None  # as it came back


class Returned(NamedTuple):
    """What the caller's function gave: by name, in the caller's precision, and in float64 where it runs there."""

    own: Mapping[str, Any]
    wide: Mapping[str, Any] | None
    eps: float = EPS  # of the narrowest float within the float64 run


def compare_all(reference: Reference, returned: Returned) -> list[Compared]:
    """Every leaf on its own; none is pooled with another."""
    slopes, met = reference.kinks()
    if reference.jumps:
        reference.notes.append(
            f"{reference.who} is {reference.own_value:.6g} as it was given and {reference.value:.6g} in float64, "
            "as with random numbers drawn inside: judged in float64 alone"
        )
    with np.errstate(all="ignore"):  # infinite gradients are compared like any others
        return [_Leaf(reference, i, returned, slopes, met).judge() for i in range(len(reference.names))]


def dtype_name(dtype: Any) -> str:
    """The name of a floating dtype, the widest known for any other."""
    name = jnp.dtype(dtype).name
    return name if name in FORMULA else "float64"


def worst_of(error: np.ndarray) -> tuple[int, ...] | None:
    """Where the largest error is; not a number is the largest of all."""
    if not error.size:
        return None
    at = np.unravel_index(int(np.argmax(np.where(np.isnan(error), np.inf, error))), error.shape)
    return tuple(int(i) for i in at)


def misfit(value: Any, shape: tuple[int, ...]) -> str | None:
    """What is wrong with the form of a gradient for a leaf of this shape, if anything."""
    array = np.asarray(value, float if isinstance(value, int) else None)  # a plain number will do for a number
    if array.dtype == object:
        return "no array came back"
    if array.dtype == jax.dtypes.float0 or not jnp.issubdtype(array.dtype, jnp.floating):
        return f"it has dtype {array.dtype}, not a floating one"
    if array.shape != shape:
        return f"its shape is {array.shape}, that of the leaf {shape}"
    return None


class _Leaf:
    def __init__(self, reference: Reference, i: int, returned: Returned, slopes: Slopes | None, met: list[str]):
        self.reference, self.i, self.slopes, self.met = reference, i, slopes, met
        self.name = reference.names[i]
        self.shape = reference.x[i].shape
        self.raw = returned.own.get(self.name)
        self.wide = (returned.wide or {}).get(self.name)
        self.wide_eps = returned.eps
        self.remarks: list[str] = []
        self.want: Any = None
        self.formula: Any = None
        self.rng = source(7, i)
        self.nearby = False  # whether `slopes` are those of kinks that are close by, not of those that are met

    def judge(self) -> Compared:
        if self.raw is None:
            return self._misshapen("nothing came back for it")
        problem = misfit(self.raw, self.shape)
        if problem:
            return self._misshapen(problem)
        given = self.reference.given.arrays()[self.i]
        own = np.asarray(self.raw)
        kinds = {dtype_name(own.dtype), dtype_name(getattr(given, "dtype", np.float64))}
        self.kind = max(kinds, key=lambda k: float(jnp.finfo(k).eps))
        self.eps = float(jnp.finfo(self.kind).eps)
        self.own = own.astype(np.float64)
        fits = self.wide is not None and misfit(self.wide, self.shape) is None
        self.formula = np.asarray(self.wide, np.float64) if fits and _is_double(self.wide) else None
        self.want = self.reference.gradients[self.i]
        if self.want is None:
            return self._by_differences()
        return self._where_autodiff_is_silent() if np.any(~np.isfinite(self.want)) else self._by_autodiff()

    def _misshapen(self, problem: str) -> Compared:
        want = self.reference.gradients[self.i]
        scale = float(np.max(np.abs(want), initial=0)) if want is not None else 1.0
        return Compared(self.name, WRONG, np.inf, np.inf, None, 1e-6 * scale, scale or 1.0, None, want, raw=self.raw)

    def _where_autodiff_is_silent(self) -> Compared:
        """NaN or infinite, as at the norm of a row of zeros: differences may see more."""
        got = self.formula if self.formula is not None else self.own
        finite = np.isfinite(self.reference.value) and np.all(np.isfinite(got)) and self.reference.wide
        if not finite or not self.reference.one_by_one(self.i):
            return self._by_autodiff()
        silent = ~np.isfinite(self.want)
        values = self.reference.entries(self.i)
        if np.any(silent & ~np.isfinite(values[0]) & ~(np.isfinite(values[2]) & np.isfinite(values[3]))):
            return self._by_autodiff()
        where = worst_of(np.where(silent, np.inf, 0.0))
        self.remarks.append(
            f"autodiff of {self.reference.who} gives {self.want[where]} at {list(where or ())}: judged by differences"
        )
        return self._by_differences()

    # Against autodiff

    def _by_autodiff(self) -> Compared:
        want = self.want
        self.largest = float(np.max(np.abs(want[np.isfinite(want)]), initial=0))
        self.scale, self.cancelling = self.largest or 1.0, self.largest
        limits = FORMULA[self.kind] * self.largest, 8 * self.eps * self.largest
        quick = self.largest > 0 and all(
            g is None or bool(np.all(np.abs(g - want) <= limit))
            for g, limit in zip((self.formula, self.own), limits, strict=True)
        )
        if not quick:  # only now is it worth asking how much rounding may do
            self.cancelling = max(self.largest, self.reference.noise[self.i])
            if self.largest <= 1e5 * EPS * self.cancelling:
                self.scale = self.cancelling or 1.0
                if self.cancelling:
                    self.remarks.append("its true gradient is zero: measured against the terms that cancel in it")
        rounded = max(map(_roundings, (EPS, self.reference.eps, self.wide_eps)))
        limit_wide = FORMULA[self.kind] * self.scale + rounded * self.cancelling
        smallest = ROUNDINGS[self.kind] * float(jnp.finfo(self.kind).smallest_subnormal)  # what lies below is lost
        limit_own = max(limit_wide, ROUNDINGS[self.kind] * self.eps * max(self.cancelling, self.scale) + smallest)
        if smallest > BLUNT * self.scale and self.formula is not None:
            self.remarks.append(f"smaller than {self.kind} can hold: judged in float64 alone")
        if self.formula is None and limit_own > FORMULA["float32"] * self.scale:
            limit_wide = limit_own
        return self._decide(limit_wide, limit_own)

    def _decide(self, limit_wide: float, limit_own: float) -> Compared:
        want, checked = self.want, self.formula if self.formula is not None else self.own
        unknown = ~np.isfinite(want)
        wrong = self._off(checked, limit_wide) & ~unknown
        vote = self._vote(limit_wide)
        verdict, limit = RIGHT, limit_wide
        at_kink = self._touched(vote, limit_wide)
        if vote is not None and self.slope is not None and at_kink and self.reference.one_by_one(self.i):
            self.remarks.append(
                f"kinks cancel here: along a direction the slopes from both sides agree on {self.slope.value:.6g}, "
                "which autodiff does not give: judged by differences"
            )
            return self._by_differences()
        if np.any(wrong) and at_kink and self._within(checked, limit_wide):
            verdict = KINK
        elif np.any(wrong) and vote is not None and self._with_differences(checked):
            verdict = UNDECIDABLE
            self.remarks.append(vote + "; what was handed in agrees with the differences")
        elif np.any(wrong):
            verdict = WRONG
            if at_kink and verdict == WRONG:
                self.remarks.append(f"{self._kinks_told()}, but the value is outside the slopes there")
        elif at_kink:
            verdict = KINK if self._within(checked, limit_wide) else WRONG
        if verdict == KINK:
            self.remarks.append(f"{self._kinks_told()}: accepted between the one-sided slopes")
        got, own_only = checked, False
        held_against = self.formula if self.formula is not None else want
        if self.reference.jumps and self.formula is not None:
            got = self.formula
        elif verdict != WRONG and np.any(~(np.abs(self.own - held_against) <= limit_own) & ~unknown):
            got, limit = self.own, limit_own
            verdict = self._in_own_precision(limit_own)
            own_only = verdict == WRONG
        elif verdict != WRONG and self.formula is not None:
            got, limit = self.own, max(limit_wide, min(limit_own, np.max(np.abs(self.own - want), initial=0)))
        if verdict != WRONG and np.any(unknown):
            verdict = UNDECIDABLE
            where = worst_of(np.where(unknown, np.inf, 0.0))
            self.remarks.append(
                f"undecidable: autodiff of {self.reference.who} gives {want[where]} at {list(where or ())}"
            )
        if verdict == RIGHT and vote is not None:  # right by autodiff alone
            verdict = UNDECIDABLE
            self.remarks.append(vote)
        if verdict == RIGHT and limit_wide > BLUNT * self.scale:
            verdict = UNDECIDABLE
            self.remarks.append(
                f"undecidable at this precision: no error below {limit_wide / self.scale:.1g} can be seen"
            )
        return self._compared(verdict, got, limit, own_only)

    def _compared(self, verdict, got, limit, own_only=False) -> Compared:
        off = np.abs(got - self.want)
        error = float(np.max(np.where(np.isnan(off), np.inf, off), initial=0)) / self.scale
        return Compared(
            self.name, verdict, error, error / self.eps, worst_of(off), limit, self.scale, got, self.want,
            tuple(dict.fromkeys(self.remarks)), own_only, self.raw,
        )  # fmt: skip

    def _off(self, got, limit):
        return ~(np.abs(got - self.want) <= limit)  # NaN is off

    def _vote(self, limit: float) -> str | None:
        """Why the differences do not confirm autodiff, if they do not."""
        direction = self.rng.normal(size=self.shape)
        expected = float(np.sum(self.want * direction))
        if not np.isfinite(expected):
            return None
        self.slope = self.reference.slope(self.i, direction)
        if self.slope.kinked:
            return None
        room = 1e-6 * float(np.sqrt(np.sum((self.want * direction) ** 2)))
        room += limit * float(np.sum(np.abs(direction)))
        if not np.isfinite(self.slope.value):
            return None
        off = abs(self.slope.value - expected)
        confirmed = off <= 10 * self.slope.bar + room
        if not confirmed:  # from afar, many small bends look like a curve: nearer by, they may tell the two apart
            seen = self.reference.slope(self.i, direction, nearer=64)
            confirmed = not seen.kinked and 2 * seen.bar < off and abs(seen.value - expected) <= 2 * seen.bar + room
            self.slope = seen if confirmed else self.slope
        if confirmed:
            self.reference.confirmed.add(self.name)
            return None
        if self.reference.stops:
            self.reference.notes.append(
                f"stop_gradient in {self.reference.who} is honoured; differences cannot see it and are left out"
            )
            return None
        return (
            f"undecidable: along a direction autodiff gives {expected:.6g}, differences "
            f"{self.slope.value:.6g} ± {self.slope.bar:.1g}"
        )

    slope: Slope | None = None

    def _with_differences(self, got: np.ndarray) -> bool:
        for _ in range(3):
            d = self.rng.normal(size=self.shape)
            seen = self.reference.slope(self.i, d)
            room = 10 * seen.bar + 1e-6 * float(np.sqrt(np.sum((got * d) ** 2)))
            if not abs(float(np.sum(got * d)) - seen.value) <= room:
                return False
        return True

    # At kinks

    def _touched(self, vote: str | None, limit: float) -> bool:
        self.interval_of = {}
        if self.slope is not None and self.slope.kinked and not self.reference.stops:
            return True
        if self.slopes is None:
            return False
        for _ in range(2):
            low, high = self.slopes.interval(self.i, self.rng.normal(size=self.shape))
            if high - low > 10 * limit + 1e-9 * self.scale:
                return True
        return False

    def _within(self, got: np.ndarray, limit: float) -> bool:
        """Is it within the interval of slopes, along entries that differ and along random directions?"""
        off = np.where(np.isnan(got), np.inf, np.abs(got - self.want)).ravel()
        directions = []
        for k in np.argsort(off)[::-1][:64]:
            if off[k] > limit:
                unit = np.zeros(off.size)
                unit[k] = 1.0
                directions.append(unit.reshape(self.shape))
        if off.size <= 64:
            directions += list(np.eye(off.size).reshape(-1, *self.shape))
        directions += [self.rng.normal(size=self.shape) for _ in range(DIRECTIONS)] + [np.ones(self.shape)]
        if self.slopes is not None and np.all(np.isfinite(got)):
            directions.append(self.slopes.apart(self.i, got, self.want))
        for d in directions:
            if not np.any(d):
                continue
            d = d / np.max(np.abs(d))
            low, high = self._slopes_along(d)
            room = 4 * limit * float(np.sqrt(np.sum(d * d))) + 1e-7 * max(abs(low), abs(high))
            if not low - room <= float(np.sum(got * d)) <= high + room:
                return False
        return True

    def _slopes_along(self, direction: np.ndarray) -> tuple[float, float]:
        """The least and greatest slope along a direction: of the kinks that are met, each on its own; but where these
        cancel, the slopes that are measured from both sides agree, and there is one."""
        seen = self.reference.slope(self.i, direction)
        if self.slopes is None:
            low = high = float(np.sum(self.want * direction))
            return (min(low, seen.left, seen.right), max(high, seen.left, seen.right)) if seen.kinked else (low, high)
        low, high = self.slopes.interval(self.i, direction)
        if self.nearby:  # these are not met, but close: what is measured does not know of them
            return low, high
        if not seen.kinked and np.isfinite(seen.value) and 20 * seen.bar < high - low and not self.reference.stops:
            return seen.value - 10 * seen.bar, seen.value + 10 * seen.bar
        return low, high

    def _kinks_told(self) -> str:
        return "at a kink (" + ("; ".join(self.met[:3]) or "the slopes from both sides differ") + ")"

    def _in_own_precision(self, limit: float) -> str:
        if np.all(np.isfinite(self.own)):
            slopes, met = self.reference.kinks(16 * self.eps)
            if slopes is not None:
                self.slopes, self.met, self.nearby = slopes, met, True
                if self._within(self.own, limit):
                    self.remarks.append(
                        f"{self._kinks_told()}, closer than {self.kind} can tell: accepted between its slopes"
                    )
                    return KINK
        if self.formula is not None:
            self.remarks.append(f"right in float64, wrong in {self.kind}")
        return WRONG

    # Against differences alone

    def _by_differences(self) -> Compared:
        got = self.formula if self.formula is not None else self.own
        tests, kinked = [], False
        for _ in range(3):
            d = self.rng.normal(size=self.shape)
            seen = self.reference.slope(self.i, d)
            tests.append((float(np.sum(got * d)), seen, float(np.sqrt(np.sum((got * d) ** 2)))))
            kinked |= seen.kinked
        self.scale = float(np.max(np.abs(got[np.isfinite(got)]), initial=0)) or 1.0
        bar = max(10 * t[1].bar + FORMULA[self.kind] * t[2] for t in tests)
        if self.formula is None:
            bar += ROUNDINGS[self.kind] * self.eps * max(t[2] for t in tests)
        natural = max(1.0, abs(self.reference.value)) / size_of(self.reference.x[self.i])
        size = max(t[2] for t in tests) or natural
        agree = all(abs(value - seen.value) <= bar for value, seen, _ in tests) and not kinked
        if agree and (bar <= BLUNT * size or not self.reference.one_by_one(self.i)):
            # Not seen entry by entry, but along directions in which every entry takes part.
            verdict = RIGHT if bar <= BLUNT * size else UNDECIDABLE
            if verdict == UNDECIDABLE:
                self.remarks.append(f"undecidable at this precision: differences are sure to {bar:.1g} only")
            self.want = got
            seen = max(abs(value - slope.value) / (size or 1.0) for value, slope, _ in tests)
            found = self._own_precision_of(self._compared(verdict, got, bar))
            return found if found.verdict == WRONG else found._replace(error=seen, ulp=seen / self.eps)
        if not self.reference.one_by_one(self.i):
            return self._searched(got, bar) if np.isfinite(bar) else self._unseen(got)
        value, bars, left, right = self.reference.entries(self.i)
        self.want = value
        self.scale = float(np.max(np.abs(value), initial=0)) or 1.0
        if self.scale <= 10 * float(np.max(bars, initial=0)):  # rounding: what cancels in it is not seen by differences
            self.scale = natural
            self.remarks.append("its true gradient is zero: measured against what the function's own size lets expect")
        limit = 10 * bars + FORMULA[self.kind] * self.scale
        if self.formula is None:
            limit = limit + ROUNDINGS[self.kind] * self.eps * self.scale
        unknown = ~np.isfinite(value)
        low, high = np.minimum(np.minimum(left, right), value), np.maximum(np.maximum(left, right), value)
        gap = high - low
        at_kink = gap > 1e-5 * self.scale + 10 * bars
        if np.any(at_kink):
            low, high = np.where(at_kink, low, value), np.where(at_kink, high, value)
            inside = (got >= low - limit) & (got <= high + limit) | unknown
            ones = np.ones(self.shape)
            tests.append((float(np.sum(got)), self.reference.slope(self.i, ones), 0.0))
            along = all(self._inside(v, s, bar) for v, s, _ in tests)
            verdict = KINK if np.all(inside) and along else WRONG
            self.remarks.append("at a kink: the slopes from both sides differ")
            self.want = np.clip(got, low, high)  # what is between the slopes is no error
        else:
            verdict = WRONG if np.any(~(np.abs(got - value) <= limit) & ~unknown) else RIGHT
        if np.any(unknown) and verdict != WRONG:
            verdict = UNDECIDABLE
            where = list(worst_of(np.where(unknown, np.inf, 0.0)) or ())
            self.remarks.append(f"undecidable: differences give nothing at {where}, nor is there another reference")
        self.want = np.where(unknown, got, self.want)
        return self._own_precision_of(self._compared(verdict, got, float(np.max(limit, initial=0))))

    def _unseen(self, got: np.ndarray) -> Compared:
        self.want = got
        self.remarks.append("undecidable: differences give nothing here, nor is there another reference")
        return self._compared(UNDECIDABLE, got, np.inf)

    @staticmethod
    def _inside(value: float, seen: Slope, bar: float) -> bool:
        if not np.isfinite(seen.value):  # nothing is seen along it
            return True
        ends = [seen.value, seen.left, seen.right] if seen.kinked else [seen.value]
        return min(ends) - bar <= value <= max(ends) + bar

    def _own_precision_of(self, found: Compared) -> Compared:
        limit = max(found.limit, ROUNDINGS[self.kind] * self.eps * self.scale)
        judged = found.verdict in (RIGHT, KINK) and self.formula is not None and not self.reference.jumps
        if judged and np.any(self._off(self.own, limit)):  # only now is it worth asking how much rounding may do
            limit = max(limit, ROUNDINGS[self.kind] * self.eps * self.reference.noise[self.i])
        if judged and np.any(self._off(self.own, limit)):
            self.remarks.append(f"right in float64, wrong in {self.kind}")
            return self._compared(WRONG, self.own, limit, own_only=True)
        return found

    def _searched(self, got: np.ndarray, bar: float) -> Compared:
        """Too many entries to differentiate one by one: halve, and go where the error is."""
        low, high = 0, got.size
        while high - low > 1:
            middle = (low + high) // 2
            d = np.zeros(got.size)
            d[low:middle] = self.rng.normal(size=middle - low)
            seen = self.reference.slope(self.i, d.reshape(self.shape))
            expected = float(np.sum(got.ravel() * d))
            low, high = (low, middle) if not abs(expected - seen.value) <= bar else (middle, high)
        at = tuple(int(k) for k in np.unravel_index(low, self.shape))
        d = np.zeros(got.size)
        d[low] = 1.0
        want = self.reference.slope(self.i, d.reshape(self.shape)).value
        self.remarks.append(f"found by halving; there it is {got[at]:.6g} in place of {want:.6g}")
        self.want = got.copy()
        self.want[at] = want
        return self._compared(WRONG, got, bar)


def _roundings(eps: float) -> float:
    """What the roundings of a float of this precision add up to, relative to what is summed."""
    return eps * next((n for kind, n in ROUNDINGS.items() if float(jnp.finfo(kind).eps) == eps), 100)


def _is_double(value: Any) -> bool:
    return np.asarray(value).dtype == np.float64
