"""Why is a leaf wrong, as far as the leaf itself shows it: a factor, a transpose, a shift, a constant, some entries."""

import itertools
from collections.abc import Iterator

import numpy as np

from jaxnets.check._by_value import by_value
from jaxnets.check._report import Cause
from jaxnets.check._wrong import LOOSE, Context, Wrong, unexplained


def on_the_leaf(w: Wrong, context: Context) -> Iterator[Cause]:
    if w.got is None:
        yield from _by_form(w, context)
        return
    if not np.all(np.isfinite(w.got)):
        at = [int(i) for i in np.argwhere(~np.isfinite(w.got))[0]]
        count = f"{int(np.sum(~np.isfinite(w.got)))} of {w.got.size} entries are not finite, the first at {at}"
        count = count if w.got.ndim else "it is not finite"
        more = ": 0·∞ or 0/0, or beyond the dtype's range" + (" (right in float64)" if w.own_only else "")
        yield Cause("nan", count + more, float("inf"))
        return
    if w.own_only:
        yield Cause(
            "constant",
            "right in float64, wrong in its own precision: digits are lost, or the formula is another one there",
            0.0,
        )
        return
    yield from _by_factor(w, context)
    yield from _by_permutation(w)
    yield from _by_difference(w, context)
    yield from _flipped(w)
    yield from _by_exchange(w, context)
    yield from by_value(w, context.values)


def _by_form(w: Wrong, context: Context) -> Iterator[Cause]:
    if w.raw is None:
        yield Cause("shape", "no gradient was returned for this leaf", float("inf"))
        return
    raw = np.asarray(w.raw)
    if raw.dtype == object or raw.dtype.kind not in "fiubV":
        yield Cause("shape", f"what was returned is no array of numbers ({raw.dtype})", float("inf"))
        return
    if raw.shape == w.want.shape:
        yield Cause("shape", f"the gradient has dtype {raw.dtype}: it must be a floating one", float("inf"))
        return
    told = f"shape {raw.shape} in place of {w.want.shape}"
    as_float = raw.astype(np.float64) if raw.dtype.kind in "fiu" or "float" in raw.dtype.name else None
    if as_float is not None:
        for kind, detail, candidate in _refits(as_float, w.want.shape, context):
            fits = w._replace(got=candidate)
            left = unexplained(fits, w.want, of_form=True)
            if left is not None:
                yield Cause(kind, f"{detail} ({told})", left)
            elif (left := unexplained(fits, -w.want, of_form=True)) is not None:
                yield Cause(kind, f"{detail} and the sign exchanged ({told})", left)
    yield Cause("shape", told, float("inf"))


def _refits(raw: np.ndarray, shape: tuple[int, ...], context: Context) -> Iterator[tuple[str, str, np.ndarray]]:
    if raw.ndim == len(shape) > 1:
        for axes in itertools.permutations(range(raw.ndim)):
            if tuple(raw.shape[a] for a in axes) == shape and axes != tuple(range(raw.ndim)):
                yield "transpose", "the axes are permuted" if raw.ndim > 2 else "it is transposed", raw.transpose(axes)
    diagonal = raw.ndim == len(shape) + 1 > 1 and raw.shape[-1] == raw.shape[-2]
    if diagonal and not np.any(raw * (1 - np.eye(raw.shape[-1]))):
        yield "shape", "a matrix with the gradient on its diagonal", np.diagonal(raw, axis1=-2, axis2=-1)
        return
    for axis in range(raw.ndim):
        if np.delete(raw.shape, axis).tolist() == list(shape):
            for word, value in (("summed", raw.sum(axis)), ("averaged", raw.mean(axis))):
                yield "batch", f"axis {axis} is not {word} over", value
    for several in itertools.combinations(range(raw.ndim), 2):
        if np.delete(raw.shape, several).tolist() == list(shape):
            yield "batch", f"axes {several} are not summed over", raw.sum(several)
    if raw.size == int(np.prod(shape)):
        yield "shape", "the same numbers in another shape", raw.reshape(shape)
    if raw.ndim < len(shape) or raw.size < int(np.prod(shape)):
        try:
            yield "shape", "broadcast, it would be right", np.broadcast_to(raw, shape)
        except ValueError:
            return


_POWERS = {-1: "1 / {}", 1: "{}", -2: "1 / {} squared"}


_NUMBERS = {2.0: "2", 0.5: "½", 3.0: "3", 4.0: "4", 0.25: "¼", 1 / 3: "⅓"}


def _is(c: float, value: float) -> bool:
    return abs(c / value - 1) < 1e-5


