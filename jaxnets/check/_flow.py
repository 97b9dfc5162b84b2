"""What reaches what in a program: from its inputs and constants to its results, and back.

Sets of marks flow along its equations, into the programs that these hold, and round loops until nothing new comes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnets.check import _walk
from jaxnets.check._walk import Literal, Place

Marks = frozenset[Any]
NONE: Marks = frozenset()
BY: Marks = frozenset(["by"])  # the one mark of what is differentiated by, or differentiated


class Asked(NamedTuple):
    """Of an equation: the operands that depend on what is differentiated by, the results that what comes out needs."""

    operands: list[bool]
    results: list[bool]


class Tolerance(NamedTuple):
    """A constant as it stands in a program: the place of its equation, and the number of the operand."""

    place: Place
    operand: int


def asked(closed: Any, parameter: Callable[[Any], bool]) -> dict[Place, Asked]:
    """What is asked of each equation when all results are differentiated by all arguments, and by the constants that
    are a `parameter`. Where a program has neither, or nothing comes out that has a derivative, everything is asked."""
    jaxpr = _walk.opened(closed)[0]
    forward = _Flow(_smooth, constant=lambda value: BY if parameter(value) else NONE)
    backward = _Flow(_smooth)
    forward.on(closed, [BY] * len(jaxpr.invars), ())
    backward.back(closed, [BY] * len(jaxpr.outvars), ())
    by_none = not any(map(_smooth, jaxpr.invars)) and not forward.marked
    of_none = not any(map(_smooth, jaxpr.outvars))
    return {
        place: Asked([by_none or bool(m) for m in ins], [of_none or bool(m) for m in backward.found[place]])
        for place, ins in forward.found.items()
    }


def tolerances(closed: Any, small: Callable[[float], bool]) -> set[Tolerance]:
    """The small constants that do nothing but end loops: what they are compared with decides whether a `while` goes on,
    and no result depends on them otherwise."""
    jaxpr = _walk.opened(closed)[0]
    marks = {
        (s.place, k): frozenset([Tolerance(s.place, k)])
        for s in _walk.sites(closed, holders=True)
        for k, v in enumerate(s.eqn.invars)
        if isinstance(v, Literal) and not np.shape(v.val) and _walk.is_float(v) and small(abs(float(v.val)))
    }
    smooth, control = _Flow(_smooth, marks), _Flow(lambda v: True, marks, decides=True)
    in_results = _union(smooth.on(closed, [NONE] * len(jaxpr.invars), ()))
    control.on(closed, [NONE] * len(jaxpr.invars), ())
    return set(control.ends - in_results)


class _Flow:
    """Marks on variables of the kind that `carries` them; `marks` come in at operands, by place and number, and with
    constants. Where they tell what `decides` whether a loop goes on, what a whole number is chosen by counts too."""

    def __init__(
        self,
        carries: Callable[[Any], bool],
        marks: dict[tuple[Place, int], Marks] | None = None,
        constant: Callable[[Any], Marks] = lambda value: NONE,
        decides: bool = False,
    ):
        self.carries, self.marks, self.constant, self.decides = carries, marks or {}, constant, decides
        self.found: dict[Place, list[Marks]] = {}  # at each equation, on this side of it
        self.ends: Marks = NONE  # what reaches the question whether a loop goes on
        self.marked = False  # whether any constant is
        self.entered: set[Any] = set()  # what loops carry into a turn

    def on(self, closed: Any, given: Sequence[Marks], place: Place) -> list[Marks]:
        """From inputs to results."""
        jaxpr, consts = _walk.opened(closed)
        constants = list(map(self.constant, consts)) or [NONE] * len(jaxpr.constvars)
        self.marked |= any(constants)
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *given], strict=True))
        for i, eqn in enumerate(jaxpr.eqns):
            here = (*place, i)
            ins = [self._of(v, known) | self.marks.get((here, k), NONE) for k, v in enumerate(eqn.invars)]
            self.found[here] = ins
            known.update(zip(eqn.outvars, self._through(eqn, ins, here, self.on), strict=True))
        return [self._of(v, known) for v in jaxpr.outvars]

    def back(self, closed: Any, wanted: Sequence[Marks], place: Place) -> list[Marks]:
        """From results to inputs."""
        jaxpr = _walk.opened(closed)[0]
        known: dict[Any, Marks] = {}
        self._take(known, jaxpr.outvars, wanted)
        for i, eqn in reversed(list(enumerate(jaxpr.eqns))):
            here = (*place, i)
            outs = self.found[here] = [self._of(v, known) for v in eqn.outvars]
            self._take(known, eqn.invars, self._through(eqn, outs, here, self.back))
        return [self._of(v, known) for v in jaxpr.invars]

    def _of(self, v, known):
        return NONE if isinstance(v, Literal) or not self.carries(v) else known.get(v, NONE)

    def _take(self, known, variables, marks):
        for v, m in zip(variables, marks, strict=True):
            if not isinstance(v, Literal):
                known[v] = known.get(v, NONE) | m

    def _through(self, eqn, marks, here, way):
        """From an equation's operands to its results, or the other way."""
        onward = way == self.on
        name, programs = eqn.primitive.name, _walk.inner(eqn)
        ends = eqn.outvars if onward else eqn.invars
        if name == "stop_gradient" and self.carries is _smooth:
            return [NONE] * len(ends)
        if not programs:
            # Which of its cases a choice falls on is no way from one number to another.
            choice = name == "select_n" and onward and not (self.decides and not _walk.is_float(ends[0]))
            if choice and any(
                v in self.entered for v in eqn.invars[1:] if not isinstance(v, Literal)
            ):  # what is carried stays as it is
                self.ends |= marks[0]
            return [_union(marks[1:] if choice else marks)] * len(ends)
        inside = [program for _, program in programs]
        if name == "cond":
            given = marks[1:] if onward else marks
            taken = [way(p, given, (*here, k)) for p, (k, _) in zip(inside, programs, strict=True)]
            some = [_union(each) for each in zip(*taken, strict=True)]
            return some if onward else [NONE, *some]
        if name == "scan":
            before, carried = _walk.scan_counts(eqn)
            return self._round(inside[0], marks, before, carried, here, way)
        if name == "while":
            return self._while(eqn, inside, marks, here, way)
        through = way(inside[0], marks, here)
        if name in _walk.RULES and name != "custom_jvp_call":  # it may send a gradient where its function compares
            by_rule = _union(m for m, v in zip(marks, eqn.invars if onward else eqn.outvars, strict=True) if _smooth(v))
            through = [m | by_rule for m in through]
        return through

    def _while(self, eqn, inside, marks, here, way):
        test, body = inside
        for_test, before, carried = eqn.params["cond_nconsts"], eqn.params["body_nconsts"], len(eqn.outvars)
        if way == self.on:
            carry = self._round(body, marks[for_test:], before, carried, (*here, 1), way)
            self.ends |= _union(way(test, [*marks[:for_test], *carry], (*here, 0)))
            return carry
        way(test, [NONE], (*here, 0))
        return [NONE] * for_test + self._round(body, marks, before, carried, (*here, 1), way)

    def _round(self, body, marks, before, carried, here, way):
        """Through a loop's body until what is carried brings nothing new; `before` it come the loop's constants."""
        # Where the carry stands, going in and coming out.
        begins, other = (before, 0) if way == self.on else (0, before)
        marks, jaxpr = list(marks), _walk.opened(body)[0]
        self.entered |= set(jaxpr.invars[before : before + carried])
        while True:
            ends = way(body, marks, here)
            now = marks[begins : begins + carried]
            carry = [a | b for a, b in zip(now, ends[other : other + carried], strict=True)]
            if carry == now:
                ends[other : other + carried] = carry
                return ends
            marks[begins : begins + carried] = carry


def _union(marks: Iterable[Marks]) -> Marks:
    return frozenset().union(*marks)


def _smooth(v: Any) -> bool:
    dtype = getattr(getattr(v, "aval", None), "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
