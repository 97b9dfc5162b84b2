"""Checks at the boundary: what was expected and what came, under the caller's own names.

Shapes and dtypes are known under every transformation and are always checked. Values (labels, lengths,
NaN) are checked where they are concrete; under `jit` the nets answer a bad value with NaN instead.
"""

import operator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxnets._arrays import reached, wide

FLOATS = ("float64", "float32", "bfloat16", "float16")
HALVES = ("bfloat16", "float16")
LARGEST = 2**31 - 1
MAY_BE_EMPTY = ("T",)  # a sequence of no steps has a meaning; an empty batch or layer has none


class Call:
    """The checks of one call: learns the size behind each letter from the first array that bears it."""

    def __init__(self, where: str):
        self.where = where
        self.sizes: dict[str, tuple[int, str]] = {}
        self.dtype: Any = None
        self.dtype_from = ""

    def fail(
        self, error: type[Exception], name: str, expected: str, came: Any, remedy: str = "", cause: Any = None
    ) -> NoReturn:
        raise error(f"{self.where}: {name} must be {expected}; got {came}.{remedy and ' ' + remedy}") from cause

    # Arrays: dtype and shape.

    def floats(self, name: str, value: Any, *shapes: str) -> jax.Array:
        """An array that shares its floating dtype with the call's others and fits one of `shapes`; Python's own numbers
        take that dtype."""
        a = self.array(name, value)
        self._floating(name, a)
        if self.dtype is not None and _pythons(value):
            with jax.ensure_compile_time_eval():
                a = jax.device_put(self._narrowed(name, np.asarray(value), self.dtype))
        if self.dtype is None:
            self.dtype, self.dtype_from = a.dtype, name
        elif a.dtype != self.dtype:
            self.fail(
                TypeError, name, f"{self.dtype}, the dtype of {self.dtype_from}", a.dtype, "Convert one with .astype()."
            )
        return self._fit(name, a, shapes)

    def integers(self, name: str, value: Any, *shapes: str) -> jax.Array:
        """An array of whole numbers, at least 32 bits wide so that comparing cannot overflow."""
        a = self.array(name, value)
        if not jnp.issubdtype(a.dtype, jnp.integer):
            self.fail(TypeError, name, "of an integer dtype", a.dtype, "Convert it with .astype(jnp.int32).")
        self._fit(name, a, shapes)
        return a if a.dtype.itemsize >= 4 else _converted(a, jnp.int32)

    def targets(self, name: str, value: Any, *shapes: str) -> jax.Array:
        """Targets of the logistic head or weights: integers and booleans serve, and with half-precision
        parameters a float of any width."""
        a = self.array(name, value)
        if jnp.issubdtype(a.dtype, jnp.integer) or a.dtype == jnp.bool_:
            return self._fit(name, a, shapes)
        self._floating(name, a)
        if a.dtype != self.dtype and self.dtype.name not in HALVES:
            return self.floats(name, value, *shapes)  # refuses, and names both dtypes, or takes what is Python's
        return self._fit(name, a, shapes)

    def optional(self, name: str, value: Any, *shapes: str) -> jax.Array | None:
        return None if value is None else self.floats(name, value, *shapes)

    def array(self, name: str, value: Any) -> jax.Array:
        """`value` as a JAX array: a concrete one stays concrete inside `jit`, so that its values can be checked."""
        if isinstance(value, jax.Array):
            return value
        leaves = jax.tree.leaves(value)
        if any(isinstance(leaf, np.ma.MaskedArray) for leaf in leaves):
            remedy = "Hand over .filled(…), and the mask as weights or lengths where there are such."
            self.fail(TypeError, name, "an array without a mask, which would be lost", "a masked array", remedy)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return jnp.asarray(value)
        try:
            numbers = np.asarray(value)
        except ValueError as err:  # lists of unequal length
            self._no_numbers(name, value, err)
        if (
            numbers.dtype != np.bool_
            and not np.issubdtype(numbers.dtype, np.number)
            and numbers.dtype.name not in FLOATS
        ):
            self._no_numbers(name, value)
        if not numbers.dtype.isnative:
            remedy = 'Convert it with .astype(a.dtype.newbyteorder("=")).'
            self.fail(TypeError, name, "in the byte order of this machine", numbers.dtype, remedy)
        numbers = self.narrowed(name, numbers)
        with jax.ensure_compile_time_eval():
            return jax.device_put(numbers)  # `jnp.asarray` compiles a program for each shape

    def narrowed(self, name: str, numbers: np.ndarray) -> np.ndarray:
        """As JAX will have them; refused where they do not come through."""
        remedy = 'Or switch 64 bits on with jax.config.update("jax_enable_x64", True).'
        return self._narrowed(name, numbers, jax.dtypes.canonicalize_dtype(numbers.dtype), remedy)

    def _no_numbers(self, name: str, value: Any, cause: Exception | None = None) -> NoReturn:
        came = _kind(value) + (f" of dtype {value.dtype}" if isinstance(value, np.ndarray) else "")
        self.fail(TypeError, name, "an array of numbers", came, cause=cause)

    def _narrowed(self, name: str, numbers: np.ndarray, dtype: Any, remedy: str = "") -> np.ndarray:
        """In `dtype`; refused where they do not come through."""
        with np.errstate(over="ignore"):
            came = numbers.astype(dtype, copy=False)
        if came.dtype != numbers.dtype:
            whole = np.issubdtype(came.dtype, np.integer)
            lost = numbers != came if whole else np.isfinite(numbers) & ~np.isfinite(came)
            if lost.any():
                within = f"within {8 * came.dtype.itemsize} bits"
                self.fail(ValueError, name, within, numbers[tuple(_first(lost))], remedy)
        return came

    def axes(self, name: str, value: Any) -> int:
        """How many axes it has."""
        return value.ndim if isinstance(value, jax.Array | np.ndarray) else self.array(name, value).ndim

    def arrays(self, name: str, value: Any, like: str = "", count: int = 0) -> tuple[Any, ...]:
        """A tuple (or list) of arrays; of `count` of them where another argument, `like`, says so."""
        expected = f"a tuple of {count} arrays, as {like} is" if count else "a tuple of arrays"
        if not isinstance(value, tuple | list):
            self.fail(TypeError, name, expected, _kind(value))
        if not value:
            self.fail(ValueError, name, f"{expected}, at least one", f"an empty {_kind(value)}")
        if count and len(value) != count:
            self.fail(ValueError, name, expected, f"a {_kind(value)} of {len(value)}")
        return tuple(value)

    def _floating(self, name: str, a: jax.Array) -> None:
        if a.dtype.name not in FLOATS:
            remedy = "Convert it with .astype(jnp.float32)."
            self.fail(TypeError, name, "floating (" + ", ".join(FLOATS) + ")", a.dtype, remedy)

    def _fit(self, name: str, a: jax.Array, shapes: tuple[str, ...]) -> jax.Array:
        shown = " or ".join("[" + ", ".join(s.split()) + "]" for s in shapes)
        letters = next((s.split() for s in shapes if len(s.split()) == a.ndim), None)
        if letters is None:
            self.fail(ValueError, name, f"of shape {shown}", list(a.shape))
        for letter, size in zip(letters, a.shape, strict=True):
            if size == 0 and letter == "B":
                self.fail(
                    ValueError, name, f"of shape {shown} with at least one row", f"the empty batch {list(a.shape)}"
                )
            if size == 0 and letter not in MAY_BE_EMPTY:
                self.fail(ValueError, name, f"of shape {shown} with {letter} at least 1", list(a.shape))
            known, source = self.sizes.setdefault(letter, (size, name))
            if size != known:
                self.fail(ValueError, name, f"of shape {shown} with {letter} = {known} (from {source})", list(a.shape))
        return a

    # Values: looked at only where they are concrete.

    def no_nan(self, name: str, a: jax.Array | None, valid: Any = None) -> None:
        """Refuses NaN in `a`, except where the concrete mask `valid` (leading axes of `a`) says it is never read."""
        if a is None or not _concrete(a) or not _concrete(valid):
            return
        with jax.ensure_compile_time_eval():
            bad, some = _nan(a, valid)
            if not some:
                return
        self.fail(ValueError, name, "free of NaN", f"NaN at {_first(bad)}", "Drop or fill such entries first.")

    def within(self, name: str, a: jax.Array | None, low: Any, high: Any, what: str, valid: Any = None) -> None:
        """Refuses entries of `a` outside `low … high`; `what` tells where the bounds come from."""
        if a is None or a.dtype == jnp.bool_ or not _concrete(a) or not _concrete(valid):
            return
        with jax.ensure_compile_time_eval():
            bad, some = _outside(a, low, high, valid)
            if not some:
                return
        at = _first(bad)
        self.fail(ValueError, name, f"within {low} … {high} ({what})", f"{np.asarray(a)[tuple(at)]} at {at}")

    def adds_up(self, name: str, a: jax.Array, valid: Any = None) -> None:
        """Refuses weights whose sum, or what is multiplied by it, overflows or vanishes where losses are summed."""
        if not _concrete(a) or not _concrete(valid):
            return
        kind = jnp.finfo(wide(self.dtype))
        total = float(np.sum(np.asarray(a, np.float64), where=True if valid is None else np.asarray(valid)))
        least, most = float(kind.tiny) ** 0.5, float(kind.max) ** 0.5
        if total and not least <= total <= most:
            expected = f"of a sum within {least:.0e} … {most:.0e}, or 0"
            self.fail(ValueError, name, expected, f"{total:.3g}", "Scale them: a mean does not depend on their size.")

    # Options.

    def instance(self, name: str, value: Any, kind: type) -> None:
        if not isinstance(value, kind):
            room = kind.__module__.rpartition(".")[2]
            self.fail(TypeError, name, f"a {room}.{kind.__name__}, as {room}.init makes it", _kind(value))

    def choice(self, name: str, value: Any, *options: str) -> None:
        if not (isinstance(value, str) and value in options):
            self.fail(ValueError, name, "one of " + ", ".join(map(repr, options)), repr(value))

    def flag(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            self.fail(TypeError, name, "True or False", _kind(value) if isinstance(value, Tracer) else repr(value))
        return bool(value)

    def sizes_of(self, name: str, value: Any, expected: str, least: int) -> list[int]:
        """A sequence of at least `least` sizes."""
        if not isinstance(value, tuple | list | range | np.ndarray) or np.ndim(value) != 1 or len(value) < least:
            self.fail(ValueError, name, expected, repr(value))
        return [self.size(f"{name}[{i}]", size) for i, size in enumerate(value)]

    def size(self, name: str, value: Any, least: int = 1) -> int:
        """A Python integer of at least `least`, and no more than an axis can have."""
        try:
            n = operator.index(value)
        except TypeError:
            n = None
        if n is None or isinstance(value, bool):
            self.fail(TypeError, name, "an integer", f"{value!r}, a {type(value).__name__}")
        if n < least:
            self.fail(ValueError, name, f"at least {least}", n)
        if n > LARGEST:
            self.fail(ValueError, name, f"at most {LARGEST}", n)
        return n

    def fraction(self, name: str, value: Any) -> float:
        """A Python number from 0 to below 1."""
        if isinstance(value, bool) or not isinstance(value, float | int | np.floating) or not 0 <= value < 1:
            self.fail(ValueError, name, "a number from 0 to below 1", repr(value))
        return float(value)

    def float_dtype(self, dtype: Any) -> np.dtype:
        """The dtype that `init` is asked for; float64 only where JAX can hold it."""
        try:
            d = None if dtype is None else np.dtype(dtype)
        except TypeError:
            d = None
        if d is None or d.name not in FLOATS or not d.isnative:
            self.fail(TypeError, "dtype", "one of " + ", ".join(FLOATS), repr(dtype))
        if d.name == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
            remedy = 'Switch it on with jax.config.update("jax_enable_x64", True).'
            self.fail(ValueError, "dtype", "at most 32 bits wide while jax_enable_x64 is off", d.name, remedy)
        return d

    def key(self, key: Any, rows: Any = None) -> jax.Array:
        """One key of `jax.random`, of the new style, or of the old as JAX's default generator has it; or as many as
        there are `rows`."""
        typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        old = isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32
        try:
            keys: Any = key if typed else jax.random.wrap_key_data(jnp.asarray(key)) if old else None
        except (TypeError, ValueError):
            keys = None
        if keys is None or keys.shape not in ((), (rows,))[: 1 if rows is None else 2]:
            came = f"{type(key).__name__} {getattr(key, 'shape', key)!r}"
            expected = "one key of jax.random" + ("" if rows is None else f", or one for each of {rows} rows")
            self.fail(TypeError, "key", expected, came, "Make one with jax.random.key(0).")
        return keys


# One program for each shape; op by op they would be several, and a first call in a notebook waits for each.


@jax.jit
def _nan(a: jax.Array, valid: Any) -> tuple[jax.Array, jax.Array]:
    """Where a NaN is that `valid` does not except, and whether there is any."""
    bad = jnp.isnan(a)
    if valid is not None:
        bad &= jnp.reshape(valid, valid.shape + (1,) * (a.ndim - valid.ndim))
    return bad, bad.any()


@jax.jit
def _outside(a: jax.Array, low: Any, high: Any, valid: Any) -> tuple[jax.Array, jax.Array]:
    """Where `a` is outside its bounds, and whether it is anywhere."""
    bad = (a < low) | (a > high) | (a != a)
    if valid is not None:
        bad &= valid
    return bad, bad.any()


def valid_steps(lengths: jax.Array | None, steps: int) -> Any:
    """Which steps `lengths` reach, `[B, T]`, for checking values; None where all are read. Concrete if `lengths` is."""
    if lengths is None or not _concrete(lengths):
        return lengths if lengths is None else reached(lengths, steps)
    return np.arange(steps) < np.asarray(lengths)[..., None]


def _pythons(value: Any) -> bool:
    """Whether it is a number of Python's, or lists of such, which have no dtype of their own."""
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(type(leaf) in (float, int, bool) for leaf in leaves)


def _converted(a: jax.Array, dtype: Any) -> jax.Array:
    if not _concrete(a):
        return a.astype(dtype)
    with jax.ensure_compile_time_eval():
        return a.astype(dtype)


def _concrete(a: Any) -> bool:
    return not isinstance(a, Tracer) and getattr(a, "is_fully_addressable", True)


def _first(bad: Any) -> list[int]:
    return [int(i) for i in np.argwhere(np.asarray(bad))[0]]


def _kind(value: Any) -> str:
    """The type as a user knows it; of our own containers with their room."""
    kind = type(value)
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}" if kind.__name__ == "Params" else kind.__name__
