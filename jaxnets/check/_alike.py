"""Values of a program that could be taken for another: of the same shape, of another step, moved by a place."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.check._walk import bind, source


def moved(x: np.ndarray, by: int, axis: int) -> np.ndarray:
    """Moved along an axis, zeros coming in."""
    rolled = np.array(np.roll(x, by, axis))
    np.moveaxis(rolled, axis, 0)[slice(0, by) if by > 0 else slice(by, None)] = 0
    return rolled


def softmax(x: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    e = np.exp(x - np.max(x, -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


_ALIKE = 20  # values of the same shape that are tried in the place of another, besides those of the next step


def alike(site, rows, stored, sites, most=_ALIKE, own=False) -> list[tuple[str, str, np.ndarray]]:
    """Values of the same shape in the same loop: those that are the factor's own of another step, then the nearest;
    last some that can be stretched to it."""
    here, axis = list(sites).index(site.place), max(len(site.lengths) - 1, 0)
    seen = set() if own else {rows.tobytes()}
    shifts, near, stretched = [], [], []
    for k, (place, s) in enumerate(sites.items()):
        if place not in stored:
            continue
        told = [f"the result of {source(s.eqn)}"] + [f"operand {n + 1} of {source(s.eqn)}" for n in range(9)]
        for what, value in zip(told, (stored[place].result, *stored[place].operands), strict=False):
            value = np.asarray(value)
            if value.dtype != rows.dtype or value.tobytes() in seen:
                continue
            seen.add(value.tobytes())
            fits = _fitting(value, rows.shape, len(site.lengths))
            if value.shape == rows.shape and value.ndim and not own and _is_shift(rows, value, axis):
                shifts.append(("shift", what, value))
            elif fits is not None and s.loop == site.loop:
                (near if value.shape == rows.shape else stretched).append((abs(k - here), ("place", what, fits)))
            elif s.lengths and not own and value.shape[1:] == rows.shape:  # another step of a loop
                at = [t for t in range(len(value)) if np.array_equal(value[t], rows)][:1]
                for t in at:
                    shifts += [
                        ("shift", f"{what} at step {t + by} of the loop", value[t + by])
                        for by in (-1, 1)
                        if 0 <= t + by < len(value)
                    ]
    nearest = [sorted(some, key=lambda item: item[0])[:n] for some, n in ((near, most), (stretched, most // 3))]
    return shifts[:6] + [found for some in nearest for _, found in some]


def _fitting(value, shape, steps):
    """A value as something of another shape could be taken for: of the same but for axes of length 1."""
    if value.shape == shape:
        return value
    if value.size < 2 or value.shape[:steps] != shape[:steps]:
        return None
    if [n for n in value.shape if n > 1] == [n for n in shape if n > 1]:
        return value.reshape(shape)
    stretched = value.ndim == len(shape) and all(n in (1, m) for n, m in zip(value.shape, shape, strict=True))
    return np.broadcast_to(value, shape) if stretched else None


def shifted(rows, site) -> Iterator[tuple[str, Any]]:
    """The rows of a scan's values moved by a step, with zeros where there is no row."""
    if not site.lengths:
        return
    axis = len(site.lengths) - 1
    zero = np.zeros_like(np.take(rows, [0], axis))
    yield "before", np.concatenate([zero, np.take(rows, range(rows.shape[axis] - 1), axis)], axis)
    yield "after", np.concatenate([np.take(rows, range(1, rows.shape[axis]), axis), zero], axis)


def _is_shift(a, b, axis):
    ahead, behind = range(1, a.shape[axis]), range(a.shape[axis] - 1)
    return any(np.array_equal(np.take(a, i, axis), np.take(b, k, axis)) for i, k in ((ahead, behind), (behind, ahead)))


def once(site, mine, which):
    """One where a gathered entry is the last (or first) to be taken from where it comes, zero where it is not."""
    eqn = site.eqn
    numbers = eqn.params["dimension_numbers"]
    back = lax.ScatterDimensionNumbers(
        update_window_dims=numbers.offset_dims,
        inserted_window_dims=numbers.collapsed_slice_dims,
        scatter_dims_to_operand_dims=numbers.start_index_map,
        operand_batching_dims=numbers.operand_batching_dims,
        scatter_indices_batching_dims=numbers.start_indices_batching_dims,
    )
    shape = eqn.outvars[0].aval.shape
    count = int(np.prod(shape))
    order = (jnp.arange(1.0, count + 1) if which == "last" else jnp.arange(float(count), 0, -1)).reshape(shape)

    def mask(table, indices):
        latest = lax.scatter_max(jnp.zeros_like(table), indices, order, back, mode=eqn.params["mode"])
        return (bind(eqn, [latest, indices])[0] == order) * 1.0

    for _ in site.lengths:
        mask = jax.vmap(mask)
    return mask(*(jnp.asarray(o) for o in mine.operands))


def as_wide_as(x, value):
    """A number beside an array, within a scan one a step, as an array."""
    value = np.asarray(value)
    return np.broadcast_to(value.reshape(value.shape + (1,) * (x.ndim - value.ndim)), x.shape)
