"""Columns of a table to rows of numbers: what is to be known about them is learned from the training part alone."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnets.data._files import is_number


class Columns(NamedTuple):
    """A group of columns, and how each becomes numbers."""

    names: tuple[str, ...]
    scales: dict[str, tuple[float, float]]  # of a column of numbers: what is subtracted, and what it is divided by
    categories: dict[str, tuple[str, ...]]  # of a column of strings: one number, 0 or 1, for each

    @classmethod
    def of(cls, table: Mapping[str, np.ndarray], names: Sequence[str]) -> "Columns":
        """Learn from a table: mean and spread of numbers, the categories of strings; missing ones are passed by.

        >>> table = {"age": np.array([20.0, 40.0, np.nan]), "sex": np.array(["f", "m", "f"])}
        >>> Columns.of(table, ["age", "sex"]).rows(table)
        array([[-1.,  1.,  0.],
               [ 1.,  0.,  1.],
               [ 0.,  1.,  0.]], dtype=float32)
        """
        if not names or len(set(names)) != len(names):
            raise ValueError(f"Columns: names must be different columns, at least one; got {list(names)}")
        scales, categories = {}, {}
        for name in names:
            column = _column(table, name)
            if column.dtype.kind == "f":
                there = column[~np.isnan(column)]
                if not len(there):
                    raise ValueError(f"Columns: column {name!r} must have at least one number; all are missing")
                mean, spread = float(there.mean()), float(there.std())
                # Of a column that is constant, what is left is the rounding of its mean.
                scales[name] = (mean, spread if spread > 1e-12 * abs(mean) else 1.0)
            else:
                categories[name] = tuple(str(c) for c in np.unique(column) if c)
        return cls(tuple(names), scales, categories)

    @property
    def size(self) -> int:
        """Numbers of a row."""
        return len(self.scales) + sum(map(len, self.categories.values()))

    def rows(self, table: Mapping[str, np.ndarray]) -> np.ndarray:
        """`[n, size]` float32: numbers scaled, categories one-hot; a missing one is zeros. A category that was not
        learned is refused."""
        parts: list[Any] = []
        for name in self.names:
            column = _column(table, name)
            if name in self.scales:
                if column.dtype.kind != "f":
                    example = next((cell for cell in column if cell and not is_number(cell)), column[0])
                    raise ValueError(f"Columns: column {name!r} must be numbers; got {str(example)!r}")
                mean, spread = self.scales[name]
                scaled = (column - mean) / spread
                if (beyond := np.abs(scaled) > np.finfo(np.float32).max).any():
                    raise ValueError(f"Columns: column {name!r} must be within float32; got {column[beyond][0]:g}")
                parts.append(np.nan_to_num(scaled, nan=0.0)[:, None])
                continue
            known = np.array(self.categories[name])
            if column.dtype.kind == "f" and not np.isnan(column).all():
                remedy = f"Read the file with text=[{name!r}]."
                raise ValueError(f"Columns: column {name!r} must be strings, as it was; got numbers. {remedy}")
            cells = np.full(len(column), "") if column.dtype.kind == "f" else column
            if len(unknown := np.setdiff1d(cells, [*known, ""])):
                shown = ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
                raise ValueError(f"Columns: column {name!r} must be one of {shown}; got {str(unknown[0])!r}")
            parts.append(cells[:, None] == known[None])
        return np.concatenate(parts, 1, dtype=np.float32)


def _column(table: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in table:
        raise ValueError(f"Columns: there is no column {name!r}; there are {', '.join(table)}")
    column = np.asarray(table[name])
    if column.dtype.kind not in "fiub":
        return column.astype(str)
    column = column.astype(np.float64)
    if np.isinf(column).any():
        raise ValueError(f"Columns: column {name!r} must be finite, or missing (NaN); got infinity")
    return column
