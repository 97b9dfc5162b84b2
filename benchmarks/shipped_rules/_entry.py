"""What an entry of the list is, and how its arguments are drawn: away from kinks, and from where a series is cut."""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Draw = Callable[[np.random.Generator], tuple]


class Entry(NamedTuple):
    library: str
    name: str
    f: Callable[..., Any]
    args: Draw
    right: bool = True  # else a mistake of the library's, which must be found


def normal(*shapes: tuple[int, ...], scale: float = 1.0) -> Draw:
    return lambda rng: tuple(jnp.asarray(rng.normal(scale=scale, size=shape)) for shape in shapes)


def between(*ranges: tuple[float, float], size: int = 7) -> Draw:
    return lambda rng: tuple(jnp.asarray(rng.uniform(low, high, size)) for low, high in ranges)


def matrix(*shape: int) -> Draw:
    """A matrix far from singular, so that its determinant and inverse have derivatives of ordinary size."""
    return lambda rng: (jnp.asarray(rng.normal(size=shape) / 2 + 2 * np.eye(shape[-2], shape[-1])),)


def positive(n: int, *more: tuple[int, ...]) -> Draw:
    """A positive definite matrix, and arrays of further shapes."""

    def args(rng: np.random.Generator) -> tuple:
        a = rng.normal(size=(n, n))
        return jnp.asarray(a @ a.T / n + np.eye(n)), *normal(*more)(rng)

    return args


def rules_in(f: Callable[..., Any], args: tuple) -> list[str]:
    """The rules that `f(*args)` meets, those inside other rules too, in the order met and each once."""
    found: dict[str, None] = {}

    def walk(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            if eqn.primitive.name.startswith(("custom_jvp_call", "custom_vjp_call")):
                found[_label(eqn)] = None
            for value in eqn.params.values():
                for inner in _inner(value):
                    walk(inner)

    walk(jax.make_jaxpr(f)(*args).jaxpr)
    return list(found)


def _inner(value: Any) -> Iterator[Any]:
    """Every jaxpr in an equation's parameter; newer versions of JAX no longer wrap them in a ClosedJaxpr."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _inner(item)
    elif hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield from _inner(value.jaxpr)


def _label(eqn: Any) -> str:
    """`relu (custom_jvp, functions.py)`: the decorated function as its library names it."""
    info = eqn.params["call_jaxpr"].debug_info
    file = info.func_src_info.rpartition(" at ")[2].rpartition(":")[0]
    return f"{info.func_name} ({eqn.primitive.name.removesuffix('_call')}, {os.path.basename(file)})"
