"""A batch split over the devices of a mesh: the gradient of the whole from those of the shares, and what is where.

Parameters and the optimizer's state are on every device; so are the data, or each device has what it takes of the
steps at hand. Each takes its share of a batch's examples, and one sum over devices makes the gradient of the batch, the
same on all of them. What a batch has beyond equal shares is computed by every device and counted once.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnets._arrays import wide
from jaxnets.train._examples import scored_of
from jaxnets.train._keys import is_key

P = ParamSpec("P")
R = TypeVar("R")


def of_its_own_mesh(f: Callable[P, R]) -> Callable[P, R]:
    """Whatever mesh the caller has set: what trains says itself what is where."""

    @wraps(f)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.set_mesh(Mesh(np.empty((), object), ())):
            return f(*args, **kwargs)

    return called


def replicated(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays on every device of the mesh; without one, where JAX puts them."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    whole = NamedSharding(mesh, PartitionSpec())
    if not mesh.is_multi_process:
        return jax.device_put(tree, whole)

    def put(a: Any) -> jax.Array:
        if is_key(a):
            return jax.random.wrap_key_data(put(jax.random.key_data(a)), impl=jax.random.key_impl(a))
        a = np.asarray(a)
        return jax.make_array_from_callback(a.shape, whole, lambda place: a[place])

    return jax.tree.map(put, tree)


class Order(NamedTuple):
    """Which examples make which step, as numbers of what a device has of the data: its own, and those all take."""

    own: Any  # [devices, steps, each]
    rest: Any  # [steps, rest]

    def whole(self) -> np.ndarray:
        """[devices, steps, each + rest]"""
        return np.concatenate([self.own, np.broadcast_to(self.rest, (len(self.own), *self.rest.shape))], -1)


def shares(picked: np.ndarray, mesh: Mesh) -> Order:
    """Examples of steps, `[steps, batch]`, dealt to the devices."""
    steps, batch = picked.shape
    each = batch // mesh.size
    own = picked[:, : each * mesh.size].reshape(steps, mesh.size, each).swapaxes(0, 1)
    return Order(own, picked[:, each * mesh.size :])


def placed(order: Order, mesh: Mesh) -> Order:
    """On the devices: each has its own part, and the rest."""
    own = jax.make_array_from_callback(order.own.shape, _by_device(mesh), order.own.__getitem__)
    return Order(own, replicated(order.rest, mesh))


def dealt(data: dict[str, np.ndarray], order: Order, mesh: Mesh) -> tuple[dict[str, jax.Array], Order]:
    """On each device what it takes of the data, one step's after the other's, and the order that picks it; of the data
    nothing else is read, and nothing of other processes' shares."""
    examples = order.whole()
    examples = examples.reshape(len(examples), -1)

    def deal(a: np.ndarray) -> jax.Array:
        def of_device(place: Any) -> np.ndarray:
            return a[examples[place[:2]]]

        return jax.make_array_from_callback((*examples.shape, *a.shape[1:]), _by_device(mesh), of_device)

    steps, each = order.own.shape[1:]
    numbers = np.arange(examples.shape[1], dtype=np.int32).reshape(steps, -1)
    own = np.broadcast_to(numbers[:, :each], order.own.shape)
    return {name: deal(a) for name, a in data.items()}, placed(Order(own, numbers[:, each:]), mesh)


def _by_device(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def copies(tree: Any) -> list[Any]:
    """A replicated tree as one on each device of this process; any other tree as it is."""
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


def on_all(run: Callable[..., Any], mesh: Mesh, is_dealt: bool) -> Callable[..., Any]:
    """`run(state, data, order, count)` on every device, with its own order, and with all data or, as they are dealt,
    its own; it returns what is the same on all."""
    whole, own = PartitionSpec(), PartitionSpec(mesh.axis_names)

    def of_device(state: Any, data: dict[str, jax.Array], order: Order, count: Any) -> Any:
        mine = {name: a[0] for name, a in data.items()} if is_dealt else data
        return run(state, mine, Order(order.own[0], order.rest), count)

    # What varies over devices and what does not is in our own hands: a loss of the caller's knows nothing of it.
    specs = (whole, own if is_dealt else whole, Order(own, whole), whole)
    return jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)


def gathered(a: jax.Array, rest: int, mesh: Mesh) -> jax.Array:
    """Within `on_all`: what a device has of a batch, the last `rest` as all have it -> what all have of it."""
    each = len(a) - rest
    if not each:
        return a
    return jnp.concatenate([lax.all_gather(a[:each], mesh.axis_names, tiled=True), a[each:]])


def places(picked: Order, mesh: Mesh) -> jax.Array:
    """Within `on_all`: of this device's examples of a step, which of the whole batch they are."""
    each, rest = len(picked.own), len(picked.rest)
    own = lax.axis_index(mesh.axis_names) * each + jnp.arange(each, dtype=jnp.int32)
    return jnp.concatenate([own, mesh.size * each + jnp.arange(rest, dtype=jnp.int32)])


def value_and_grad(
    loss: Callable[..., jax.Array],
    params: Any,
    batch: dict[str, jax.Array],
    rest: int,
    mesh: Mesh,
) -> tuple[jax.Array, Any]:
    """Within `on_all`: loss and gradient of a batch, of which a device has its own examples and the last `rest`, which
    all have.

    The loss is a mean over examples, or over what is scored of them (`weights`, valid steps), as ours are.
    """
    each = len(next(iter(batch.values()))) - rest
    parts = [(slice(0, each), True), (slice(each, None), lax.axis_index(mesh.axis_names) == 0)]  # the rest counts once
    sums: Any = None
    for mine, counted in parts[not each : 2 if rest else 1]:
        part = {name: a[mine] for name, a in batch.items()}
        scored = jnp.where(counted, scored_of(part, len(next(iter(part.values())))), 0)
        found = jax.value_and_grad(loss)(params, **part)
        weighed = jax.tree.map(lambda a, by=scored: a.astype(wide(a.dtype)) * by.astype(wide(a.dtype)), found)
        sums = (weighed, scored) if sums is None else jax.tree.map(jnp.add, sums, (weighed, scored))
    (value, grads), scored = lax.psum(sums, mesh.axis_names)
    by = jnp.where(scored == 0, 1, scored)
    mean = jax.tree.map(lambda a: a / by.astype(a.dtype), (value, grads))
    return mean[0], jax.tree.map(lambda g, p: g.astype(p.dtype), mean[1], params)


def is_mean(loss: Callable[..., jax.Array], params: Any, data: dict[str, Any]) -> bool:
    """Whether the loss of a few examples is the mean of their halves' losses, by what is scored of each; a loss that is
    no number may be anything."""
    few = min(len(next(iter(data.values()))), 32) // 2 * 2
    parts = [slice(0, few), slice(0, few // 2), slice(few // 2, few)] if few else []
    batches = [{name: _here(a[part]) for name, a in data.items()} for part in parts]  # wherever they are
    losses = np.array([float(jax.jit(loss)(params, **batch)) for batch in batches])
    if not few or not np.isfinite(losses).all():
        return True
    whole, *halves = (float(scored_of(batch, len(next(iter(batch.values()))))) for batch in batches)
    return bool(np.isclose(losses[0] * whole, np.dot(losses[1:], halves), rtol=1e-3, atol=1e-6 * max(whole, 1)))


def _here(a: Any) -> Any:
    return a if is_key(a) else np.asarray(a)
