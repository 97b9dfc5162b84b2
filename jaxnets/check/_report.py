"""What a check found: `Report`, a `Leaf` for each line or gradient, a `Cause` for each explanation."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RIGHT, WRONG, KINK, UNDECIDABLE = "right", "wrong", "at a kink", "undecidable"

# In the order in which they are told where several fit: the more specific first.
KINDS = (
    *("nan", "tie", "truncation", "batch", "path", "overwrite", "shift", "place", "factor", "sign", "transpose"),
    *("scale", "constant", "shape"),
)


class Cause(NamedTuple):
    """Something that explains a wrong leaf: the error that is left, relative to the leaf, once it is undone."""

    kind: str
    detail: str
    leftover: float

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


class Leaf(NamedTuple):
    """One gradient, or one line of a derivation, and what is to be said of it."""

    name: str
    verdict: str
    error: float  # the largest error, relative to the leaf's own scale
    ulp: float  # the same in units of the dtype's rounding
    worst: tuple[int, ...] | None  # where it is
    causes: tuple[Cause, ...] = ()
    follows_from: str | None = None  # wrong only because this earlier line is
    limit: float = 0.0  # the smallest relative error that could have been seen
    remarks: tuple[str, ...] = ()
    got: Any = None  # arrays, for the picture
    want: Any = None
    source: str | None = None  # the line of the program
    path: str | None = None  # the full name, where a line has a shorter one
    scale: float = 0.0  # what errors are relative to

    def to_dict(self) -> dict[str, Any]:
        plain = {k: v for k, v in self._asdict().items() if k not in ("got", "want")}
        return plain | {"causes": [c._asdict() for c in self.causes]}


class AgreementError(AssertionError):
    """A derivative is wrong, or could not be proven right."""


class CallerError(RuntimeError):
    """The code that was handed in raised an error of its own."""


class Report:
    """The result of a check. Prints as a table; `ok` and `raise_if_wrong()` serve a test."""

    def __init__(
        self,
        title: str,
        leaves: list[Leaf],
        remarks: list[str] | None = None,
        not_compared: list[str] | None = None,
        reference: str = "",
        unread: list[str] | None = None,
    ):
        self.title = title
        self.leaves = leaves
        self.remarks = remarks or []
        self.not_compared = not_compared or []  # marks or rules of which nothing was handed in or met
        self.reference = reference  # what the truth was taken from
        self.unread = unread or []  # rules that could not be taken out of the program: nothing is sure beside them

    @property
    def ok(self) -> bool:
        """Every leaf right, or within the slopes of its kink; False if nothing was compared, or a rule could not be
        read."""
        return bool(self.leaves) and not self.unread and all(leaf.verdict in (RIGHT, KINK) for leaf in self.leaves)

    @property
    def wrong(self) -> list[Leaf]:
        """The wrong leaves."""
        return [leaf for leaf in self.leaves if leaf.verdict == WRONG]

    @property
    def first(self) -> str | None:
        """The first line, in the order of the backward pass, that is wrong in itself."""
        return next((leaf.name for leaf in self.wrong if leaf.follows_from is None), None)

    def raise_if_wrong(self) -> None:
        """`AgreementError` with the whole report, unless `ok`."""
        if not self.ok:
            raise AgreementError(f"\n{self}")

    def __iter__(self) -> Iterator[Leaf]:
        return iter(self.leaves)

    def __getitem__(self, name: str) -> Leaf:
        """The leaf of that name; its last part will do where no other leaf has it."""
        if not isinstance(name, str):
            raise KeyError(f"{name!r}: leaves go by name; there are {', '.join(leaf.name for leaf in self.leaves)}")
        exact = [leaf for leaf in self.leaves if name in (leaf.name, leaf.path)]
        found = exact or [leaf for leaf in self.leaves if _ends_with(leaf.name, name)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(leaf.name for leaf in (found or self.leaves))
        raise KeyError(f"{name!r}: " + (f"which of {names}?" if found else f"no such leaf; there are {names}"))

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain Python values."""
        return {
            "title": self.title,
            "ok": self.ok,
            "first": self.first,
            "leaves": [leaf.to_dict() for leaf in self.leaves],
            "not_compared": self.not_compared,
            "unread": self.unread,
            "remarks": self.remarks,
            "reference": self.reference,
        }

    def to_json(self) -> str:
        """The same as JSON; what is not a finite number is written as a string."""
        return json.dumps(_finite(self.to_dict()), indent=2)

    def save_picture(self, path: str | Path) -> None:
        """A heat map per leaf, of where the error sits."""
        from jaxnets.check._picture import save  # the drawing library is heavy, and optional

        save(self, path)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return "\n".join(_table(self))


def _ends_with(name: str, part: str) -> bool:
    return name.endswith((f".{part}", part if part.startswith("[") else f".{part}"))


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _finite(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(v) for v in tree]
    if isinstance(tree, np.generic):
        tree = tree.item()
    if isinstance(tree, float) and not np.isfinite(tree):
        return str(tree)
    return tree


def _figure(x: float) -> str:
    return f"{x:.1e}" if np.isfinite(x) else str(x)


def _table(report: Report) -> Iterator[str]:
    leaves = report.leaves
    verdict = {True: "right", False: "WRONG"}[not report.wrong]
    if not report.wrong and not report.ok:
        verdict = "UNDECIDABLE" if leaves or report.unread else "NOTHING COMPARED"
    yield f"{report.title}: {verdict}" + (f", first in {report.first}" if report.first else "")
    width = max([len(leaf.name) for leaf in leaves] + [4])
    if leaves:
        yield f"  {'':<{width}}  {'verdict':<11}  {'error':>8}  {'ulp':>8}  at"
    for leaf in leaves:
        at = "" if leaf.worst is None or leaf.verdict == RIGHT else f"[{', '.join(map(str, leaf.worst))}]"
        row = f"  {leaf.name:<{width}}  {leaf.verdict:<11}  {_figure(leaf.error):>8}  {_figure(leaf.ulp):>8}  {at:<12}"
        yield (row + (f"  follows from {leaf.follows_from}" if leaf.follows_from else "")).rstrip()
        if leaf.source and leaf.verdict == WRONG and not leaf.follows_from:
            yield f"  {'':<{width}}    {leaf.source}"
        for i, cause in enumerate(leaf.causes[:3] if not leaf.follows_from else ()):
            lead = "consistent with " if not i else "or with "
            yield f"  {'':<{width}}    {lead}{cause}"
        if leaf.verdict == WRONG and not leaf.follows_from and not leaf.causes:
            yield f"  {'':<{width}}    no single mistake that was tried explains it"
        for remark in leaf.remarks:
            yield f"  {'':<{width}}    {remark}"
    together = ", ".join(report.not_compared)
    for told in [together] if len(together) < 80 else report.not_compared:
        if told:
            yield f"  not compared: {told}"
    for told in dict.fromkeys(report.unread):
        yield f"  not read: {told}: run, and differentiated, as it is"
    for remark in report.remarks:
        yield f"  note: {remark}"
    if report.reference:
        yield f"  reference: {report.reference}"
