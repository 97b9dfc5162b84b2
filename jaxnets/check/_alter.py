"""What people do to an equation's share of a backward pass, and how a program is made to do it.

Each operand of an equation has a *weight* on what is handed back to it (1 as it should be, 0 for a path that is
missing, per row where there is a batch), and where the equation multiplies, a *substitute*: what stands in the place of
the local derivative or of the other factor (nothing as it should be). An `Option` is a choice of these at one equation.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.check import _walk
from jaxnets.check._walk import Place, bind, is_float, source

UNARY = {
    *("tanh", "logistic", "exp", "exp2", "log", "log1p", "expm1", "sin", "cos", "tan", "sqrt", "rsqrt", "cbrt"),
    *("integer_pow", "square", "erf", "erfc", "atan", "asin", "acos", "sinh", "cosh", "asinh", "atanh", "lgamma"),
}
ELEMENTWISE = UNARY | {"mul", "div", "max", "min", "select_n"}
LINEAR = {"dot_general", "conv_general_dilated"}
EXTREMES = {"reduce_max", "reduce_min"}
_STRETCHING = {"add", "sub", "mul", "div", "max", "min", "pow"}  # an axis of length 1 serves all of the other's
SUBSTITUTED = ELEMENTWISE | LINEAR | EXTREMES | {"gather"}
ARRIVING = -1  # in the place of an operand's number: what arrives at the equation, for all of them
_MOVES = {  # these only pass an adjoint on: what is done to it is done at the equations that use them
    *("broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "name", "copy", "transpose", "stop_gradient"),
    *("slice", "rev", "pad", "expand_dims", "copy_p", "pvary", "pcast", "optimization_barrier"),
}

# Local derivatives that people write for another: of the operand x, the result q and the true derivative d.
_FORMS: dict[str, tuple[str, Callable[..., Any]]] = {
    "1": ("factor", lambda x, q, d: np.ones_like(d)),
    "its square": ("factor", lambda x, q, d: d * d),
    "q": ("factor", lambda x, q, d: q),
    "1 − q": ("factor", lambda x, q, d: 1 - q),
    "q²": ("factor", lambda x, q, d: q * q),
    "1 − q²": ("factor", lambda x, q, d: 1 - q * q),
    "1 + q²": ("sign", lambda x, q, d: 1 + q * q),
    "q (1 − q)": ("factor", lambda x, q, d: q * (1 - q)),
    "q (1 + q)": ("sign", lambda x, q, d: q * (1 + q)),
    "1/q": ("factor", lambda x, q, d: 1 / q),
    "1/q²": ("factor", lambda x, q, d: 1 / (q * q)),
    "1 − q²/2": ("factor", lambda x, q, d: 1 - q * q / 2),
    "q³": ("factor", lambda x, q, d: q**3),
    "x": ("place", lambda x, q, d: x),
    "1/x": ("place", lambda x, q, d: 1 / x),
    "1 − x²": ("place", lambda x, q, d: 1 - x * x),
    "x (1 − x)": ("place", lambda x, q, d: x * (1 - x)),
}


class Stored(NamedTuple):
    """What an equation was given, and gave; within scans a row per step."""

    operands: list[Any]
    result: Any


class Option(NamedTuple):
    """An alteration at one place: weights by operand, a substitute for one operand, and how it is told."""

    place: Place
    weights: dict[int, Any]
    substitute: tuple[int, Callable[[], Any]] | None
    kind: str
    detail: str

    @property
    def cuts(self) -> bool:
        """Whether a whole path is missing, and nothing else."""
        return self.substitute is None and list(self.weights.values()) == [0.0]


def delta(x: Any) -> Any:
    """Zero, with derivative one; what is not finite takes no part, or the zero would be none."""
    return jnp.where(jnp.isfinite(x), x - lax.stop_gradient(x), 0)


def operands_of(site: _walk.Site) -> list[int]:
    """The operands of an equation that can be altered."""
    eqn = site.eqn
    if eqn.primitive.name in _MOVES or len(eqn.outvars) != 1 or not is_float(eqn.outvars[0]):
        return []
    return [j for j, v in enumerate(eqn.invars) if is_float(v) and not isinstance(v, _walk.Literal)]


def share_shape(site: _walk.Site, j: int) -> tuple[int, ...]:
    """The shape in which an operand takes part: where an equation stretches it, that of the result."""
    out = site.eqn.outvars[0].aval.shape
    shape = out if j == ARRIVING else site.eqn.invars[j].aval.shape
    return out if site.eqn.primitive.name in _STRETCHING and len(shape) == len(out) else shape


def arrives(site: _walk.Site) -> bool:
    """Whether what arrives at an equation is altered as a whole, besides what it hands back to each operand."""
    return site.eqn.primitive.name in LINEAR | {"add", "sub"}


def substitute_shape(site: _walk.Site, j: int) -> tuple[int, ...] | None:
    """The shape of what can stand in for the local derivative, or for the other factor; None where nothing can."""
    eqn, name = site.eqn, site.eqn.primitive.name
    if name not in SUBSTITUTED or (name == "gather" and j):
        return None
    if name in LINEAR:
        return eqn.invars[1 - j].aval.shape if is_float(eqn.invars[1 - j]) else None
    return eqn.outvars[0].aval.shape if name == "gather" else share_shape(site, j)


def weighted(operand: Any, weight: Any) -> Any:
    """An operand that hands back its share times a weight."""
    return lax.stop_gradient(operand) + weight * delta(operand)


def turned(eqn: Any, operands: list[Any], j: int, weight: Any) -> Any:
    """Zero, which hands back to operand `j` what it would if the adjoint that arrives were transposed."""
    alone = [delta(o) if k == j else lax.stop_gradient(o) for k, o in enumerate(operands)]
    return weight * jnp.swapaxes(bind(eqn, alone)[0], -1, -2)


def can_turn(eqn: Any) -> bool:
    """Whether what an equation gives could be taken for its transpose."""
    shape = eqn.outvars[0].aval.shape
    return eqn.primitive.name == "dot_general" and len(shape) >= 2 and shape[-1] == shape[-2]


def substituted(eqn: Any, operands: list[Any], j: int, value: Any) -> Any:
    """Zero, which hands back to operand `j` what it would with another local derivative or other factor."""
    name = eqn.primitive.name
    if name in LINEAR:
        both = [delta(o) if k == j else value for k, o in enumerate(operands)]
        return bind(eqn, both)[0]
    if name == "gather":
        return bind(eqn, [delta(operands[0]), *operands[1:]])[0] * value
    if name in EXTREMES:
        return jnp.sum(delta(operands[0]) * value, eqn.params["axes"])
    return delta(operands[j]) * value


def options(site: _walk.Site, stored: dict[Place, Stored], sites: dict[Place, _walk.Site], batches: set[int]):
    """Every alteration of an equation that is worth trying."""
    where, moved = source(site.eqn), operands_of(site)
    steps = {n for s in sites.values() for n in s.lengths}
    found: list[Option] = []
    for j in moved:
        of = f"operand {j + 1} of " if len(moved) > 1 else ""
        through = f"through {of}{where}"

        def change(weight, kind, detail, j=j):
            found.append(Option(site.place, {j: weight}, None, kind, detail))

        change(0.0, "path", f"the path {through} is missing")
        change(-1.0, "sign", f"the path {through} has the wrong sign")
        change(2.0, "path", f"the path {through} is counted twice")
        if site.lengths and site.lengths[-1] > 1:
            for at, which in ((0, "first"), (site.lengths[-1] - 1, "last")):
                alone = np.zeros(site.lengths[-1])
                alone[at] = 1.0
                told = f"the {which} step's share {through}"
                change(alone, "overwrite", f"{told} is all there is: the steps should be added up")
                change(1.0 - alone, "path", f"{told} is missing")
        shape = share_shape(site, j)
        for axis in [k for k, n in enumerate(shape[:3]) if n in batches] if stored else ():
            for some, told in _some_rows(shape, axis):
                for kind in ("batch",) if shape[axis] not in steps else ("batch", "path"):
                    change(Factor(some), kind, f"{told} alone {through}: the others are not summed over")
        if stored and shape and site.place in stored:
            for kind, detail, value in _multipliers(site, j, stored, sites, through):
                change(Factor(value), kind, detail)
        mine = stored.get(site.place)
        if mine is not None and substitute_shape(site, j) is not None:
            for kind, detail, value in _substitutes(site, j, mine, stored, sites):
                found.append(Option(site.place, {j: 0.0}, (j, value), kind, detail))
    if arrives(site) and site.place in stored:
        for kind, detail, value in _multipliers(site, ARRIVING, stored, sites, f"in what arrives at {where}"):
            found.append(Option(site.place, {ARRIVING: Factor(value)}, None, kind, detail))
    return found


def _some_rows(shape: tuple[int, ...], axis: int) -> Iterator[tuple[np.ndarray, str]]:
    """Ones for one row of an axis, and for the first few."""
    n = shape[axis]
    single = range(n) if n <= 8 else (0, 1, n - 1)
    chosen = [(slice(row, row + 1), f"index {row} of axis {axis}") for row in single]
    chosen += [(slice(0, end), f"the first {end} of axis {axis}") for end in range(2, min(n, 6))]
    for rows, told in chosen:
        some = np.zeros([m if k == axis else 1 for k, m in enumerate(shape)])
        some[(slice(None),) * axis + (rows,)] = 1.0
        yield some, told


def moved(x: np.ndarray, by: int, axis: int) -> np.ndarray:
    """Moved along an axis, zeros coming in."""
    rolled = np.array(np.roll(x, by, axis))
    np.moveaxis(rolled, axis, 0)[slice(0, by) if by > 0 else slice(by, None)] = 0
    return rolled


class Turned:
    """In the place of a substitute: the true one, but the adjoint that arrives has its last two axes exchanged."""


class Factor(NamedTuple):
    """A weight for each entry of an operand, within scans for each step too; broadcast."""

    weights: Any


def softmax(x: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    e = np.exp(x - np.max(x, -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


_SQUASHED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "1 − tanh²(x)": lambda x: 1 - np.tanh(x) ** 2,
    "σ(x) (1 − σ(x))": lambda x: 0.25 / np.cosh(np.clip(x / 2, -300, 300)) ** 2,
    "softmax(x) (1 − softmax(x))": lambda x: softmax(x) * (1 - softmax(x)),
}


def _multipliers(site, j, stored, sites, through):
    """What is handed back is multiplied, or divided, once more by a value of the same shape."""
    if site.eqn.primitive.name == "add_any":
        return
    held = stored[site.place]
    mine = np.asarray(held.result if j == ARRIVING else held.operands[j])
    mine = np.broadcast_to(mine, (*site.lengths, *share_shape(site, j)))
    for text, form in _SQUASHED.items():
        yield "factor", f"{text} is there once too often {through}, x its value", form(mine)
    for _, what, value in _alike(site, mine, stored, sites, most=8, own=True):
        yield "factor", f"{what} is there once too often {through}", value
        with np.errstate(all="ignore"):
            yield "factor", f"{what} is missing {through}", 1 / value


def _substitutes(site, j, mine, stored, sites) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    name, where = site.eqn.primitive.name, source(site.eqn)
    if name in UNARY:
        yield from _local_derivatives(site, mine, where, stored, sites)
    elif name in ("mul", "div"):
        yield from _factors(name, j, mine, where)
    elif name in ("max", "min", "select_n") or name in EXTREMES:
        told = f"the mask of {where} is missing: what did not win gets a share too"
        x = np.asarray(mine.operands[j])
        if name in EXTREMES:
            axes = tuple(a + len(site.lengths) for a in site.eqn.params["axes"])
            yield from _other_winners(x if name == "reduce_max" else -x, axes, where)
        yield "factor", told, lambda: np.ones_like(x)
        if name in ELEMENTWISE:
            other_side = np.asarray(x != np.asarray(mine.result), x.dtype)
            yield "place", f"the mask of {where} is that of the other side", lambda: other_side
            yield "sign", f"the comparison in the mask of {where} is the wrong way round", lambda: other_side
            yield "factor", f"its operand in place of the mask of {where}", lambda: x
    elif name == "gather":
        for which in ("last", "first"):
            told = f"of what {where} picks several times only the {which} is kept, where all should be added up"
            yield "overwrite", told, lambda which=which: _once(site, mine, which)
    else:
        other = np.asarray(mine.operands[1 - j])
        yield "factor", f"the other factor is missing at {where}", lambda: np.ones_like(other)
        yield "place", f"tanh of the other factor in its place at {where}", lambda: np.tanh(other)
        if other.ndim == 2 and other.shape[0] == other.shape[1]:
            yield "factor", f"the other factor is missing at {where}: as if it were 1", lambda: np.eye(len(other))
            told = f"only the diagonal of the other factor is there at {where}"
            yield "path", told, lambda: np.eye(len(other)) * other
        if other.ndim - len(site.lengths) >= 2 and other.shape[-1] == other.shape[-2]:
            yield "transpose", f"the other factor is transposed at {where}", lambda: np.swapaxes(other, -1, -2)
        if can_turn(site.eqn):
            yield "transpose", f"what arrives at {where} is transposed", Turned
    if name in ("mul", "dot_general"):
        other = np.asarray(mine.operands[1 - j])
        for axis in range(len(site.lengths), other.ndim):
            if other.shape[axis] > 2:
                for by in (1, -1):
                    told = f"the other factor moved by {by} along axis {axis - len(site.lengths)} at {where}"
                    yield "shift", told, lambda other=other, by=by, axis=axis: np.roll(other, by, axis)
                    yield (
                        "shift",
                        f"{told}, nothing coming in",
                        lambda other=other, by=by, axis=axis: moved(other, by, axis),
                    )
        rows = np.asarray(mine.operands[1 - j])
        if name == "mul" and rows.ndim == len(site.lengths) + len(share_shape(site, j)):
            rows = np.broadcast_to(rows, (*site.lengths, *share_shape(site, j)))
        yield from _other_values(site, rows, where, stored, sites)


def replaced(site: _walk.Site, j: int, mine: Stored) -> Any:
    """What a substitute for operand `j` stands in the place of, where that is an array; else None."""
    name = site.eqn.primitive.name
    if j >= len(mine.operands) or not is_float(site.eqn.invars[j]) or substitute_shape(site, j) is None:
        return None
    if name in LINEAR or name == "mul":
        return np.asarray(mine.operands[1 - j])
    return _slope(site.eqn, jnp.asarray(mine.operands[0])) if name in UNARY else None


def _slope(eqn, x):
    return np.asarray(jax.jvp(lambda x: bind(eqn, [x])[0], (x,), (jnp.ones_like(x),))[1])


def _other_winners(x, axes, where) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Who else could be given what arrives at an extreme."""
    for kind, what, order in (("tie", "winner", x), ("place", "loser", -x)):
        won = order == order.max(axes, keepdims=True)
        flat = np.moveaxis(won, axes, range(len(axes))).reshape(-1, won.size // (won.shape[axes[0]] or 1))
        count = np.cumsum(flat, 0)
        told = f"what arrives at {where} goes"
        yield kind, f"{told} in full to every {what}", lambda won=won: won * 1.0
        if len(axes) == 1:
            for which, one in (("first", count == 1), ("last", count == count[-1:])):
                alone = np.moveaxis((one & flat).reshape(np.moveaxis(won, axes, [0]).shape), 0, axes[0])
                yield kind, f"{told} to the {which} {what} alone", lambda alone=alone: alone * 1.0


BY_RESULT = {"tanh": lambda q: 1 - q * q, "logistic": lambda q: q * (1 - q), "exp": lambda q: q}


def _local_derivatives(site, mine, where, stored, sites):
    x, q = (np.asarray(v) for v in (mine.operands[0], mine.result))
    d = _slope(site.eqn, jnp.asarray(x))
    for text, (kind, form) in _FORMS.items():
        what = {
            "1": f"the derivative of {where} is missing",
            "its square": f"the derivative of {where} is there twice",
        }.get(text, f"{text} in place of the derivative of {where}" + (", q its result" if "q" in text else ""))
        yield kind, what, lambda form=form: form(x, q, d)
    for place, s in stored.items():  # x = a − b: somebody may have put a + b, or a
        if sites[place].eqn.primitive.name == "sub" and np.array_equal(s.result, x):
            a, b = (_as_wide_as(x, o) for o in s.operands)
            if np.any(b):
                told = f"the derivative of {where} taken at"
                yield (
                    "sign",
                    f"{told} the sum in place of the difference",
                    lambda a=a, b=b: _slope(site.eqn, jnp.asarray(a + b)),
                )
                yield (
                    "path",
                    f"{told} the first term of the difference alone",
                    lambda a=a: _slope(site.eqn, jnp.asarray(a)),
                )
                yield "path", f"{told} the second term alone", lambda b=b: _slope(site.eqn, jnp.asarray(-b))
                for axis, by in itertools.product(range(len(site.lengths), a.ndim), (1, -1)):
                    late = f"{told} a difference whose first term is moved by {by} along axis {axis}"
                    yield (
                        "shift",
                        late,
                        lambda a=a, b=b, by=by, axis=axis: _slope(site.eqn, jnp.asarray(moved(a, by, axis) - b)),
                    )
                break
    yield "place", f"the derivative of {where} taken at its result", lambda: _slope(site.eqn, jnp.asarray(q))
    if (by_result := BY_RESULT.get(site.eqn.primitive.name)) is not None:
        for kind, what, value in _alike(site, q, stored, sites, most=8):
            yield kind, f"the derivative of {where} taken at {what}", lambda value=value: by_result(value)
    for way, rows in _shifted(x, site):
        told = f"the derivative of {where} taken at the step {way}"
        yield "shift", told, lambda rows=rows: _slope(site.eqn, jnp.asarray(rows))


def _as_wide_as(x, value):
    """A number beside an array, within a scan one a step, as an array."""
    value = np.asarray(value)
    return np.broadcast_to(value.reshape(value.shape + (1,) * (x.ndim - value.ndim)), x.shape)


def _factors(name, j, mine, where):
    a, b = (np.asarray(v) for v in mine.operands)
    a, b = (v.reshape(v.shape + (1,) * (max(a.ndim, b.ndim) - v.ndim)) for v in (a, b))  # a number beside an array
    own, other = (a, b) if j == 0 else (b, a)
    forms: list[tuple[str, str, Callable[[], Any]]]
    if name == "div" and j == 0:
        forms = [
            ("factor", "the division is dropped", lambda: np.ones_like(a)),
            ("factor", "multiplied by what divides", lambda: b),
            ("factor", "the divisor is there twice", lambda: 1 / (b * b)),
            ("factor", "with q (1 − q) entry by entry, q the quotient", lambda: a / b * (1 - a / b) / a),
        ]
    elif name == "div":
        forms = [
            ("factor", "−a/b in place of −a/b²", lambda: -a / b),
            ("factor", "−1/b² in place of −a/b²", lambda: -1 / (b * b)),
            ("factor", "−a in place of −a/b²", lambda: -a),
            ("factor", "1/b in place of −a/b²", lambda: 1 / b),
        ]
    else:
        forms = [
            ("factor", "the other factor is missing", lambda: np.ones_like(other)),
            ("factor", "the other factor is there twice", lambda: other * other),
            ("factor", "the other factor stands upside down", lambda: 1 / other),
            ("place", "the factor itself stands in place of the other", lambda: own),
            ("factor", "the factor itself is there besides the other", lambda: own * other),
            ("factor", "1 − the other in place of it", lambda: 1 - other),
        ]
    for kind, told, value in forms:
        yield kind, f"{told} at {where}", value


def _other_values(site, rows, where, stored, sites):
    """Other results of the same shape that could be taken for a factor, those nearest in the program; other steps."""
    for way, shifted in _shifted(rows, site):
        yield "shift", f"the other factor is that of the step {way} at {where}", lambda shifted=shifted: shifted
    for kind, what, value in _alike(site, rows, stored, sites):
        yield kind, f"{what} in place of the other factor at {where}", lambda value=value: value


_ALIKE = 20  # values of the same shape that are tried in the place of another, besides those of the next step


def _alike(site, rows, stored, sites, most=_ALIKE, own=False) -> list[tuple[str, str, np.ndarray]]:
    """Values of the same shape in the same loop: those that are the factor's own of another step, then the nearest."""
    here, axis = list(sites).index(site.place), max(len(site.lengths) - 1, 0)
    seen = set() if own else {rows.tobytes()}
    shifts, near = [], []
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
                near.append((abs(k - here), ("place", what, fits)))
            elif s.lengths and not own and value.shape[1:] == rows.shape:  # another step of a loop
                at = [t for t in range(len(value)) if np.array_equal(value[t], rows)][:1]
                for t in at:
                    shifts += [
                        ("shift", f"{what} at step {t + by} of the loop", value[t + by])
                        for by in (-1, 1)
                        if 0 <= t + by < len(value)
                    ]
    return shifts[:6] + [found for _, found in sorted(near, key=lambda item: item[0])[:most]]


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


def _shifted(rows, site) -> Iterator[tuple[str, Any]]:
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


def _once(site, mine, which):
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


def truncations(place: Place, eqn: Any, steps: int, carries: int) -> Iterator[Option]:
    """Ways in which what a scan's steps hand back is cut short."""
    where, every = source(eqn), range(carries)

    def option(weights, kind, detail):
        return Option(place, weights, None, kind, detail)

    each: list[list[int]] = [[*every]] + ([[j] for j in every] if carries > 1 and steps < 33 else [])
    lengths = [*range(1, min(steps, 65)), *(2**k for k in range(7, 20) if 2**k < steps)]
    for which, n in itertools.product(each, lengths):
        kept, late = np.ones(steps), np.ones(steps)
        kept[n::n] = 0.0
        late[steps - n] = 0.0
        by = "" if len(which) == carries else f" by carry {which[0] + 1}"
        told = f"what the steps of {where} hand back{by} is cut " + (f"every {n} steps" if n > 1 else "at every step")
        yield option(dict.fromkeys(which, kept), "truncation", told)
        if n == 1:
            yield option(dict.fromkeys(which, kept), "path", told)
        last = f"only the last {n} step{'s' * (n > 1)} of {where} {'are' if n > 1 else 'is'} gone back through{by}"
        yield option(dict.fromkeys(which, late), "truncation", last)
    start = np.ones(steps)
    start[0] = 0.0
    for j in every:
        name = f"carry {j + 1}" if carries > 1 else "the carry"
        for weight, kind, what in (
            (0.0, "path", "is missing"),
            (-1.0, "sign", "has the wrong sign"),
            (2.0, "path", "counts twice"),
        ):
            yield option(
                {j: np.full(steps, weight)}, kind, f"what {name} hands back from step to step {what} in {where}"
            )
        yield option({j: start}, "path", f"what {name} hands back to its start is missing in {where}")
