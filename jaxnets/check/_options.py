"""What people do to an equation's share of a backward pass: every alteration that is worth trying."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxnets.check import _walk
from jaxnets.check._alike import alike, moved, once, shifted, softmax
from jaxnets.check._alter import (
    ARRIVING,
    ELEMENTWISE,
    EXTREMES,
    UNARY,
    Factor,
    Option,
    Stored,
    Turned,
    arrives,
    can_turn,
    operands_of,
    share_shape,
    substitute_shape,
)
from jaxnets.check._local import local_derivatives
from jaxnets.check._walk import Place, source


def options(site: _walk.Site, stored: dict[Place, Stored], sites: dict[Place, _walk.Site], batches: set[int]):
    """Every alteration of an equation that is worth trying."""
    where, operands = source(site.eqn), operands_of(site)
    steps = {n for s in sites.values() for n in s.lengths}
    found: list[Option] = []
    for j in operands:
        of = f"operand {j + 1} of " if len(operands) > 1 else ""
        through = f"through {of}{where}"

        def change(weight, kind, detail, j=j):
            found.append(Option(site.place, {j: weight}, None, kind, detail))

        change(0.0, "path", f"the path {through} is missing")
        change(-1.0, "sign", f"the path {through} has the wrong sign")
        change(2.0, "path", f"the path {through} is counted twice")
        if site.lengths and site.lengths[-1] > 1:
            for at, which in ((0, "first"), (site.lengths[-1] - 1, "last")):
                alone = np.zeros(site.lengths[-1])
                alone[at] = 1.0
                told = f"the {which} step's share {through}"
                change(alone, "overwrite", f"{told} is all there is: the steps should be added up")
                change(1.0 - alone, "path", f"{told} is missing")
        shape = share_shape(site, j)
        for axis in [k for k, n in enumerate(shape[:3]) if n in batches] if stored else ():
            for some, told in _some_rows(shape, axis):
                for kind in ("batch",) if shape[axis] not in steps else ("batch", "path"):
                    change(Factor(some), kind, f"{told} alone {through}: the others are not summed over")
        if stored and shape and site.place in stored:
            for kind, detail, value in _multipliers(site, j, stored, sites, through):
                change(Factor(value), kind, detail)
        mine = stored.get(site.place)
        if mine is not None and substitute_shape(site, j) is not None:
            for kind, detail, value in _substitutes(site, j, mine, stored, sites):
                found.append(Option(site.place, {j: 0.0}, (j, value), kind, detail))
    if arrives(site) and site.place in stored:
        for kind, detail, value in _multipliers(site, ARRIVING, stored, sites, f"in what arrives at {where}"):
            found.append(Option(site.place, {ARRIVING: Factor(value)}, None, kind, detail))
    return found


def _some_rows(shape: tuple[int, ...], axis: int) -> Iterator[tuple[np.ndarray, str]]:
    """Ones for one row of an axis, and for the first few."""
    n = shape[axis]
    single = range(n) if n <= 8 else (0, 1, n - 1)
    chosen = [(slice(row, row + 1), f"index {row} of axis {axis}") for row in single]
    chosen += [(slice(0, end), f"the first {end} of axis {axis}") for end in range(2, min(n, 6))]
    for rows, told in chosen:
        some = np.zeros([m if k == axis else 1 for k, m in enumerate(shape)])
        some[(slice(None),) * axis + (rows,)] = 1.0
        yield some, told


_SQUASHED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "1 − tanh²(x)": lambda x: 1 - np.tanh(x) ** 2,
    "σ(x) (1 − σ(x))": lambda x: 0.25 / np.cosh(np.clip(x / 2, -300, 300)) ** 2,
    "softmax(x) (1 − softmax(x))": lambda x: softmax(x) * (1 - softmax(x)),
}


def _multipliers(site, j, stored, sites, through):
    """What is handed back is multiplied, or divided, once more by a value of the same shape."""
    if site.eqn.primitive.name in ("add", "sub", "add_any") and j != ARRIVING:
        return  # what a term hands back is altered where it comes from
    held = stored[site.place]
    mine = np.asarray(held.result if j == ARRIVING else held.operands[j])
    mine = np.broadcast_to(mine, (*site.lengths, *share_shape(site, j)))
    for text, form in _SQUASHED.items():
        yield "factor", f"{text} is there once too often {through}, x its value", form(mine)
    for _, what, value in alike(site, mine, stored, sites, most=8, own=True):
        yield "factor", f"{what} is there once too often {through}", value
        with np.errstate(all="ignore"):
            yield "factor", f"{what} is missing {through}", 1 / value


def _substitutes(site, j, mine, stored, sites) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    name, where = site.eqn.primitive.name, source(site.eqn)
    if name in UNARY:
        yield from local_derivatives(site, mine, where, stored, sites)
    elif name in ("mul", "div"):
        yield from _factors(name, j, mine, where)
    elif name in ("max", "min", "select_n") or name in EXTREMES:
        told = f"the mask of {where} is missing: what did not win gets a share too"
        x = np.asarray(mine.operands[j])
        if name in EXTREMES:
            axes = tuple(a + len(site.lengths) for a in site.eqn.params["axes"])
            yield from _other_winners(x if name == "reduce_max" else -x, axes, where)
        yield "factor", told, lambda: np.ones_like(x)
        if name in ELEMENTWISE:
            other_side = np.asarray(x != np.asarray(mine.result), x.dtype)
            yield "place", f"the mask of {where} is that of the other side", lambda: other_side
            yield "sign", f"the comparison in the mask of {where} is the wrong way round", lambda: other_side
            yield "factor", f"its operand in place of the mask of {where}", lambda: x
    elif name == "gather":
        for which in ("last", "first"):
            told = f"of what {where} picks several times only the {which} is kept, where all should be added up"
            yield "overwrite", told, lambda which=which: once(site, mine, which)
    else:
        other = np.asarray(mine.operands[1 - j])
        yield "factor", f"the other factor is missing at {where}", lambda: np.ones_like(other)
        yield "place", f"tanh of the other factor in its place at {where}", lambda: np.tanh(other)
        if other.ndim == 2 and other.shape[0] == other.shape[1]:
            yield "factor", f"the other factor is missing at {where}: as if it were 1", lambda: np.eye(len(other))
            told = f"only the diagonal of the other factor is there at {where}"
            yield "path", told, lambda: np.eye(len(other)) * other
        if other.ndim - len(site.lengths) >= 2 and other.shape[-1] == other.shape[-2]:
            yield "transpose", f"the other factor is transposed at {where}", lambda: np.swapaxes(other, -1, -2)
        if can_turn(site.eqn):
            yield "transpose", f"what arrives at {where} is transposed", Turned
    if name in ("mul", "dot_general"):
        other = np.asarray(mine.operands[1 - j])
        for axis in range(len(site.lengths), other.ndim):
            if other.shape[axis] > 2:
                for by in (1, -1):
                    told = f"the other factor moved by {by} along axis {axis - len(site.lengths)} at {where}"
                    yield "shift", told, lambda other=other, by=by, axis=axis: np.roll(other, by, axis)
                    yield (
                        "shift",
                        f"{told}, nothing coming in",
                        lambda other=other, by=by, axis=axis: moved(other, by, axis),
                    )
        rows = np.asarray(mine.operands[1 - j])
        if name == "mul" and rows.ndim == len(site.lengths) + len(share_shape(site, j)):
            rows = np.broadcast_to(rows, (*site.lengths, *share_shape(site, j)))
        yield from _other_values(site, rows, where, stored, sites)


def _other_winners(x, axes, where) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Who else could be given what arrives at an extreme."""
    for kind, what, order in (("tie", "winner", x), ("place", "loser", -x)):
        won = order == order.max(axes, keepdims=True)
        flat = np.moveaxis(won, axes, range(len(axes))).reshape(-1, won.size // (won.shape[axes[0]] or 1))
        count = np.cumsum(flat, 0)
        told = f"what arrives at {where} goes"
        yield kind, f"{told} in full to every {what}", lambda won=won: won * 1.0
        if len(axes) == 1:
            for which, one in (("first", count == 1), ("last", count == count[-1:])):
                alone = np.moveaxis((one & flat).reshape(np.moveaxis(won, axes, [0]).shape), 0, axes[0])
                yield kind, f"{told} to the {which} {what} alone", lambda alone=alone: alone * 1.0


def _factors(name, j, mine, where):
    a, b = (np.asarray(v) for v in mine.operands)
    a, b = (v.reshape(v.shape + (1,) * (max(a.ndim, b.ndim) - v.ndim)) for v in (a, b))  # a number beside an array
    own, other = (a, b) if j == 0 else (b, a)
    forms: list[tuple[str, str, Callable[[], Any]]]
    if name == "div" and j == 0:
        forms = [
            ("factor", "the division is dropped", lambda: np.ones_like(a)),
            ("factor", "multiplied by what divides", lambda: b),
            ("factor", "the divisor is there twice", lambda: 1 / (b * b)),
            ("factor", "with q (1 − q) entry by entry, q the quotient", lambda: a / b * (1 - a / b) / a),
        ]
    elif name == "div":
        forms = [
            ("factor", "−a/b in place of −a/b²", lambda: -a / b),
            ("factor", "−1/b² in place of −a/b²", lambda: -1 / (b * b)),
            ("factor", "−a in place of −a/b²", lambda: -a),
            ("factor", "1/b in place of −a/b²", lambda: 1 / b),
        ]
    else:
        forms = [
            ("factor", "the other factor is missing", lambda: np.ones_like(other)),
            ("factor", "the other factor is there twice", lambda: other * other),
            ("factor", "the other factor stands upside down", lambda: 1 / other),
            ("place", "the factor itself stands in place of the other", lambda: own),
            ("factor", "the factor itself is there besides the other", lambda: own * other),
            ("factor", "1 − the other in place of it", lambda: 1 - other),
        ]
    for kind, told, value in forms:
        yield kind, f"{told} at {where}", value


def _other_values(site, rows, where, stored, sites):
    """Other results of the same shape that could be taken for a factor, those nearest in the program; other steps."""
    for way, moved_on in shifted(rows, site):
        yield "shift", f"the other factor is that of the step {way} at {where}", lambda moved_on=moved_on: moved_on
    for kind, what, value in alike(site, rows, stored, sites):
        yield kind, f"{what} in place of the other factor at {where}", lambda value=value: value


def truncations(place: Place, eqn: Any, steps: int, carries: int) -> Iterator[Option]:
    """Ways in which what a scan's steps hand back is cut short."""
    where, every = source(eqn), range(carries)

    def option(weights, kind, detail):
        return Option(place, weights, None, kind, detail)

    each: list[list[int]] = [[*every]] + ([[j] for j in every] if carries > 1 and steps < 33 else [])
    lengths = [*range(1, min(steps, 65)), *(2**k for k in range(7, 20) if 2**k < steps)]
    for which, n in itertools.product(each, lengths):
        kept, late = np.ones(steps), np.ones(steps)
        kept[n::n] = 0.0
        late[steps - n] = 0.0
        by = "" if len(which) == carries else f" by carry {which[0] + 1}"
        told = f"what the steps of {where} hand back{by} is cut " + (f"every {n} steps" if n > 1 else "at every step")
        yield option(dict.fromkeys(which, kept), "truncation", told)
        if n == 1:
            yield option(dict.fromkeys(which, kept), "path", told)
        last = f"only the last {n} step{'s' * (n > 1)} of {where} {'are' if n > 1 else 'is'} gone back through{by}"
        yield option(dict.fromkeys(which, late), "truncation", last)
    start = np.ones(steps)
    start[0] = 0.0
    for j in every:
        name = f"carry {j + 1}" if carries > 1 else "the carry"
        for weight, kind, what in (
            (0.0, "path", "is missing"),
            (-1.0, "sign", "has the wrong sign"),
            (2.0, "path", "counts twice"),
        ):
            yield option(
                {j: np.full(steps, weight)}, kind, f"what {name} hands back from step to step {what} in {where}"
            )
        yield option({j: start}, "path", f"what {name} hands back to its start is missing in {where}")
