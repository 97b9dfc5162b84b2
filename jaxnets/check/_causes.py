"""Why is it wrong: explanations of a wrong leaf, each tried on the numbers.

First what can be seen on the leaf itself (`_on_leaf`); then alterations of the backward pass, equation by equation
(`_board`). What explains the numbers down to rounding is reported; the rest is not.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from jaxnets.check._board import Board
from jaxnets.check._by_value import by_value
from jaxnets.check._on_leaf import by_entries, names_of, on_the_leaf
from jaxnets.check._progress import progress
from jaxnets.check._report import KINDS, Cause
from jaxnets.check._unrolled import Alteration
from jaxnets.check._walk import source
from jaxnets.check._wrong import Context, Wrong, unexplained

_ROUNDING = 1e-9  # two explanations that leave less are equally good
WORK = 4_000_000_000  # entries that may be computed while alterations are tried
EQUATION = 2_000  # of them are what it costs to begin an equation


def find(wrong: Sequence[Wrong], context: Context) -> dict[str, tuple[Cause, ...]]:
    """Causes for every wrong leaf, best first."""
    found: dict[str, list[Cause]] = {w.name: list(on_the_leaf(w, context)) for w in wrong}
    whole = [w for w in wrong if w.got is not None]
    for form, gradients in context.ties().items() if whole else ():
        for w in whole:
            _try(w, gradients[w.name], [("tie", f"the tie's gradient goes {form}")], found)
    open_ = [w for w in whole if not w.own_only and not _settled(found[w.name], w)]
    if open_ and (board := context.board()) is not None:
        try:
            with np.errstate(all="ignore"):  # what is tried divides by zero now and then
                _on_the_board(board, open_, found, context)
        except Exception as error:  # the verdicts stand, whatever befalls the search for their causes
            context.notes.append(f"the search for causes broke off ({type(error).__name__}: {error})")
    # Entries that are merely off are listed last: that describes, and does not explain.
    return {w.name: _ordered(found[w.name]) + tuple(by_entries(w) if w.got is not None else ()) for w in wrong}


def _settled(causes: list[Cause], w: Wrong) -> bool:
    """Is there an explanation that needs no other? On a few numbers a factor or a constant explains anything."""
    telling = {"nan", "transpose", "shape", "sign", "batch"}
    if w.want.size > 3:
        telling |= {"constant", "shift"} | ({"scale"} if not np.all(w.got == 0) else set())
    return any(c.kind in telling for c in causes)


def _ordered(causes: list[Cause]) -> tuple[Cause, ...]:
    """The more specific kinds first; of a kind the one that leaves least, each kind a few times at most."""
    each: dict[str, list[Cause]] = {}
    for c in sorted(causes, key=lambda c: max(c.leftover, _ROUNDING)):
        if all(c.detail != other.detail for other in each.get(c.kind, [])):
            each.setdefault(c.kind, []).append(c)
    rounds = itertools.zip_longest(*(each[k][:4] for k in KINDS if k in each))
    return tuple(c for round_ in rounds for c in round_ if c is not None)


def _try(w: Wrong, candidate: np.ndarray, told: Sequence[tuple[str, str]], found: dict[str, list[Cause]]) -> bool:
    """Note the causes if the candidate is what was handed in, and is not what it should be."""
    if not np.any(np.abs(candidate - w.want) > w.limit):
        return False
    left = unexplained(w, candidate)
    if left is not None:
        found[w.name] += [Cause(kind, detail, left) for kind, detail in told]
    return left is not None


def _on_the_board(board: Board, wrong: Sequence[Wrong], found: dict[str, list[Cause]], context: Context) -> None:
    board.prepare()
    cut: dict[str, list[tuple[str, np.ndarray]]] = {w.name: [] for w in wrong}
    for mark, told, gradients in board.exchanges():
        for w in wrong:
            if w.name != mark:
                _try(w, gradients[w.name], told, found)
    most = max(100, WORK // (board.entries + EQUATION * len(board.sites)))
    if len(board.found) > most:
        context.notes.append(f"of {len(board.found)} alterations that could explain it, {most} were tried")
    for option in progress(board.found[:most], "looking for the cause"):
        altered = board.altered(option)
        if altered is None:
            continue
        for w in wrong:
            candidate = altered[w.name]
            if not _try(w, candidate, [(option.kind, option.detail)], found) and w.got.size > 3:
                _with_a_factor(w, candidate, option, found, context)
                _of_another_size(w, candidate, option, found)
            if option.kind == "path" and "missing" in option.detail and np.any(np.abs(candidate - w.want) > w.limit):
                cut[w.name].append((option.detail, w.want - candidate))
    values = _intermediates(board)
    for w in wrong:
        if not found[w.name]:
            _two_paths(w, cut[w.name], found)
        if not found[w.name]:
            found[w.name] += by_value(w, values, alone=True)


def _intermediates(board: Board) -> dict[str, np.ndarray]:
    """What the equations outside loops give, by their source; where a line has several alike, by number."""
    found: dict[str, np.ndarray] = {}
    for place, held in board.stored.items():
        if not board.sites[place].lengths:
            name = f"the result of {source(board.sites[place].eqn)}"
            alike = sum(other.startswith(name) for other in found)
            found[f"{name}, the {alike + 1}. there" if alike else name] = np.asarray(held.result, np.float64)
    return found


def _two_paths(w: Wrong, cut: list[tuple[str, np.ndarray]], found: dict[str, list[Cause]]) -> None:
    """Two terms are missing at once."""
    seen: list[tuple[str, np.ndarray]] = []
    for detail, term in cut:
        if all(not np.allclose(term, other, rtol=1e-9, atol=w.limit) for _, other in seen[:40]):
            seen.append((detail, term))
    for (one, a), (two, b) in itertools.combinations(seen[:40], 2):
        _try(w, w.want - a - b, [("path", f"{one}; and {two}")], found)


def _with_a_factor(w: Wrong, candidate: np.ndarray, option: Alteration, found, context: Context) -> None:
    """Two mistakes at once: one at an equation, and a factor that has a name."""
    size = float(np.sum(candidate * candidate))
    c = float(np.sum(w.got * candidate)) / size if size else 0.0
    words = [detail for kind, detail in names_of(abs(c), context) if kind == "scale"] if c else []
    if not words and abs(c + 1) > 1e-5:
        return
    more = " and ".join((["the sign exchanged"] if c < 0 else []) + words[:1])
    kinds = [(option.kind, f"{option.detail}; besides, {more}")]
    kinds.append(("scale" if words else "sign", f"{more}; besides, {option.detail}"))
    _try(w, c * candidate, kinds, found)


def _of_another_size(w: Wrong, candidate: np.ndarray, option: Alteration, found) -> None:
    """A term that counts another number of times than once."""
    if option.kind != "path" or "missing" not in option.detail:
        return
    term = w.want - candidate
    share = float(np.sum((w.got - candidate) * term) / (np.sum(term * term) or 1.0))
    if abs(share) > 1e-6:
        what = option.detail.removesuffix(" is missing").removesuffix(" are missing")
        _try(w, candidate + share * term, [("scale", f"{what} counts {share:.6g} times")], found)
