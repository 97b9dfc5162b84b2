"""Which entries of a rule's operands move when the arguments do, and whether anything takes up what it gives.

Both at the values that are met, and in forward mode, the program's rules taken out. The first content of a loop's
buffer is an operand like any other, and one entry of it may well come from an argument: which of them nobody
differentiates by is seen entry by entry only. And a result may stand in the branch of a `where` that is not taken.
"""

import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.ad import primitive_jvps  # which primitives have a derivative at all

from jaxnets.check import _walk
from jaxnets.check._numeric import source
from jaxnets.check._reference import CANNOT

_DIRECTIONS = 2
_KEPT = 256  # of the times that a rule is met in a loop
_ALIKE = 1e-4  # values of two runs of one program, compiled differently


class Moved:
    """What moves in a program at these values."""

    def __init__(self, program: Any, values: Sequence[Any], around: Callable[[], bool] = lambda: True):
        self.program, self.values = program, values
        self.around = around  # whether what it is part of is taken up itself

    @cached_property
    def runs(self) -> list[dict[_walk.Place, list[Any]]]:
        """Values and tangents of the floating operands with which rules are entered, run by run."""
        return _run(self.program, self.values)

    def taken_up(self, place: _walk.Place) -> bool:
        """Whether any result of the program could move with what the rule at this place gives: it is not behind a
        choice that falls on something else. (What is multiplied by zero is taken up.)"""
        values = jax.device_put([np.asarray(v) for v in self.values])

        def f(lift):
            out = _walk.run(self.program, values, _Lifted(place, lift))[0]
            return [v for v in out if _is_smooth(v)]

        if not self.around():
            return False
        if not any(
            s.place == place and s.eqn.primitive.name in _walk.RULES for s in _walk.sites(self.program, holders=True)
        ):
            return True  # it is no single rule
        try:
            moved = jax.jit(lambda t: jax.jvp(f, (t,), (t,))[1])(1.0)
        except CANNOT:  # forward mode does not go through: it may be
            return True
        return not moved or any(bool(jnp.any(v != 0)) for v in moved)

    def at(self, place: _walk.Place, operands: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """How far each entry of each floating operand moves, where the rule is met with these; None if not known."""
        floats = [np.asarray(v, np.float64) for v in operands if _walk.is_float(v)]
        found = [_nearest(run.get(place, []), floats) for run in self.runs]
        if not found or any(tangents is None for tangents in found):
            return None
        return [np.max([np.abs(t) for t in of_each], 0) for of_each in zip(*found, strict=True)]


def _nearest(met, floats):
    """The tangents of the time that the rule was met with these values."""

    def off(primals):
        return max((_off(a, b) for a, b in zip(primals, floats, strict=True)), default=0.0)

    best = min(met, key=lambda pair: off(pair[0]), default=None)
    return best[1] if best is not None and off(best[0]) <= _ALIKE else None


def _off(a, b):
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    largest = float(np.max(np.abs(b[np.isfinite(b)]), initial=0)) or 1.0
    return float(np.max(np.where(same, 0, np.abs(a - b)), initial=0)) / largest


def _run(program, values):
    floats = [k for k, v in enumerate(values) if _is_smooth(np.asarray(v))]
    if not floats and not any(map(_is_parameter, _walk.opened(program)[1])):
        return []
    watch = _Tangents()

    def run(lift, *floating):
        watch.lift = lift
        full = list(values)
        for k, v in zip(floats, floating, strict=True):
            full[k] = v
        return _walk.run(program, full, watch)[0]

    x = (jnp.ones(()), *jax.device_put([np.asarray(values[k]) for k in floats]))
    along = jax.jit(lambda x, d: jax.jvp(run, x, d)[1])
    rng, runs = source(31), []
    try:
        for _ in range(_DIRECTIONS):
            watch.met = {}
            out = along(x, tuple(jax.device_put(_direction(v, rng)) for v in x))
            jax.block_until_ready(out)
            jax.effects_barrier()
            runs.append(watch.met)
    except CANNOT:  # forward mode does not go through
        return []
    return runs


def _direction(v, rng):
    drawn = rng.normal(size=v.shape)
    return np.asarray(drawn + 1j * rng.normal(size=v.shape) if jnp.iscomplexobj(v) else drawn, v.dtype)


def _is_smooth(v):
    """Whether it is of numbers that have a derivative, complex ones too."""
    return jnp.issubdtype(v.dtype, jnp.inexact)


def _is_parameter(value):
    """Whether a constant of a program is an array of JAX's, by which somebody may differentiate elsewhere."""
    return isinstance(value, jax.Array) and value.ndim > 0 and _is_smooth(value)


class _Tangents:
    """A visitor that looks at the tangents with which each rule is entered; parameters move like the arguments."""

    def __init__(self):
        self.lift: Any = None
        self.met: dict[_walk.Place, list[Any]] = {}
        self.lock = threading.Lock()

    def __call__(self, place, eqn, operands, given):
        if eqn.primitive in primitive_jvps:
            return _walk.plain(place, eqn, operands, given)
        # It has no derivative: whatever comes out may move if something that goes in does.
        out = _walk.bind(eqn, [jax.lax.stop_gradient(v) for v in operands])
        smooth = [v for v in operands if _is_smooth(v)]
        return [_moves_with(v, *smooth) if smooth and _is_smooth(v) else v for v in out], None

    def constant(self, value, aval):
        return _moves_with(value, self.lift) if _is_parameter(value) else value

    def entering(self, place, eqn, operands):
        _watched(partial(self._keep, place), *(v for v in operands if _walk.is_float(v)))

    def _keep(self, place, primals, tangents):
        with self.lock:
            met = self.met.setdefault(place, [])
            if len(met) < _KEPT:
                met.append(tuple([np.array(v, np.float64) for v in side] for side in (primals, tangents)))


class _Lifted:
    """A visitor under which the results of one rule move, and everything moves that something in it moves."""

    def __init__(self, place: _walk.Place, lift: Any):
        self.place, self.lift = place, lift

    def __call__(self, place, eqn, operands, given):
        if eqn.primitive.name in _PASSED_ON:
            return _walk.plain(place, eqn, operands, given)
        out = _walk.bind(eqn, [jax.lax.stop_gradient(v) for v in operands])
        smooth = [v for v in operands if _is_smooth(v)]
        return [_moves_with(v, *smooth) if smooth and _is_smooth(v) else v for v in out], None

    def leaving(self, place, out):
        if place != self.place:
            return out
        return [_moves_with(v, self.lift) if _is_smooth(v) else v for v in out]


# What gives a result's entries those of its operands, and nothing of an operand that it does not choose.
_PASSED_ON = (
    *(
        "select_n",
        "stop_gradient",
        "reshape",
        "broadcast_in_dim",
        "transpose",
        "squeeze",
        "expand_dims",
        "slice",
        "rev",
    ),
    *("concatenate", "pad", "gather", "dynamic_slice", "convert_element_type", "copy", "name", "reduce_sum"),
)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _watched(keep, *x):
    return x


@_watched.defjvp
def _watched_jvp(keep, primals, tangents):
    jax.debug.callback(keep, primals, tangents)
    return primals, tangents


@jax.custom_jvp
def _moves_with(x, *others):
    return x


@_moves_with.defjvp
def _moves_with_jvp(primals, tangents):
    x = primals[0]
    sizes = [jnp.abs(t) if t.shape == x.shape else jnp.sum(jnp.abs(t)) for t in tangents[1:]]
    return x, sum((s.astype(x.dtype) for s in sizes), jnp.zeros_like(x))
