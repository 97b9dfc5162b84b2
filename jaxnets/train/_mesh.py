"""A batch split over the devices of a mesh: the gradient of the whole from those of the shares, and what is where.

Parameters, the optimizer's state and the data are on every device. Each takes its share of a batch's examples, and one
sum over devices makes the gradient of the batch, the same on all of them. What a batch has beyond equal shares is
computed by every device and counted once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnets._arrays import reached, wide


def replicated(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays on every device of the mesh; without one, where JAX puts them."""
    return (
        jax.tree.map(jnp.asarray, tree) if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
    )


def copies(tree: Any) -> list[Any]:
    """A replicated tree as one on each device; any other tree as it is."""
    leaves, structure = jax.tree.flatten(tree)
    if not all(isinstance(a, jax.Array) and a.is_fully_replicated for a in leaves):
        return [tree]
    if len({frozenset(a.devices()) for a in leaves}) != 1:
        return [tree]
    return [
        structure.unflatten(each)
        for each in zip(*([s.data for s in a.addressable_shards] for a in leaves), strict=True)
    ]


def beside(data: Any, tree: Any) -> Any:
    """Data on the device that a tree of one device is on."""
    return jax.device_put(data, next(iter(jax.tree.leaves(tree)[0].devices())))


def on_all(run: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`run` on every device, with all of its arguments there; it returns what is the same on all."""
    whole = PartitionSpec()
    # What varies over devices and what does not is in our own hands: a loss of the caller's knows nothing of it.
    return jax.shard_map(run, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)


def value_and_grad(
    loss: Callable[..., jax.Array],
    params: Any,
    examples: Callable[[Any], dict[str, Any]],
    size: int,
    key: jax.Array | None,
    mesh: Mesh,
) -> tuple[jax.Array, Any]:
    """Loss and gradient of a batch of `size`, within `on_all`; `examples(places)` are those at these places of it.

    The loss is a mean over examples, or over what is scored of them (`weights`, valid steps), as ours are.
    """
    (axis,) = mesh.axis_names
    device, each, rest = lax.axis_index(axis), *divmod(size, mesh.size)
    parts = []
    if each:
        parts.append((device * each + jnp.arange(each, dtype=jnp.int32), device, 1.0))
    if rest:
        parts.append((each * mesh.size + jnp.arange(rest, dtype=jnp.int32), mesh.size, 1 / mesh.size))
    sums: Any = None
    for places, number, counted in parts:
        batch = examples(places)
        scored = counted * _scored(batch, len(places))
        if key is not None:
            batch["key"] = jax.random.fold_in(key, number)
        found = jax.value_and_grad(loss)(params, **batch)
        weighed = jax.tree.map(lambda a, by=scored: a.astype(wide(a.dtype)) * by.astype(wide(a.dtype)), found)
        sums = (weighed, scored) if sums is None else jax.tree.map(jnp.add, sums, (weighed, scored))
    (value, grads), scored = lax.psum(sums, axis)
    by = jnp.where(scored == 0, 1, scored)
    mean = jax.tree.map(lambda a: a / by.astype(a.dtype), (value, grads))
    return mean[0], jax.tree.map(lambda g, p: g.astype(p.dtype), mean[1], params)


def is_mean(loss: Callable[..., jax.Array], params: Any, data: dict[str, Any]) -> bool:
    """Whether the loss of a few examples is the mean of their halves' losses, by what is scored of each; a loss that is
    no number may be anything."""
    few = min(len(next(iter(data.values()))), 32) // 2 * 2
    parts = [slice(0, few), slice(0, few // 2), slice(few // 2, few)] if few else []
    batches = [{name: np.asarray(a[part]) for name, a in data.items()} for part in parts]  # wherever they are
    losses = np.array([float(jax.jit(loss)(params, **batch)) for batch in batches])
    if not few or not np.isfinite(losses).all():
        return True
    whole, *halves = (float(_scored(batch, len(next(iter(batch.values()))))) for batch in batches)
    return bool(np.isclose(losses[0] * whole, np.dot(losses[1:], halves), rtol=1e-3, atol=1e-6 * max(whole, 1)))


def _scored(batch: dict[str, Any], examples: int) -> jax.Array:
    """How much of the mean these examples are: their number, or that of their valid steps, or the sum of weights."""
    y, weights, lengths = batch.get("y"), batch.get("weights"), batch.get("lengths")
    scored: Any = jnp.ones(examples, jnp.float32)
    if weights is not None:
        scored = weights.astype(wide(weights.dtype) if jnp.issubdtype(weights.dtype, jnp.inexact) else jnp.float32)
    if lengths is not None and y is not None and y.ndim == 2:
        scored = (scored[:, None] if scored.ndim == 1 else scored) * reached(lengths, y.shape[1]).astype(scored.dtype)
    return jnp.sum(scored)