def names_of(c: float, context: Context, leaf: str = "") -> list[tuple[str, str]]:
    """What a factor may be: kinds and words. With a leaf's name, other lengths of the data tell some of them apart."""
    fitting = [(size, p) for size in context.sizes for p in _POWERS if size.n > 1 and _is(c, float(size.n) ** p)]
    confirmed, refuted = [], []
    for size, power in fitting:
        less = context.one_less(size).get(leaf) if leaf and size.data else None
        if less is not None:
            (confirmed if _is(less, float(size.n - 1) ** power) else refuted).append((size, power))
    told = []
    for size, power in confirmed or [f for f in fitting if f not in refuted]:
        words = _POWERS[power].format(size.told)
        seen = f"; with that axis one shorter, {_POWERS[power].format(size.n - 1)}" if confirmed else ""
        told.append(("scale", f"times {words}{seen}"))
        if size.first and (size.data or not any(other.data for other in context.sizes)):
            averaged = "averaged where it is to be summed" if c < 1 else "summed where it is to be averaged"
            told.append(("batch", f"{averaged}: times {words}{seen}"))
    numbers = [("scale", f"times {words}") for value, words in _NUMBERS.items() if _is(c, value)]
    if refuted and not confirmed and not numbers:
        told.insert(0, ("scale", f"times {c:.6g}, and no other where {refuted[0][0].told} is shorter"))
    return told if confirmed else told + numbers


def _by_factor(w: Wrong, context: Context) -> Iterator[Cause]:
    if not np.any(w.got):
        yield Cause("path", "all zero: no path arrives", 0.0)
        yield Cause("scale", "all zero: times 0", 0.0)
        yield Cause("factor", "all zero: a factor is 0", 0.0)
        return
    c = float(np.sum(w.got * w.want) / (np.sum(w.want * w.want) or 1.0))
    left = unexplained(w, c * w.want)
    if left is None or c == 0:
        return
    if c < 0:
        yield Cause("sign", "the sign is exchanged" + ("" if _is(c, -1) else f", and times {-c:.6g}"), left)
    named = names_of(abs(c), context, w.name)
    for kind, detail in named:
        yield Cause(kind, detail, left)
    if not named and not _is(c, -1):
        yield Cause("scale", f"times {abs(c):.{6 if abs(abs(c) - 1) > 1e-4 else 10}g}", left)


def _by_permutation(w: Wrong) -> Iterator[Cause]:
    n = w.got.ndim
    for axes in itertools.permutations(range(n)) if 1 < n <= 4 else ():
        if axes != tuple(range(n)):
            candidate = w.want.transpose(axes)
            for sign, word in ((1, ""), (-1, ", with the sign exchanged")):
                left = unexplained(w, sign * candidate)
                if left is not None:
                    told = "it is transposed" if n == 2 else f"its axes are permuted as {axes}"
                    yield Cause("transpose", told + word, left)
    for axis in range(n):
        length = w.got.shape[axis]
        if length < 2:
            continue
        yield from _by_blocks(w, axis)
        yield from _by_winner(w, axis)
        if (left := unexplained(w, np.flip(w.want, axis))) is not None:
            yield Cause("transpose", f"axis {axis} runs backwards", left)
        for by in {-2, -1, 1, 2} if length > 2 else {1}:
            rolled = np.roll(w.want, by, axis)
            left = unexplained(w, rolled)
            emptied = np.array(rolled)
            np.moveaxis(emptied, axis, 0)[slice(0, by) if by > 0 else slice(by, None)] = 0
            if left is None:
                left = unexplained(w, emptied)
            inner = np.moveaxis(w.got - rolled, axis, 0)[slice(by, None) if by > 0 else slice(0, by)]
            if (
                left is None
                and inner.size
                and np.any(inner + np.moveaxis(rolled, axis, 0)[slice(by, None) if by > 0 else slice(0, by)])
            ):
                off = float(np.max(np.abs(inner)))
                left = off / w.scale if off <= LOOSE * w.limit and length > 3 else None
            if left is not None:
                yield Cause("shift", f"moved by {by} along axis {axis}", left)


def _by_winner(w: Wrong, axis: int) -> Iterator[Cause]:
    """Along an axis one entry is to have it all: another has, or several have."""
    won, given = w.want != 0, np.abs(w.got) > w.limit
    if np.any(won.sum(axis) > 1) or np.any(won.any(axis) != given.any(axis)) or not np.any(won):
        return
    whole = np.where(given, w.want.sum(axis, keepdims=True), 0)
    left = unexplained(w, whole)
    if left is None or not np.any(np.abs(whole - w.want) > w.limit):
        return
    told = f"along axis {axis} " + ("several entries get it in full" if np.any(given.sum(axis) > 1) else "another wins")
    if w.value is not None and w.value.shape == w.got.shape:
        best = np.where(won, w.value, 0).sum(axis, keepdims=True)
        if np.all(np.abs(w.value - best)[given] <= 1e-6 * np.max(np.abs(w.value))):
            yield Cause("tie", f"{told}, of the same value", left)
            return
    yield Cause("place", f"{told}: at {np.argwhere(given & ~won)[0].tolist()} first", left)


