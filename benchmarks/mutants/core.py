"""What a case of the corpus is made of, and how a wrong function is built from the right one."""

import inspect
import linecache
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Args = Callable[..., tuple[Any, ...]]  # of a generator, a dtype and a size: "small" (by default) or "large"
KINDS = frozenset(
    ("sign", "scale", "transpose", "batch", "factor", "path", "shift", "truncation", "overwrite", "tie", "place")
    + ("constant", "nan", "shape")
)


@dataclass(frozen=True)
class Subject:
    """A loss `f(*args)` and its gradients with respect to the arguments `argnums`, written by hand and right."""

    name: str
    f: Callable[..., Any]
    by_hand: Callable[..., Any]
    args: Args
    argnums: int | tuple[int, ...] = 0

    @property
    def backward(self) -> Callable[..., Any]:
        return self.by_hand


@dataclass(frozen=True)
class Derivation:
    """A loss that marks its intermediates, and a right backward pass that returns the adjoint of each line."""

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., dict[str, Any]]
    args: Args


@dataclass(frozen=True)
class Mutant:
    """One mistake in a backward function: `old`, found once in its source, becomes `new`.

    `kinds` are the causes that name the mistake rightly; `first` is the line of a derivation that is wrong in itself.
    """

    subject: Subject | Derivation
    old: str
    new: str
    kinds: set[str]
    first: str | None = None

    @property
    def name(self) -> str:
        return f"{self.subject.name}: {self.old.strip()} -> {self.new.strip() or 'nothing'}"


def make(mutant: Mutant) -> Callable[..., Any]:
    """The wrong function. Its source is kept for tracebacks, under the mutant's name."""
    right = mutant.subject.backward
    source = inspect.getsource(right)
    found = source.count(mutant.old)
    if found != 1:
        raise ValueError(f"{mutant.name}: {mutant.old!r} must occur once in {right.__name__}, found {found} times")
    wrong = source.replace(mutant.old, mutant.new)
    file = f"<{mutant.name}>"
    # no time of change, so that linecache does not look for a file and drop the lines
    linecache.cache[file] = (len(wrong), None, wrong.splitlines(keepends=True), file)
    names = dict(right.__globals__)
    exec(compile(wrong, file, "exec"), names)
    return names[right.__name__]


def sizes(size: str, *small: int) -> tuple[int, ...]:
    """The sizes as given, or ten times each."""
    return small if size == "small" else tuple(10 * n for n in small)


def draw(rng: np.random.Generator, dtype: Any, *shape: int, scale: float = 1.0) -> jax.Array:
    return jnp.asarray(scale * rng.normal(size=shape), dtype)


def weights(rng: np.random.Generator, dtype: Any, *shape: int) -> jax.Array:
    """Normal with variance 1/inputs, so that sums stay of unit size at any width."""
    return draw(rng, dtype, *shape, scale=shape[0] ** -0.5)


def grid(rng: np.random.Generator, dtype: Any, *shape: int) -> jax.Array:
    """Multiples of 1/4 in [-1, 1]: their products add up without rounding, so that planted ties are exact."""
    return jnp.asarray(rng.integers(-4, 5, shape) / 4, dtype)
