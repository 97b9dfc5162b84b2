"""What a program asks of each rule in it: by which operands, and through which results, anybody differentiates.

A rule may give nothing for a constant, for what only counts or stops a loop, or for the buffer of a loop's results;
and nothing for a result that is dropped. Such a derivative may be anything, since it reaches nobody.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.check import _walk
from jaxnets.check._walk import Literal, Place


class Asked(NamedTuple):
    """Of an equation: the operands that depend on what is differentiated by, the results that what comes out needs."""

    operands: list[bool]
    results: list[bool]


def asked(closed: Any, by: Sequence[bool]) -> dict[Place, Asked]:
    """What is asked of each equation when all results are differentiated by the arguments that `by` says, and by JAX's
    arrays that the function closes over: these are parameters as often as not, NumPy's tables of coefficients. Where it
    is a function of neither, or gives nothing that could be differentiated, everything is asked."""
    jaxpr, consts = _walk.opened(closed)
    closed_over = {v for v, c in zip(jaxpr.constvars, consts, strict=True) if isinstance(c, jax.Array) and c.shape}
    operands: dict[Place, list[bool]] = {}
    results: dict[Place, list[bool]] = {}
    _forward(jaxpr, by, (), operands, closed_over)
    _backward(jaxpr, [True] * len(jaxpr.outvars), (), results)
    if not any(_smooth(v) for v in [*jaxpr.invars, *closed_over]):
        operands = {place: [True] * len(ins) for place, ins in operands.items()}
    if not any(_smooth(v) for v in jaxpr.outvars):
        results = {place: [True] * len(outs) for place, outs in results.items()}
    return {place: Asked(operands[place], results[place]) for place in operands}


def _forward(jaxpr, by, place, found, closed_over=()):
    """Whether each result depends on the inputs that `by` says; what each equation is handed is kept in `found`."""
    reached = {v for v, yes in zip(jaxpr.invars, by, strict=True) if yes and _smooth(v)}
    reached |= {v for v in closed_over if _smooth(v)}
    for i, eqn in enumerate(jaxpr.eqns):
        ins = [v in reached for v in _hashable(eqn.invars)]
        found[(*place, i)] = ins
        outs = _through(eqn, ins, (*place, i), found, _forward)
        reached |= {v for v, yes in zip(eqn.outvars, outs, strict=True) if yes and _smooth(v)}
    return [v in reached for v in _hashable(jaxpr.outvars)]


def _backward(jaxpr, of, place, found):
    """Whether the results that `of` says depend on each input; what of each equation is needed is kept in `found`."""
    needed = {v for v, yes in zip(_hashable(jaxpr.outvars), of, strict=True) if yes and _smooth(v)}
    for i, eqn in reversed(list(enumerate(jaxpr.eqns))):
        outs = [v in needed for v in eqn.outvars]
        found[(*place, i)] = outs
        ins = _through(eqn, outs, (*place, i), found, _backward)
        needed |= {v for v, yes in zip(_hashable(eqn.invars), ins, strict=True) if yes and _smooth(v)}
    return [v in needed for v in jaxpr.invars]


def _through(eqn, flags, here, found, way):
    """From an equation's operands to its results, or the other way."""
    forward = way is _forward
    name, programs = eqn.primitive.name, _walk.inner(eqn)
    ends = eqn.outvars if forward else eqn.invars
    if name == "stop_gradient":
        return [False] * len(ends)
    if not programs:
        return [any(flags)] * len(ends)
    if name == "cond":
        taken = [
            way(_walk.opened(p)[0], flags[1:] if forward else flags, (*here, k), found) for k, p in programs
        ]  # its first operand says which branch
        some = [any(each) for each in zip(*taken, strict=True)]
        return some if forward else [False, *some]
    if name == "scan":
        before, carried = _walk.scan_counts(eqn)
        return _round(_walk.opened(programs[0][1])[0], flags, before, carried, here, found, way)
    if name == "while":
        skipped = eqn.params["cond_nconsts"]
        body, carried = _walk.opened(programs[1][1])[0], len(eqn.outvars)
        outs = _round(
            body, flags[skipped:] if forward else flags, eqn.params["body_nconsts"], carried, (*here, 1), found, way
        )
        test = _walk.opened(programs[0][1])[0]
        way(test, [False] * len(test.invars if forward else test.outvars), (*here, 0), found)
        return outs if forward else [False] * skipped + outs
    return way(_walk.opened(programs[0][1])[0], flags, here, found)


def _round(body, flags, before, carried, here, found, way):
    """Through a loop's body until what is carried brings nothing new; `before` it come the loop's constants."""
    begins, other = (before, 0) if way is _forward else (0, before)  # where the carry stands, going in and coming out
    flags = list(flags)
    while True:
        ends = way(body, flags, here, found)
        carry = [a or b for a, b in zip(flags[begins : begins + carried], ends[other : other + carried], strict=True)]
        if carry == flags[begins : begins + carried]:
            ends[other : other + carried] = carry
            return ends
        flags[begins : begins + carried] = carry


def _hashable(variables):
    return [None if isinstance(v, Literal) else v for v in variables]


def _smooth(v: Any) -> bool:
    dtype = getattr(getattr(v, "aval", None), "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
