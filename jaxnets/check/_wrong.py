"""A wrong leaf, and what its explanation may draw on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnets.check._board import Board
from jaxnets.check._names import Given

LOOSE = 30  # an explanation may be off by this many times what a right leaf may be


class Wrong(NamedTuple):
    """A wrong leaf, with what its explanation may draw on."""

    name: str
    got: Any  # None where its form is wrong
    want: np.ndarray
    limit: float
    raw: Any = None  # as it came back, where its form is wrong
    value: np.ndarray | None = None  # of the parameter or mark itself
    own_only: bool = False

    @property
    def scale(self) -> float:
        return float(np.max(np.abs(self.want), initial=0)) or 1.0


class Size(NamedTuple):
    """A length that a factor may be: of an axis, or of a scan."""

    told: str
    n: int
    first: bool  # the first axis of its leaf
    data: bool


class Context(NamedTuple):
    """What is known beside the leaf."""

    sizes: Sequence[Size]
    others: Mapping[str, np.ndarray]  # the true gradients of all lines
    values: Mapping[str, np.ndarray]  # marks and arguments
    notes: list[str]  # of the report
    board: Callable[[], Board | None]  # made when it is first needed
    ties: Callable[[], dict[str, dict[str, np.ndarray]]] = dict  # gradients by the way in which ties are given away
    # The factor of each leaf where a length of the data is one less; empty where that cannot be run.
    one_less: Callable[[Size], Mapping[str, float]] = lambda size: {}


def sizes_of(given: Given, steps: Sequence[int]) -> list[Size]:
    """The lengths of axes, those of the data first, and of scans."""
    found: dict[tuple[int, bool, bool], Size] = {}
    data = given.data()
    for k in (*data, *(k for k in range(len(given.leaves)) if k not in data)):
        name, leaf = given.leaves[k]
        for axis, n in enumerate(np.shape(leaf)):
            key = n, axis == 0, k in data
            found.setdefault(key, Size(f"axis {axis} of {name} ({n})", *key))
    lengths = {size.n for size in found.values()}
    return [*found.values(), *(Size(f"the steps of a scan ({n})", n, False, False) for n in {*steps} - lengths)]


def unexplained(w: Wrong, candidate: np.ndarray, of_form: bool = False) -> float | None:
    """What a candidate leaves unexplained, relative; None if more than rounding, or most of the error itself.

    Where a leaf has the wrong form, there is no such error.
    """
    if candidate.shape != w.got.shape or not np.all(np.isfinite(candidate)):
        return None
    off = float(np.max(np.abs(w.got - candidate), initial=0))
    reach = max(w.limit, 1e-7 * float(np.max(np.abs(w.got), initial=0)))
    error = np.inf if of_form else float(np.max(np.abs(w.got - w.want), initial=0))
    return off / w.scale if off <= LOOSE * reach and not off > 0.1 * error else None
