"""How data become numbers: learned from the training part, kept in a run's config, used again for what comes later.

A recipe of each form has the same names: `learn` it; `data(found, examples, …)` as `train.fit` takes them;
`inputs(lines)` of lines of text, as `predict` takes them; `widths` and `tokens`, which size a net; `classes`.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from jaxnets import data
from jaxnets.cli._labels import cells_of_line, classes_of, labels_of, numbered, numbers_of_line, whole_labels
from jaxnets.data._files import MISSING

LONGEST = {"words": 200, "characters": 400}  # of a text; what is beyond is not read
STRETCH = 128  # characters of a stream that are one example
BUCKETS = 3  # of texts of about one length, where lengths differ much: each is compiled by itself


@dataclass(frozen=True)
class Words:
    """Texts: the words of each, or its characters."""

    form: ClassVar[str] = "texts"
    tokens: ClassVar[bool] = True
    every_step: ClassVar[bool] = False
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
        if source.kind == "polarity" and len(found.classes) == len(self.classes):
            found = found._replace(classes=self.classes)  # files of other names, in the same order
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

    def _numbers(self, texts: list[str]) -> list[np.ndarray]:
        encode = data.Vocabulary(self.known).encoder()
        return [encode(_units(text, self.unit)) for text in texts]


@dataclass(frozen=True)
class Stream:
    """One long text: each character from those before it."""

    form: ClassVar[str] = "stream"
    tokens: ClassVar[bool] = True
    every_step: ClassVar[bool] = True
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
        return Words("characters", tuple(self.known), ()).inputs(lines)

    def _numbers(self, text: str) -> np.ndarray:
        return data.Vocabulary(tuple(self.known)).numbers(text)


@dataclass(frozen=True)
class Arrays:
    """Numbers of one shape an example; or whole numbers that each pick a row, of any length."""

    form: ClassVar[str] = "arrays"
    shapes: dict[str, tuple[int, ...]]  # of x, and of eta where there is one
    divisor: float  # 255 of pixels that are bytes
    picked: int  # how many rows there are to pick, 0 where x are numbers as they are
    every_step: bool
    flat: bool  # pixels side by side, as the dense net takes them
    classes: tuple[str, ...]

    @classmethod
    def learn(cls, found: dict[str, np.ndarray], part: np.ndarray, net: str, source: Any) -> "Arrays":
        _check_arrays(found, net, source.name)
        x, y = found["x"], found["y"]
        picks = x.ndim == 2 and net in ("rnn", "textconv")
        if picks and x[part].min() < 0:
            raise ValueError(f"{source.name}: x must be whole numbers of at least 0; got {x[part].min()}")
        return cls(
            shapes={name: tuple(found[name].shape[1:]) for name in ("x", "eta") if name in found},
            divisor=255.0 if source.kind == "idx" and x.dtype == np.uint8 else 1.0,
            picked=int(x[part].max()) + 1 if picks else 0,
            every_step=y.ndim == 2,
            flat=net == "dense",
            classes=classes_of(whole_labels(_valid(y, found.get("lengths")), source.name), source.name),
        )

    @property
    def tokens(self) -> bool:
        return self.picked > 0

    @property
    def widths(self) -> dict[str, int]:
        if self.tokens:
            return {"x": self.picked}
        return {name: int(np.prod(s)) if self.flat else s[-1] for name, s in self.shapes.items()}

    def data(self, found: Any, part: np.ndarray, source: Any, buckets: int = 1, strict: bool = True) -> Any:
        for name, shape in {**self.shapes, "y": ()}.items():
            if name not in found:
                raise ValueError(f"{source.name}: must have {name}; there are {', '.join(found)}")
            came = tuple(found[name].shape[1:])
            if name != "y" and came != shape and not self.tokens:
                raise ValueError(
                    f"{source.name}: {name} must be {list(shape)} an example, as in training; got {list(came)}"
                )
        y, lengths = found["y"][part], found.get("lengths")
        lengths = None if lengths is None else lengths[part].astype(np.int32)
        if lengths is not None and y.ndim == 2:  # what lies beyond is no class, and never read
            y = np.where(np.arange(y.shape[1]) < lengths[:, None], y, _label(self.classes[0], y.dtype))
        given = {name: self._numbers(found[name][part]) for name in self.shapes}
        y = numbered(whole_labels(y, source.name), self.classes, source.name)
        return given | {"y": y} | ({} if lengths is None else {"lengths": lengths})

    def inputs(self, lines: list[str]) -> dict[str, np.ndarray]:
        rows = [numbers_of_line(line) for line in lines]
        if self.tokens:
            return self._picks(rows)
        sizes = {name: int(np.prod(shape)) for name, shape in self.shapes.items()}
        for row in rows:
            if row.size != sum(sizes.values()):
                told = " and ".join(f"{n} for {name} {list(self.shapes[name])}" for name, n in sizes.items())
                raise ValueError(f"expected {sum(sizes.values())} numbers ({told}); got {row.size}")
        flat, at, given = np.stack(rows), 0, {}
        for name, n in sizes.items():
            given[name] = self._numbers(flat[:, at : at + n].reshape(-1, *self.shapes[name]))
            at += n
        return given

    def _numbers(self, a: np.ndarray) -> np.ndarray:
        if self.tokens:
            return a.astype(np.int32)
        a = a.astype(np.float32) / np.float32(self.divisor)
        return a.reshape(len(a), -1) if self.flat else a

    def _picks(self, rows: list[np.ndarray]) -> dict[str, np.ndarray]:
        for row in rows:
            if bad := [n for n in row if n != round(n) or not 0 <= n < self.picked]:
                raise ValueError(f"expected whole numbers from 0 to {self.picked - 1}; got {bad[0]:g}")
        lengths = np.array([len(row) for row in rows], np.int32)
        x = np.zeros((len(rows), 1 << (int(lengths.max()) - 1).bit_length()), np.int32)
        for i, row in enumerate(rows):
            x[i, : len(row)] = row
        return {"x": x, "lengths": lengths}


@dataclass(frozen=True)
class Table:
    """Columns: numbers scaled, categories one-hot."""

    form: ClassVar[str] = "table"
    tokens: ClassVar[bool] = False
    every_step: ClassVar[bool] = False
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
        """Columns that are categories."""
        return tuple(name for columns in self.groups.values() for name in columns.categories)

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
        cells = cells_of_line(line)
        return (
            replace(self, header=tuple(cells))
            if {n for c in self.groups.values() for n in c.names} <= set(cells)
            else None
        )

    def _column(self, name: str, cells: tuple[str, ...]) -> np.ndarray:
        cells = tuple("" if cell in MISSING else cell for cell in cells)
        if name in self.strings:
            return np.array(cells, dtype=str)
        try:
            return np.array([float(cell or "nan") for cell in cells])
        except ValueError:
            return np.array(cells, dtype=str)  # `Columns` says which cell is no number


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


def _label(name: str, dtype: Any) -> Any:
    return np.array(name).astype(dtype)


def _valid(y: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    return y if lengths is None or y.ndim == 1 else y[np.arange(y.shape[1]) < lengths[:, None]]


def _check_arrays(found: dict[str, np.ndarray], net: str, where: str) -> None:
    needed = ("x", "eta", "y") if net == "gated" else ("x", "y")
    if absent := [name for name in needed if name not in found]:
        raise ValueError(
            f"{where}: {net} needs arrays {', '.join(needed)}; {absent[0]} is not among {', '.join(found)}"
        )
    takes = {*needed, "lengths"} if net in ("rnn", "textconv") else set(needed)
    if extra := [name for name in found if name not in takes]:
        raise ValueError(f"{where}: {net} takes arrays {', '.join(sorted(takes))}; got {extra[0]!r} too")
    for name, a in found.items():
        if a.dtype.kind not in "iufb":
            raise ValueError(f"{where}: {name} must be numbers; got {a.dtype}")
    sizes = {name: len(a) if a.ndim else 0 for name, a in found.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        told = ", ".join(f"{n} of {name}" for name, n in sizes.items())
        raise ValueError(f"{where}: must be as many of each, at least one; got {told}")
    axes, whole = found["x"].ndim, found["x"].dtype.kind in "iu"
    fits = {
        "rnn": axes == 3 or (axes == 2 and whole),
        "textconv": axes == 3 or (axes == 2 and whole),
        "gated": axes == 2,
    }
    if axes < 2 or not fits.get(net, True):
        shape = "[n, steps, size], or whole numbers [n, steps]" if net != "gated" else "[n, size]"
        raise ValueError(f"{where}: x must be {shape} for {net}; got {found['x'].dtype} {list(found['x'].shape)}")
    if found["y"].ndim != 1 and not (net == "rnn" and found["y"].shape == found["x"].shape[:2]):
        raise ValueError(f"{where}: y must be [n]{', or [n, steps]' * (net == 'rnn')}; got {list(found['y'].shape)}")
