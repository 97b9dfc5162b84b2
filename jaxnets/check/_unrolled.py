"""Loops that were run in Python: the equations that one line made again and again, altered together."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxnets.check._alter import Option, Stored, replaced
from jaxnets.check._local import BY_RESULT
from jaxnets.check._walk import Place, Site, line_of, source

_LONGEST = 32  # steps up to which every way of cutting them is tried


class Alteration(NamedTuple):
    """What is tried as one: options at one place, or at each step of a loop."""

    kind: str
    detail: str
    parts: tuple[Option, ...]


def groups(sites: Mapping[Place, Site]) -> list[list[Site]]:
    """Equations of one line that come again in the same order: a list for each, with a site for every step."""
    of_line: dict[tuple[Any, ...], list[Site]] = {}
    for site in sites.values():
        of_line.setdefault((line_of(site.eqn), site.loop, site.place[:-1]), []).append(site)
    found = []
    for (line, *_), made in of_line.items():
        period = _period([_signature(s) for s in made])
        if line is not None and period < len(made):
            found += [made[k::period] for k in range(period)]
    return found


def _signature(site: Site) -> tuple[object, ...]:
    return site.eqn.primitive.name, *(getattr(v.aval, "shape", None) for v in site.eqn.invars)


def _period(items: list[tuple[object, ...]]) -> int:
    fitting = (k for k in range(1, len(items)) if len(items) % k == 0 and items[k:] == items[:-k])
    return next(fitting, len(items))


def alterations(
    found: Iterable[Option], sites: Mapping[Place, Site], stored: Mapping[Place, Stored]
) -> Iterator[Alteration]:
    """Each option by itself outside such loops; within them those that are the same at every step, joined."""
    loops = groups(sites)
    of_place = {s.place: (g, t) for g, steps in enumerate(loops) for t, s in enumerate(steps)}
    joint: dict[tuple[int, str, str], dict[Place, Option]] = {}
    for option in found:
        if option.place not in of_place:
            yield Alteration(option.kind, option.detail, (option,))
            continue
        g, t = of_place[option.place]
        joint.setdefault((g, option.kind, option.detail), {}).setdefault(option.place, option)
        if option.cuts:
            alone = f"{option.detail}, at step {t + 1} of {len(loops[g])} alone"
            yield Alteration(option.kind, alone, (option,))
    for (g, kind, detail), parts in joint.items():
        steps = loops[g]
        if len(parts) >= max(2, 2 * len(steps) // 3):
            kind = "shift" if kind == "place" and _is_shift(steps, parts, stored) else kind
            yield Alteration(kind, f"{detail}, at every step", tuple(parts.values()))
        if len(parts) == len(steps) <= _LONGEST and next(iter(parts.values())).cuts:
            yield from _cut_short(detail, steps, parts)
    for steps in loops:
        yield from _shifts(steps, stored)


def _cut_short(detail: str, steps: list[Site], parts: Mapping[Place, Option]) -> Iterator[Alteration]:
    """Only some of the steps hand their share on."""
    every = [parts[s.place] for s in steps]
    n = len(every)
    told = detail.removesuffix(" is missing")
    for which, at in (("first", 0), ("last", n - 1)):
        rest = tuple(o for t, o in enumerate(every) if t != at)
        yield Alteration(
            "overwrite", f"{told}: the {which} step's share is all there is, they should be added up", rest
        )
    yield Alteration("truncation", f"{told} is cut at every step", tuple(every))
    for k in range(1, n):
        late = "step" if k == 1 else f"{k} steps"
        yield Alteration("truncation", f"{told} is there in the last {late} of {n} alone", tuple(every[: n - k]))
    for k in range(2, n):
        for start in range(k):
            yield Alteration("truncation", f"{told} is cut every {k} steps", tuple(every[start::k]))


def _is_shift(steps: list[Site], parts: Mapping[Place, Option], stored: Mapping[Place, Stored]) -> bool:
    """Is what stands in the place of something that very thing, of the step before or after?"""
    mine, put = [], []
    for s in steps:
        option = parts.get(s.place)
        if option is None or option.substitute is None or s.place not in stored:
            return False
        j, make = option.substitute
        value, true = make(), replaced(s, j, stored[s.place])
        if not isinstance(value, np.ndarray) or true is None or np.shape(true) != value.shape:
            return False
        mine.append(np.asarray(true))
        put.append(value)
    pairs = list(zip(put[:-1], mine[1:], strict=True)), list(zip(put[1:], mine[:-1], strict=True))
    return any(all(np.allclose(a, b, rtol=1e-12, atol=0) for a, b in way) for way in pairs)


def _shifts(steps: list[Site], stored: Mapping[Place, Stored]) -> Iterator[Alteration]:
    """What stands at each step is that of the next, or of the one before; at the end that of the other end, or zero."""
    if any(s.place not in stored for s in steps):
        return
    held = [stored[s.place] for s in steps]
    for j in range(len(steps[0].eqn.invars)):
        true = [replaced(s, j, h) for s, h in zip(steps, held, strict=True)]
        if any(v is None for v in true) or len({np.shape(v) for v in true}) > 1:
            continue
        rows = np.stack([np.asarray(v) for v in true])
        if np.ptp(rows, 0).max(initial=0) == 0:
            continue
        nothing = Stored([np.zeros_like(o) for o in held[0].operands], held[0].result)
        at_zero = replaced(steps[0], j, nothing)  # as before the first step, where a state is zero
        for by, way in ((1, "before"), (-1, "after")):
            told = f"what stands at {source(steps[0].eqn)} is that of the step {way}"
            rolled = np.roll(rows, by, 0)
            ends = [0, at_zero, *(_before(steps[0], stored) if by > 0 else ())]
            for moved in (rolled, *(_emptied(rolled, by, end) for end in ends)):
                parts = (
                    Option(s.place, {j: 0.0}, (j, lambda row=row: row), "shift", told)
                    for s, row in zip(steps, moved, strict=True)
                )
                yield Alteration("shift", told, tuple(parts))


def _before(first: Site, stored: Mapping[Place, Stored]) -> Iterator[np.ndarray]:
    """The derivative at the first step, taken at a result that stands before the loop."""
    by_result, like = BY_RESULT.get(first.eqn.primitive.name), stored[first.place].result
    earlier = [h for p, h in stored.items() if p < first.place][::-1]
    values = [v for held in earlier for v in held.operands if np.shape(v) == np.shape(like)]
    if by_result is not None:
        yield from (by_result(np.asarray(value)) for value in values[:6])


def _emptied(rows: np.ndarray, by: int, value: Any) -> np.ndarray:
    emptied = rows.copy()
    emptied[0 if by > 0 else -1] = value
    return emptied
