"""Data as a loss takes them: arrays by the names of its arguments, examples along the first axis."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets._arrays import reached, wide
from jaxnets._shapes import Call

_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def buckets_of(call: Call, name: str, f: Callable[..., Any], data: Any) -> list[dict[str, Any]]:
    """A tuple, a dict, or a list of these -> a dict for each bucket, without what is None."""
    if not isinstance(data, list):
        return [_named(call, name, f, data)]
    if not data:
        call.fail(ValueError, name, "a list of at least one bucket", "an empty list")
    return [_named(call, f"{name}[{i}]", f, bucket) for i, bucket in enumerate(data)]


def _named(call: Call, name: str, f: Callable[..., Any], data: Any) -> dict[str, Any]:
    parameters = list(inspect.signature(f).parameters.values())[1:]
    takes = [p.name for p in parameters if p.kind in _BY_PLACE]
    if not isinstance(data, Mapping):
        if not isinstance(data, tuple) or len(data) > len(takes):
            expected = f"a tuple of at most {len(takes)} ({', '.join(takes)}), or a dict of the arguments of the loss"
            remedy = "A list is a list of buckets." if name.endswith("]") else ""
            call.fail(TypeError, name, expected, f"a {type(data).__name__}", remedy)
        data = dict(zip(takes, data, strict=False))
    found = {k: _array(call, f"{name}[{k!r}]", a) for k, a in data.items() if a is not None}
    if "weights" in found and bool((found["weights"] < 0).any()):
        call.fail(ValueError, f"{name}['weights']", "at least 0", "negative ones")
    known = {p.name for p in parameters}
    if not any(p.kind == p.VAR_KEYWORD for p in parameters) and (unknown := set(found) - known):
        call.fail(TypeError, name, f"a dict of arguments of the loss ({', '.join(known)})", f"{min(unknown)!r} too")
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in (*_BY_PLACE, p.KEYWORD_ONLY)]
    if lacking := [n for n in needed if n not in found and n != "key"]:
        call.fail(
            TypeError, name, f"data for all that the loss needs ({', '.join(needed)})", f"none for {lacking[0]!r}"
        )
    sizes = {k: a.shape[0] if a.ndim else 0 for k, a in found.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        call.fail(ValueError, name, "arrays of one number of examples, at least one", sizes)
    return found


def _array(call: Call, name: str, value: Any) -> Any:
    """An array as it is, of JAX or NumPy (a file of it is not read); what JAX would change in silence is refused."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.ma.MaskedArray):
        call.array(name, value)  # refuses it
    a = np.asarray(value)
    if a.dtype.kind in "OSUMm":
        call.fail(TypeError, name, "an array of numbers", f"an array of {a.dtype.name}")
    if not a.dtype.isnative:
        call.array(name, a[:0])  # refuses it
    if not isinstance(value, np.memmap):
        call.narrowed(name, a)
    return a


def size(bucket: Mapping[str, Any]) -> int:
    """How many examples."""
    return len(next(iter(bucket.values())))


def abstract(data: Mapping[str, Any], examples: int) -> dict[str, Any]:
    """The shapes and dtypes of a batch, as JAX has them."""
    return {
        name: jax.ShapeDtypeStruct((examples, *np.shape(a)[1:]), jax.dtypes.canonicalize_dtype(a.dtype))
        for name, a in data.items()
    }


def scored_of(batch: dict[str, Any], examples: int) -> jax.Array:
    """How much of the mean these examples are: their number, or that of their valid steps, or the sum of weights."""
    y, weights, lengths = batch.get("y"), batch.get("weights"), batch.get("lengths")
    scored: Any = jnp.ones(examples, jnp.float32)
    if weights is not None:
        scored = weights.astype(wide(weights.dtype) if jnp.issubdtype(weights.dtype, jnp.inexact) else jnp.float32)
    if lengths is not None and y is not None and y.ndim == 2:
        scored = (scored[:, None] if scored.ndim == 1 else scored) * reached(lengths, y.shape[1]).astype(scored.dtype)
    return jnp.sum(scored)
