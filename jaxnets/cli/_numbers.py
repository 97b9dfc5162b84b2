"""The recipe of arrays: as they are, pixels between 0 and 1, whole numbers that pick rows."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jaxnets.cli._labels import classes_of, numbered, numbers_of_line, whole_labels


@dataclass(frozen=True)
class Arrays:
    """Numbers of one shape an example; or whole numbers that each pick a row, of any length."""

    form: ClassVar[str] = "arrays"
    reads_empty: ClassVar[bool] = False
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
        tokens = _valid(x, found.get("lengths")) if picks else np.zeros(1, int)
        if picks and tokens.size and tokens.min() < 0:
            raise ValueError(f"{source.name}: x must be whole numbers of at least 0; got {tokens.min()}")
        return cls(
            shapes={name: tuple(found[name].shape[1:]) for name in ("x", "eta") if name in found},
            divisor=255.0 if source.kind == "idx" and x.dtype == np.uint8 else 1.0,
            picked=int(tokens.max(initial=0)) + 1 if picks else 0,  # those of the part held out are rows, too
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
        if absent := [name for name in (*self.shapes, "y") if name not in found]:
            raise ValueError(f"{source.name}: must have {absent[0]}; there are {', '.join(found)}")
        _check_numbers(found, source.name)
        _check_range(found, self.shapes, self.picked, source.name)
        bytes_ = source.kind == "idx" and found["x"].dtype == np.uint8
        if bytes_ != (self.divisor == 255.0) and (bytes_ or source.kind == "idx" or found["x"].dtype.kind == "f"):
            was = "bytes, 0 to 255" if self.divisor == 255.0 else "numbers on the scale that they had, no bytes"
            raise ValueError(f"{source.name}: x must be {was}, as in training; got {found['x'].dtype}")
        if (found["y"].ndim == 2) != self.every_step:
            expected = "[n, steps]" if self.every_step else "[n]"
            raise ValueError(f"{source.name}: y must be {expected}, as in training; got {list(found['y'].shape)}")
        for name, shape in {**self.shapes, "y": ()}.items():
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
    _check_numbers(found, where)
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


def _check_numbers(found: dict[str, np.ndarray], where: str) -> None:
    for name, a in found.items():
        if a.dtype.kind not in "iufb":
            raise ValueError(f"{where}: {name} must be numbers; got {a.dtype}")
    sizes = {name: len(a) if a.ndim else 0 for name, a in found.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        told = ", ".join(f"{n} of {name}" for name, n in sizes.items())
        raise ValueError(f"{where}: must be as many of each, at least one; got {told}")


def _check_range(found: dict[str, np.ndarray], inputs: Iterable[str], picked: int, where: str) -> None:
    """Lengths within the steps; tokens that are rows; numbers that are finite in float32, as far as they are read."""
    x, lengths = found["x"], found.get("lengths")
    if lengths is not None:
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
            told = f"{lengths.dtype} {list(lengths.shape)}"
            raise ValueError(f"{where}: lengths must be whole numbers, one an example; got {told}")
        if len(bad := np.flatnonzero((lengths < 0) | (lengths > x.shape[1]))):
            at = f"{lengths[bad[0]]} of example {bad[0]}"
            raise ValueError(f"{where}: lengths must be from 0 to {x.shape[1]}, the steps of x; got {at}")
    for name in inputs:
        a = found[name]
        if picked and a.dtype.kind not in "iu":
            raise ValueError(f"{where}: {name} must be whole numbers, as in training; got {a.dtype}")
        with np.errstate(over="ignore"):
            bad = (a < 0) | (a >= picked) if picked else ~np.isfinite(a.astype(np.float32))
        if lengths is not None:
            read = np.arange(a.shape[1]) < lengths[:, None]
            bad &= read.reshape(read.shape + (1,) * (a.ndim - 2))
        if bad.any():
            at = np.argwhere(bad)[0].tolist()
            expected = f"from 0 to {picked - 1}" if picked else "finite, in float32 too"
            raise ValueError(f"{where}: {name} must be {expected}; got {a[tuple(at)]} at {at}")
