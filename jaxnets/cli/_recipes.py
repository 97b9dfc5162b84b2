"""How data become numbers: learned from the training part, kept in a run's config, used again for what comes later.

A recipe of each form has the same names: `learn` it; `data(found, examples, …)` as `train.fit` takes them;
`inputs(lines)` of lines of text, as `predict` takes them; whether it `reads_empty` ones; `widths` and `tokens`, which
size a net; `classes`.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxnets import data
from jaxnets.cli._labels import cells_of_line, classes_of, labels_of, numbered, whole_labels
from jaxnets.cli._numbers import Arrays
from jaxnets.data._files import MISSING, is_number

LONGEST = {"words": 200, "characters": 400}  # of a text; what is beyond is not read
STRETCH = 128  # characters of a stream that are one example
BUCKETS = 3  # of texts of about one length, where lengths differ much: each is compiled by itself


@dataclass(frozen=True)
class Words:
    """Texts: the words of each, or its characters."""

    form: ClassVar[str] = "texts"
    tokens: ClassVar[bool] = True
    every_step: ClassVar[bool] = False
    reads_empty: ClassVar[bool] = True
    unit: str  # "words" or "characters"
    known: tuple[str, ...]
    classes: tuple[str, ...]

    @classmethod
    def learn(cls, found: data.Texts, part: np.ndarray, net: str, source: Any) -> "Words":
        unit = "words" if net == "textconv" else "characters"
        vocabulary = data.Vocabulary.of(_units(found.texts[i], unit) for i in part)
        if not vocabulary.words:
            raise ValueError(f"{source.name}: must have texts with {unit}; there are none")
        return cls(
            unit, vocabulary.words, classes_of(labels_of(found), source.name, of_files=source.kind == "polarity")
        )

    @property
    def widths(self) -> dict[str, int]:
        return {"x": len(self.known) + 1}

    def data(self, found: data.Texts, part: np.ndarray, source: Any, buckets: int = 1, strict: bool = True) -> Any:
        if source.kind == "polarity":
            found = found._replace(classes=self._classes_of_files(found.classes, source))
        y = numbered(labels_of(found)[part], self.classes, source.name)
        numbers = self._numbers([found.texts[i] for i in part])
        lengths = sorted(map(len, numbers))
        count = buckets if lengths[-1] > 4 * max(lengths[len(lengths) // 2], 10) else 1
        return data.buckets(numbers, y, count, LONGEST[self.unit])

    def inputs(self, lines: list[str]) -> dict[str, np.ndarray]:
        (padded,) = data.buckets(self._numbers(lines), np.arange(len(lines)), longest=LONGEST[self.unit])
        back = np.argsort(padded["y"])  # buckets sort by length
        x, lengths = padded["x"][back], padded["lengths"][back]
        steps = 1 << (x.shape[1] - 1).bit_length()  # a power of two: few shapes are few compilations
        return {"x": np.pad(x, ((0, 0), (0, steps - x.shape[1]))), "lengths": lengths}

    def _classes_of_files(self, files: tuple[str, ...], source: Any) -> tuple[str, ...]:
        """By their names, with what follows the dot or without; by their order, which is told, if no name is known."""
        known = {Path(name).stem: name for name in self.classes} | {name: name for name in self.classes}
        found = [known.get(file) or known.get(Path(file).stem) for file in files]
        if None not in found and len(set(found)) == len(files):
            return tuple(name for name in found if name)
        if any(found) or len(files) != len(self.classes):
            expected = f"files that are called as the classes are ({', '.join(self.classes)}), or one for each in order"
            raise ValueError(f"{source.name}: must be {expected}; got {', '.join(files)}")
        taken = ", ".join(f"{file} as {name}" for file, name in zip(files, self.classes, strict=True))
        print(f"jaxnets: classes by the order of the files: {taken}", file=sys.stderr)
        return self.classes

    def _numbers(self, texts: list[str]) -> list[np.ndarray]:
        encode = data.Vocabulary(self.known).encoder()
        return [encode(_units(text, self.unit)) for text in texts]


@dataclass(frozen=True)
class Stream:
    """One long text: each character from those before it."""

    form: ClassVar[str] = "stream"
    tokens: ClassVar[bool] = True
    every_step: ClassVar[bool] = True
    reads_empty: ClassVar[bool] = True
    known: str

    @classmethod
    def learn(cls, found: str, part: np.ndarray, net: str, source: Any) -> "Stream":
        return cls("".join(sorted(set(found[part[0] : part[-1] + 1]))))

    @property
    def widths(self) -> dict[str, int]:
        return {"x": len(self.known) + 1}

    @property
    def classes(self) -> tuple[str, ...]:
        return ("unknown", *self.known)

    def data(self, found: str, part: np.ndarray, source: Any, buckets: int = 1, strict: bool = True) -> Any:
        text = found[part[0] : part[-1] + 1]
        if len(text) <= STRETCH:
            expected = f"more than {STRETCH} characters to train on, and as many held out"
            raise ValueError(f"{source.name}: must have {expected}; got {len(text)}")
        return dict(zip(("x", "y"), data.stretches(self._numbers(text), STRETCH), strict=True))

    def inputs(self, lines: list[str]) -> dict[str, np.ndarray]:
        ends = [line[-LONGEST["characters"] :] for line in lines]  # what comes next depends on them
        return Words("characters", tuple(self.known), ()).inputs(ends)

    def _numbers(self, text: str) -> np.ndarray:
        return data.Vocabulary(tuple(self.known)).numbers(text)


@dataclass(frozen=True)
class Table:
    """Columns: numbers scaled, categories one-hot."""

    form: ClassVar[str] = "table"
    tokens: ClassVar[bool] = False
    every_step: ClassVar[bool] = False
    reads_empty: ClassVar[bool] = False
    groups: dict[str, data.Columns]  # x, and eta where there is one
    header: tuple[str, ...]  # the input columns, in the order of the file
    target: str
    classes: tuple[str, ...]

    @classmethod
    def learn(cls, found: dict[str, np.ndarray], part: np.ndarray, net: str, source: Any) -> "Table":
        table = data.take(found, part)
        groups = {g: data.Columns.of(table, names) for g, names in (("x", source.x), ("eta", source.eta)) if names}
        header = tuple(name for name in found if name in source.x + source.eta)
        where = f"{source.name}, column {source.y!r}"
        return cls(groups, header, source.y, classes_of(whole_labels(found[source.y], where), where))

    @property
    def widths(self) -> dict[str, int]:
        return {name: columns.size for name, columns in self.groups.items()}

    @property
    def strings(self) -> tuple[str, ...]:
        """Columns that are words: labels, and categories."""
        return (self.target, *(name for columns in self.groups.values() for name in columns.categories))

    def data(self, found: Any, part: np.ndarray, source: Any, buckets: int = 1, strict: bool = True) -> Any:
        """Not `strict`: a category that the training part does not have counts as missing."""
        if absent := [name for name in (*self.header, self.target) if name not in found]:
            raise ValueError(f"{source.name}: must have the column {absent[0]!r}; there are {', '.join(found)}")
        where = f"{source.name}, column {self.target!r}"
        table = data.take(found, part)
        y = numbered(whole_labels(table[self.target], where), self.classes, where)
        if not strict:
            known = {n: c for columns in self.groups.values() for n, c in columns.categories.items()}
            table |= {n: np.where(np.isin(table[n], c), table[n], "") for n, c in known.items()}
        return {name: columns.rows(table) for name, columns in self.groups.items()} | {"y": y}

    def inputs(self, lines: list[str]) -> dict[str, np.ndarray]:
        rows = [cells_of_line(line) for line in lines]
        for row in rows:
            if len(row) != len(self.header):
                raise ValueError(f"expected {len(self.header)} cells ({', '.join(self.header)}); got {len(row)}")
        table = {
            name: self._column(name, cells) for name, cells in zip(self.header, zip(*rows, strict=True), strict=True)
        }
        return {name: columns.rows(table) for name, columns in self.groups.items()}

    def header_of(self, line: str) -> "Table | None":
        """The recipe for lines under this one, if it is a header that names all input columns; others are passed by."""
        try:
            cells = cells_of_line(line)
        except ValueError:  # it is no header, then
            return None
        if not set(self.header) <= set(cells):
            return None
        if len(set(cells)) != len(cells):
            raise ValueError(f"line 1: expected columns of different names; got {', '.join(cells)}")
        return replace(self, header=tuple(cells))

    def _column(self, name: str, cells: tuple[str, ...]) -> np.ndarray:
        cells = tuple("" if cell in MISSING else cell for cell in cells)
        if name in self.strings or not all(is_number(cell) for cell in cells if cell):
            return np.array(cells, dtype=str)  # `Columns` says which cell is no number
        return np.array([float(cell or "nan") for cell in cells])


_RECIPES = {recipe.form: recipe for recipe in (Words, Stream, Arrays, Table)}


def learn(found: Any, part: np.ndarray, net: str, source: Any) -> Any:
    """A recipe from the training part."""
    recipe = _RECIPES[source.form].learn(found, part, net, source)
    if net == "gated" and len(recipe.classes) != 2:
        raise ValueError(f"the gated net tells two classes apart; {source.name} has {len(recipe.classes)}")
    return recipe


def count(found: Any) -> int:
    """Examples; of a stream, characters."""
    if isinstance(found, data.Texts):
        return len(found.texts)
    return len(found) if isinstance(found, str) else len(next(iter(found.values())))


def parts(found: Any, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which examples train, and which are held out: at random, of a stream the end."""
    n = count(found)
    rest, held = data.split(n, held_out, seed)
    return (np.arange(len(rest)), np.arange(len(rest), n)) if isinstance(found, str) else (rest, held)


def to_json(recipe: Any) -> dict[str, Any]:
    """For a run's config."""
    told = {"form": recipe.form, **vars(recipe)}
    return told | {"groups": {n: c._asdict() for n, c in recipe.groups.items()}} if isinstance(recipe, Table) else told


def from_json(told: dict[str, Any]) -> Any:
    """Back from there."""
    given = {name: value for name, value in told.items() if name != "form"}
    if told["form"] == Table.form:
        given["groups"] = {name: data.Columns(**columns) for name, columns in given["groups"].items()}
    return _RECIPES[told["form"]](**given)


def as_tuples(value: Any) -> Any:
    """What JSON brings as lists."""
    if isinstance(value, list):
        return tuple(map(as_tuples, value))
    return {k: as_tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


# Inside.


def _units(text: str, unit: str) -> list[str]:
    return data.words(text) if unit == "words" else list(text)
