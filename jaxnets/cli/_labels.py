"""Labels to numbers of classes; lines of text to numbers and cells."""

import csv
import json
import re

import numpy as np

from jaxnets import data

_WHOLE = re.compile(r"([+-]?(?:0|[1-9][0-9]*))(?:\.0*)?")
_FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]+")


def numbered(labels: np.ndarray, classes: tuple[str, ...], where: str) -> np.ndarray:
    """Labels, as numbers of their classes."""
    found, at = np.unique(labels, return_inverse=True)
    names = [str(name) for name in found]
    if unknown := [name for name in names if name not in classes]:
        raise ValueError(f"{where}: a label must be one of {_some(classes)}; got {unknown[0]!r}")
    return np.array([classes.index(name) for name in names], np.int32)[at].reshape(labels.shape)


def labels_of(found: data.Texts) -> np.ndarray:
    """A text's label, by name."""
    return np.array(found.classes, dtype=object)[found.labels]  # NumPy's own strings lose zero characters at the end


def classes_of(labels: np.ndarray, where: str, of_files: bool = False) -> tuple[str, ...]:
    """Their different names; in order, but for files, which come as they were named."""
    names = [str(name) for name in (dict.fromkeys(labels.tolist()) if of_files else np.unique(labels))]
    if all(name.isascii() and name.isdigit() for name in names):
        names.sort(key=lambda name: (int(name), name))
    if len(names) < 2:
        raise ValueError(f"{where}: must have two classes or more; got {f'only {names[0]!r}' if names else 'none'}")
    if len(names) > 20 and len(names) > labels.size / 10:
        raise ValueError(
            f"{where}: must be classes, each of many examples; got {len(names)} different ones among {labels.size}"
        )
    return tuple(names)


def whole_labels(column: np.ndarray, where: str) -> np.ndarray:
    """Labels as they are in a file: `1.0` is 1, and `01` is a name of its own."""
    if column.dtype.kind in "OU":
        if (column == "").any():
            raise ValueError(f"{where}: every example must have a label; {int((column == '').sum())} have none")
        names, at = np.unique(column, return_inverse=True)
        return np.array([_whole(str(name), where) for name in names])[at].reshape(column.shape)
    if column.dtype.kind != "f":
        return column
    bad = column[~(column == np.round(column)) | (np.abs(column) > 2**53)]
    if len(bad):
        came = f"{int(np.isnan(bad).sum())} without one" if np.isnan(bad).any() else f"{bad[0]:g}"
        raise ValueError(f"{where}: every example must have a label that is a word or a whole number; got {came}")
    return column.astype(np.int64)


def _whole(name: str, where: str) -> str:
    if found := _WHOLE.fullmatch(name):
        return str(int(found[1]))
    if _FRACTION.fullmatch(name):
        raise ValueError(f"{where}: every example must have a label that is a word or a whole number; got {name}")
    return name


def numbers_of_line(line: str) -> np.ndarray:
    """Numbers between commas, or a JSON array, nested or not."""
    try:
        told = json.loads(line if line.lstrip().startswith("[") else f"[{line}]")
        row = np.array(told, object).reshape(-1)
        if not all(type(number) in (int, float) for number in row):
            raise TypeError("not numbers alone")
        row = row.astype(np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError):
        row = np.zeros(0)
    if not row.size or not (np.abs(row) <= np.finfo(np.float32).max).all():
        raise ValueError(f"expected numbers between commas, or a JSON array; got {_cut(line)}")
    return row


def cells_of_line(line: str) -> list[str]:
    """A row of CSV, or a JSON array."""
    if line.lstrip().startswith("["):
        try:
            return ["" if cell is None else str(cell) for cell in json.loads(line)]
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"expected a JSON array; got {_cut(line)}") from error
    try:
        return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True, strict=True), [])]
    except csv.Error as error:
        raise ValueError(f"expected a row of CSV; got {_cut(line)} ({error})") from error


def _cut(line: str) -> str:
    return repr(line if len(line) < 40 else line[:40] + "…")


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
