"""Files of the formats that such data come in, gzipped or not (told by their first bytes, not by their name)."""

import csv
import gzip
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxnets.data._text import Texts

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_WIDE = 2**26  # bytes
# What a first line of label<TAB>text calls its two columns, where it is a header.
_LABELS = {"label", "labels", "class", "category", "target", "sentiment", "y"}
_TEXTS = {"text", "texts", "message", "sentence", "content", "comment", "review", "x"}
MISSING = ("", "?", "NA", "N/A", "NaN", "nan")


def read_idx(path: str | Path) -> np.ndarray:
    """An array in the format of MNIST's files, in the machine's byte order."""
    content = _content(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        _fail(
            path, "an IDX file, which begins with two zero bytes and a type", f"bytes {content[:4].hex(' ') or 'none'}"
        )
    dtype, axes = np.dtype(_IDX_TYPES[content[2]]), content[3]
    head = 4 + 4 * axes
    shape = np.frombuffer(content[4:head], ">u4").tolist() if len(content) >= head else None
    if shape is None or len(content) != head + math.prod(shape) * dtype.itemsize:
        expected = f"{axes} sizes" if shape is None else f"{head + math.prod(shape) * dtype.itemsize} bytes for {shape}"
        _fail(path, expected, f"{len(content)} bytes: truncated, or with something appended")
    return np.frombuffer(content, dtype, offset=head).reshape(shape).astype(dtype.newbyteorder("="))


def read_polarity(*paths: str | Path) -> Texts:
    """A file for each class, a text a line; classes are called as the files are."""
    if len(paths) < 2:
        raise ValueError(f"read_polarity: paths must be two files or more, one for each class; got {len(paths)}")
    texts = [[text for _, text in _lines(path)] for path in paths]
    for path, found in zip(paths, texts, strict=True):
        _some(path, found, "line with a text")
    labels = np.repeat(np.arange(len(paths), dtype=np.int32), [len(found) for found in texts])
    classes = tuple(Path(path).name for path in paths)
    if len(set(classes)) != len(classes):
        classes = tuple(map(str, paths))
    return Texts([text for found in texts for text in found], labels, classes)


def read_tsv(path: str | Path) -> Texts:
    """`label<TAB>text` a line; a first line that says just this, in these or like words, is a header."""
    rows = []
    for number, line in _lines(path):
        label, tab, text = line.partition("\t")
        if not tab:
            _fail(path, "label<TAB>text", f"{line[:40]!r} without a tab", number)
        if not label.strip():
            _fail(path, "label<TAB>text", "a line without a label", number)
        rows.append((label.strip(), text))
    if rows and rows[0][0].lower() in _LABELS and rows[0][1].strip().lower() in _TEXTS:
        del rows[0]
    return _labelled(path, rows)


def read_jsonl(path: str | Path, text: str = "text", label: str = "label") -> Texts:
    """An object a line, with a text and a label under these names."""
    rows = []
    for number, line in _lines(path):
        try:
            found = json.loads(line, object_pairs_hook=_without_doubles)
        except (ValueError, RecursionError) as error:
            _fail(path, "an object of JSON", f"{line[:40]!r} ({error})", number)
        if not isinstance(found, dict) or not {text, label} <= set(found):
            _fail(path, f"an object with {text!r} and {label!r}", line[:40], number)
        if not isinstance(found[text], str):
            _fail(path, f"a string under {text!r}", repr(found[text]), number)
        if not isinstance(found[label], str | int):
            _fail(path, f"a string or a whole number under {label!r}", repr(found[label]), number)
        named = json.dumps(found[label]) if isinstance(found[label], bool) else str(found[label])
        for name, said in (("text", found[text]), ("label", named)):
            if said != said.encode("utf-8", "ignore").decode():
                _fail(path, f"a {name} of whole characters", "half of a surrogate pair", number)
        rows.append((named, found[text]))
    return _labelled(path, rows)


def read_csv(
    path: str | Path,
    names: Sequence[str] | None = None,
    missing: Sequence[str] = MISSING,
    comment: str | None = None,
    text: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Columns by name: float64 where all that is there are numbers (NaN where one is missing), else, and where `text`
    names them, strings ("" where one is missing). `names` if the file has no header; lines that begin with `comment`
    are left out."""
    rows = _csv_rows(path, comment)
    header = [cell.strip() for cell in rows.pop(0)[1]] if names is None and rows else list(names or ())
    _some(path, rows, "row")
    if len(set(header)) != len(header):
        _fail(path, "columns of different names", ", ".join(header))
    if absent := set(text) - set(header):
        _fail(path, f"a table with the column {min(absent)!r}", ", ".join(header))
    for number, row in rows:
        if len(row) != len(header):
            _fail(path, f"{len(header)} cells ({', '.join(header)[:60]})", f"{len(row)}", number)
    columns = {}
    for name, cells in zip(header, zip(*(row for _, row in rows), strict=True), strict=True):
        cells = ["" if cell.strip() in missing else cell.strip() for cell in cells]
        wide = (
            4 * len(cells) * max(map(len, cells), default=0) > _WIDE
        )  # of NumPy's strings each takes the longest's room
        columns[name] = np.array(cells, dtype=object if wide else str)
        if name not in text and all(is_number(cell) for cell in cells if cell):
            columns[name] = np.array([float(cell) if cell else np.nan for cell in cells])
    return columns


def _csv_rows(path: str | Path, comment: str | None) -> list[tuple[int, list[str]]]:
    """Rows that are not blank, with the number of the line at which each ends."""
    reader = csv.reader(io.StringIO(_decoded(path), newline=""), skipinitialspace=True, strict=True)
    rows = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row) and not (comment and row[0].startswith(comment)):
                rows.append((reader.line_num, row))
    except csv.Error as error:
        _fail(path, "CSV", str(error), reader.line_num)
    return rows


def read_characters(path: str | Path, alphabet: str | None = None) -> tuple[np.ndarray, str]:
    """A text as numbers of its characters, and the alphabet that they count in (sorted, if none is given)."""
    text = _decoded(path)
    _some(path, text, "character")
    alphabet = alphabet or "".join(sorted(set(text)))
    if unknown := sorted(set(text) - set(alphabet)):
        _fail(path, f"text of the {len(alphabet)} characters of the alphabet", f"{''.join(unknown)[:20]!r} too")
    number = {character: i for i, character in enumerate(alphabet)}
    return np.array([number[character] for character in text], np.int32), alphabet


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays by name. Nothing in the file is run: arrays of objects are refused."""
    content = io.BytesIO(_content(path))
    if not zipfile.is_zipfile(content):
        _fail(path, "an NPZ file of plain arrays", "another format, or a part of one")
    try:
        with np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: must be an NPZ file of plain arrays; it cannot be read ({error})") from error
    for name, a in arrays.items():
        if not isinstance(a, np.ndarray):
            _fail(path, "an NPZ file of plain arrays", f"something else, {name!r}, in it")
    _some(path, arrays, "array")
    return arrays


# Inside.


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a name twice, of {', '.join(name for name, _ in pairs)}")
    return found


def is_number(cell: str) -> bool:
    """As it is written in a table: no `1_000`, and no word that Python takes for one."""
    return _NUMBER.fullmatch(cell) is not None


def _content(path: str | Path) -> bytes:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path}: must be a file; it is a folder")
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: must be a whole gzip file; it is truncated or damaged ({error})") from error


def _decoded(path: str | Path) -> str:
    """UTF-8 (with or without a mark), else Latin-1, of which every byte is a character."""
    content = _content(path)
    if b"\0" in content:
        _fail(path, "text", "zero bytes: a binary file, or UTF-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    text = _decoded(path).replace("\r\n", "\n")
    text = text if "\n" in text else text.replace("\r", "\n")  # as files of old Macs end their lines
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def _labelled(path: str | Path, rows: list[tuple[str, str]]) -> Texts:
    _some(path, rows, "row")
    classes = tuple(sorted({label for label, _ in rows}))
    number = {label: i for i, label in enumerate(classes)}
    return Texts([text for _, text in rows], np.array([number[label] for label, _ in rows], np.int32), classes)


def _some(path: str | Path, found: Any, what: str) -> None:
    if not found:
        raise ValueError(f"{path}: must have at least one {what}; it has none")


def _fail(path: str | Path, expected: str, came: str, line: int | None = None) -> NoReturn:
    where = path if line is None else f"{path}, line {line}"
    raise ValueError(f"{where}: must be {expected}; got {came}")
