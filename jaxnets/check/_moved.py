"""Which entries of a rule's operands could move when the arguments do, and whether anything takes up what it gives.

At the values that are met, and entry by entry: the first content of a loop's buffer is an operand like any other, of
which one entry may well come from an argument; and a result may stand in the branch of a `where` that is not taken.
The program is run in forward mode with its rules taken out, and with tangents that only spread: whatever goes into an
equation moves all that comes out, except where entries are moved about or chosen. So what is multiplied by zero moves
still.
"""

import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.check import _walk
from jaxnets.check._reference import CANNOT

_KEPT = 256  # of the times that a rule is met in a loop
_ALIKE = 1e-4  # values of two runs of one program, compiled differently
# What gives a result's entries those of its operands, and nothing of an operand that it does not choose.
# fmt: off
_PASSED_ON = {
    "select_n", "stop_gradient", "reshape", "broadcast_in_dim", "transpose", "squeeze", "slice", "rev", "concatenate",
    "pad", "gather", "dynamic_slice", "dynamic_update_slice", "scatter", "scatter-add", "convert_element_type", "copy",
    "name", "reduce_sum",
}
# What makes each entry of those that stand at its place. Of any other equation each entry moves with all.
_ENTRYWISE = {
    "add", "add_any", "sub", "mul", "div", "neg", "sign", "abs", "max", "min", "clamp", "square", "sqrt", "rsqrt",
    "cbrt", "integer_pow", "pow", "exp", "exp2", "expm1", "log", "log1p", "sin", "cos", "tan", "tanh", "sinh", "cosh",
    "asin", "acos", "atan", "atan2", "logistic", "erf", "erfc", "erf_inv", "real", "imag", "conj",
}
# fmt: on


def is_parameter(value: Any) -> bool:
    """Whether a constant of a program is an array of JAX's: these are parameters as often as not, and somebody may
    differentiate by them elsewhere. NumPy's are tables of coefficients."""
    return isinstance(value, jax.Array) and value.ndim > 0 and _is_smooth(value)


class Moved:
    """What moves in a program at these values; `around` says whether what it is part of is taken up itself."""

    def __init__(self, program: Any, values: Sequence[Any], around: Callable[[], bool] = lambda: True):
        self.program, self.around = program, around
        self.values = [np.asarray(v) for v in values]

    def at(self, place: _walk.Place, operands: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Which entries of each floating operand could move, where the rule is met with these; None if not known."""
        floats = [np.asarray(v, np.float64) for v in operands if _walk.is_float(v)]
        met = self._met.get(place, [])
        nearest = min(met, key=lambda pair: _apart(pair[0], floats), default=None)
        return nearest[1] if nearest is not None and _apart(nearest[0], floats) <= _ALIKE else None

    def taken_up(self, place: _walk.Place) -> bool:
        """Whether any result of the program could move with what the rule at this place gives."""
        if not self.around():
            return False
        sites = _walk.sites(self.program, holders=True)
        if not any(s.place == place and s.eqn.primitive.name in _walk.RULES for s in sites):
            return True  # it is no single rule
        moved = self._run(lambda lift: _Spread(lift, leaving=place))
        return not moved or any(bool(jnp.any(v != 0)) for v in moved)

    @cached_property
    def _met(self) -> dict[_walk.Place, list[tuple[list[np.ndarray], list[np.ndarray]]]]:
        """For each rule the times that it was met: its floating operands, and which of their entries move."""
        if not any(map(_is_smooth, self.values)) and not any(map(is_parameter, _walk.opened(self.program)[1])):
            return {}
        met: dict[_walk.Place, list[Any]] = {}
        lock = threading.Lock()

        def keep(place, operands, tangents):
            with lock:
                times = met.setdefault(place, [])
                if len(times) < _KEPT:
                    times.append(([np.array(v, np.float64) for v in operands], [np.array(t) != 0 for t in tangents]))

        return met if self._run(lambda lift: _Spread(lift, keep=keep)) is not None else {}

    def _run(self, visitor):
        """The tangents of what comes out; None where forward mode does not go through."""

        def f(lift):
            visit = visitor(lift)
            out = _walk.run(self.program, [visit.argument(v) for v in jax.device_put(self.values)], visit)[0]
            return [v for v in out if _is_smooth(v)]

        try:
            tangents = jax.block_until_ready(jax.jit(lambda lift: jax.jvp(f, (lift,), (lift,))[1])(1.0))
        except CANNOT:
            return None
        jax.effects_barrier()
        return tangents


class _Spread:
    """A visitor under which whatever goes into an equation moves what comes out. What moves to begin with is the
    arguments and parameters, if what rules are entered with is to be kept, or else what one rule gives."""

    def __init__(self, lift: Any, keep: Callable[..., None] | None = None, leaving: _walk.Place | None = None):
        self.lift, self.keep, self.place = lift, keep, leaving

    def __call__(self, place, eqn, operands, given):
        if eqn.primitive.name in _PASSED_ON:
            return _walk.plain(place, eqn, operands, given)
        out = _walk.bind(eqn, [jax.lax.stop_gradient(v) for v in operands])
        smooth = [v for v in operands if _is_smooth(v)]
        entrywise = eqn.primitive.name in _ENTRYWISE
        return [_moves_with(entrywise, v, *smooth) if smooth and _is_smooth(v) else v for v in out], None

    def argument(self, value):
        return _moves_with(False, value, self.lift) if self.keep and _is_smooth(value) else value

    def constant(self, value):
        return self.argument(value) if is_parameter(value) else value

    def entering(self, place, eqn, operands):
        if self.keep:
            _watched(partial(self.keep, place), *(v for v in operands if _walk.is_float(v)))

    def leaving(self, place, operands, out):
        """Its derivative need not go where its function goes: whatever goes in moves all that comes out."""
        by = [self.lift] if place == self.place else [v for v in operands if _is_smooth(v)]
        return [_moves_with(False, v, v, *by) if _is_smooth(v) and by else v for v in out]


def _apart(one, other):
    """How far from each other the operands of two times are, relative to the largest entry."""
    return max((_off(a, b) for a, b in zip(one, other, strict=True)), default=0.0)


def _off(a, b):
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    largest = float(np.max(np.abs(b[np.isfinite(b)]), initial=0)) or 1.0
    return float(np.max(np.where(same, 0, np.abs(a - b)), initial=0)) / largest


def _is_smooth(v):
    """Whether it is of numbers that have a derivative, complex ones too."""
    return jnp.issubdtype(getattr(v, "dtype", int), jnp.inexact)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _watched(keep, *x):
    return x


@_watched.defjvp
def _watched_jvp(keep, primals, tangents):
    jax.debug.callback(keep, primals, tangents)
    return primals, tangents


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _moves_with(entrywise, x, *others):
    return x


@_moves_with.defjvp
def _moves_with_jvp(entrywise, primals, tangents):
    x = primals[0]
    sizes = [jnp.abs(t) if entrywise and t.shape == x.shape else jnp.sum(jnp.abs(t)) for t in tangents[1:]]
    return x, sum((s.astype(x.dtype) for s in sizes), jnp.zeros_like(x))
