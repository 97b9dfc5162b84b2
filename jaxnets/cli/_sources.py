"""`KIND:PATH` -> what is there, in one of four forms: texts, arrays, a table of columns, a stream of characters."""

import difflib
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnets import data

FORMS = {
    "digits": "arrays", "idx": "arrays", "npz": "arrays", "cancer": "table", "csv": "table", "docs": "texts",
    "polarity": "texts", "tsv": "texts", "jsonl": "texts", "characters": "stream",
}  # fmt: skip
BUILT_IN = ("digits", "cancer", "docs")
PATHS = {"idx": "IMAGES,LABELS", "polarity": "NEG,POS"}  # of the other kinds: FILE
SERVES = {
    "rnn": ("digits", "idx", "npz", "docs", "polarity", "tsv", "jsonl", "characters"),
    "textconv": ("docs", "polarity", "tsv", "jsonl", "npz"),
    "gated": ("cancer", "csv", "npz"),
    "dense": ("digits", "idx", "csv", "npz"),
}
_ENDINGS = {".txt": "characters", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".npz": "npz"}


class Source(NamedTuple):
    """Where data are from; of a table also which columns are which."""

    kind: str
    paths: tuple[str, ...] = ()
    x: tuple[str, ...] = ()
    eta: tuple[str, ...] = ()
    y: str = ""

    @property
    def form(self) -> str:
        return FORMS[self.kind]

    @property
    def name(self) -> str:
        """As it is said on the command line."""
        return self.kind + (f":{','.join(self.paths)}" if self.paths else "")

    @property
    def short(self) -> str:
        """For the name of a folder."""
        stem = Path(self.paths[0]).name.split(".")[0] if self.paths else self.kind
        return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem) or self.kind


def parse(spec: str) -> Source:
    """What follows `--data`."""
    kind, colon, rest = spec.partition(":")
    if kind not in FORMS:
        near = difflib.get_close_matches(kind, FORMS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        if not colon and (Path(spec).exists() or Path(spec).suffix):
            hint = f"say of which kind it is, as {_ENDINGS.get(Path(spec).suffix, 'csv')}:{spec}. "
        raise ValueError(f"--data must be KIND:PATH; got {spec!r}: {hint}The kinds are {', '.join(FORMS)}")
    if kind in BUILT_IN:
        if rest:
            raise ValueError(f"--data {kind} is built in and takes no path; got {rest!r}")
        return Source(kind)
    paths = tuple(p for p in (rest.split(",") if kind in PATHS else [rest]) if p)
    if not paths or (kind in PATHS and len(paths) < 2) or (kind == "idx" and len(paths) > 2):
        raise ValueError(f"--data must be {kind}:{PATHS.get(kind, 'FILE')}; got {spec!r}")
    return Source(kind, tuple(str(Path(path).absolute()) for path in paths))


def read(source: Source, strings: tuple[str, ...] = ()) -> Any:
    """Texts, a dict of arrays, a dict of columns, or one string. `strings`: columns that are not numbers."""
    kind, paths = source.kind, source.paths
    if kind == "digits":
        return data.digits()
    if kind == "docs":
        return data.docs()
    if kind == "cancer":
        return _cancer()
    if kind == "polarity":
        return data.read_polarity(*paths)
    if kind == "idx":
        return dict(zip(("x", "y"), map(data.read_idx, paths), strict=True))
    if kind == "csv":
        return data.read_csv(paths[0], text=strings)
    if kind == "characters":
        numbers, alphabet = data.read_characters(paths[0])
        return "".join(np.array(list(alphabet))[numbers])
    return {"tsv": data.read_tsv, "jsonl": data.read_jsonl, "npz": data.read_npz}[kind](paths[0])


def with_columns(source: Source, found: Any, net: str) -> Source:
    """Which columns are which: what was not said is the last one for y, and all that is left for x or eta."""
    if source.kind == "cancer":
        groups = {g: tuple(n for n in found if n.startswith(g)) for g in ("x", "eta")}
        return source._replace(**groups, y="y")
    if source.form != "table":
        if source.x or source.eta or source.y:
            raise ValueError(f"--x, --eta and --y name columns of csv:FILE; the data are {source.name}")
        return source
    for option, names in (("--x", source.x), ("--eta", source.eta), ("--y", (source.y,) if source.y else ())):
        if unknown := [n for n in names if n not in found]:
            near = difflib.get_close_matches(unknown[0], found, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{option}: there is no column {unknown[0]!r}; {hint}There are {', '.join(found)}")
    y = source.y or list(found)[-1]
    rest = tuple(n for n in found if n != y and n not in source.x + source.eta)
    x, eta = source.x, source.eta
    if net != "gated":
        if eta:
            raise ValueError(f"--eta is of the gated net; {net} has --x and --y")
        x = x or rest
    elif not x and not eta:
        raise ValueError(
            f"the gated net has two inputs: --x and --eta must say which columns; there are {', '.join(found)}"
        )
    else:
        x, eta = x or rest, eta or rest
    for name in (*x, *eta):
        if name == y or (*x, *eta).count(name) > 1:
            raise ValueError(f"column {name!r} must appear once among --x, --eta and --y")
    if not x or (net == "gated" and not eta):
        raise ValueError(f"--{'eta' if x else 'x'} must have at least one column; there are {', '.join(found)}")
    return source._replace(x=x, eta=eta, y=y)


def digest(found: Any) -> str:
    """Changes with any change of the data."""
    sums = hashlib.blake2b(digest_size=16)

    def add(*values: Any) -> None:
        for value in values:
            content = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
            sums.update(f"{len(content)} ".encode() + content)

    if isinstance(found, str):
        add(found)
    elif isinstance(found, data.Texts):
        add(*found.texts, *found.classes, found.labels.tobytes())
    else:
        for name, a in found.items():
            add(name, f"{a.dtype} {a.shape}", *(a if a.dtype.kind == "O" else [np.ascontiguousarray(a).tobytes()]))
    return sums.hexdigest()


def _cancer() -> dict[str, np.ndarray]:
    """As a table, so that its numbers are scaled by what the training part has."""
    found = data.cancer()
    table = {f"{g}{i + 1}": a.astype(np.float64) for g in ("x", "eta") for i, a in enumerate(found[g].T)}
    return table | {"y": np.array(["malignant", "benign"])[found["y"]]}