def _by_blocks(w: Wrong, axis: int) -> Iterator[Cause]:
    """Blocks of an axis, as of gates beside each other, stand in another order."""
    for count in (2, 3, 4):
        if w.want.shape[axis] % count == 0 and w.want.shape[axis] > count:
            blocks = np.split(w.want, count, axis)
            for order in itertools.permutations(range(count)):
                left = unexplained(w, np.concatenate([blocks[k] for k in order], axis))
                if left is not None:
                    told = f"the {count} blocks of axis {axis} stand in the order {order}"
                    yield Cause("place", told, left)


def _by_difference(w: Wrong, context: Context) -> Iterator[Cause]:
    extra = w.got - w.want
    level = float(np.median(extra))
    if w.got.size > 1 and level and (left := unexplained(w, w.want + level)) is not None:
        yield Cause("constant", f"{level:.6g} is added to every entry", left)
    elif w.got.size == 1:
        yield Cause("constant", f"{level:.6g} is added", 0.0)
    if w.got.size > 1 and np.ptp(w.got) == 0 and np.any(w.got):
        yield Cause("constant", f"every entry is {w.got.flat[0]:.6g}", 0.0)
    if w.value is not None and w.value.shape == extra.shape and w.got.size > 1 and np.ptp(w.value):
        c = float(np.sum(extra * w.value) / np.sum(w.value * w.value))
        if c and (left := unexplained(w, w.want + c * w.value)) is not None:
            yield Cause(
                "path", f"{c:.6g} times the parameter itself too much, as a penalty on its square would give", left
            )


def by_entries(w: Wrong) -> Iterator[Cause]:
    """Only some entries are wrong: which, and how."""
    off = np.abs(w.got - w.want) > w.limit
    count = int(off.sum())
    if not 0 < count < w.got.size or w.got.size < 2:
        return
    at = np.argwhere(off)
    where = f"{count} of {w.got.size} entries, the first at {at[0].tolist()}"
    for axis in range(w.got.ndim):
        rows = np.unique(at[:, axis])
        if len(rows) == 1 and count > 1:
            where = f"those with index {int(rows[0])} on axis {axis}"
        elif len(rows) < w.got.shape[axis] and count == len(rows) * (w.got.size // w.got.shape[axis]):
            where = f"those with index {rows[:5].tolist()}{'…' * (len(rows) > 5)} on axis {axis}"
    g, e = w.got[off], w.want[off]
    few = count <= max(3, w.got.size // 4)
    reach = LOOSE * w.limit
    c = float(np.sum(g * e) / (np.sum(e * e) or 1.0))
    if np.all(np.abs(g + e) <= reach):
        return
    if not np.any(g):
        yield Cause("path", f"nothing arrives in {where}", 0.0)
        yield (
            Cause("overwrite", f"zero in {where}: set there in place of added to", 0.0)
            if few
            else Cause("truncation", f"zero in {where}: what lies beyond is cut off", 0.0)
        )
    elif count > 1 and c and np.all(np.abs(g - c * e) <= reach):
        yield Cause("scale", f"times {c:.6g} in {where}", float(np.max(np.abs(g - c * e))) / w.scale)
    elif count > 1 and np.ptp(g - e) <= reach:
        yield Cause("constant", f"{float(np.mean(g - e)):.6g} is added in {where}", float(np.ptp(g - e)) / w.scale)
    elif few and count <= 3:
        values = ", ".join(f"{a:.6g} for {b:.6g}" for a, b in zip(g[:3], e[:3], strict=True))
        yield Cause("constant", f"only {where} wrong: {values}", 0.0)
        if c:
            yield Cause("scale", f"times {float((g / np.where(e == 0, 1, e))[0]):.6g} in {where}", 0.0)


def _flipped(w: Wrong) -> Iterator[Cause]:
    """The sign is wrong in some entries only."""
    off = np.abs(w.got - w.want) > w.limit
    rest = float(np.max(np.abs(w.got + w.want)[off], initial=0))
    if 0 < off.sum() < w.got.size and rest <= LOOSE * w.limit:
        first = np.argwhere(off)[0].tolist()
        yield Cause(
            "sign",
            f"the sign is exchanged in {int(off.sum())} of {off.size} entries, the first at {first}",
            rest / w.scale,
        )


def _by_exchange(w: Wrong, context: Context) -> Iterator[Cause]:
    for name, other in context.others.items():
        if name == w.name or other is None or w.got.size < 2:
            continue
        if np.shape(other)[1:] == w.got.shape:
            for row in (0, -1):
                if np.any(other[row]) and (left := unexplained(w, other[row])) is not None:
                    at = "first" if row == 0 else "last"
                    yield Cause("shift", f"this is the {at} row of the adjoint of {name}", left)
                    yield Cause(
                        "factor", f"this is the {at} row of the adjoint of {name}: what follows is missing", left
                    )
        if np.shape(other) != w.got.shape:
            continue
        left = unexplained(w, np.asarray(other))
        if left is not None and np.any(other):
            yield Cause("place", f"this is the gradient of {name}", left)
