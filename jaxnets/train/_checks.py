"""What is refused before the first step, and what is found out once a loss is no number."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxnets._shapes import Call
from jaxnets.train._keys import Keys, is_key
from jaxnets.train._mesh import is_mean
from jaxnets.train._steps import TrainState, goes_row_by_row, marks_of, start


def checked_mesh(call: Call, mesh: Mesh | None) -> Mesh | None:
    """With axes of the automatic kind: parameters that come out are then arrays like others."""
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh):
        expected = 'a mesh of devices, as jax.make_mesh((2,), ("batch",)) is'
        call.fail(TypeError, "mesh", expected, type(mesh).__name__)
    if len(mesh.axis_names) != 1:
        call.fail(ValueError, "mesh", "a mesh of one axis", f"axes {', '.join(map(str, mesh.axis_names))}")
    if mesh.is_multi_process and {d.process_index for d in mesh.devices.flat} != set(range(jax.process_count())):
        expected = "a mesh of devices of every process, or of this one alone"
        call.fail(ValueError, "mesh", expected, f"one of some of the {jax.process_count()} processes")
    return Mesh(mesh.devices, mesh.axis_names)


def check_loss_on_mesh(call: Call, loss: Callable[..., Any], params: Any, data: dict[str, Any], keys: Keys) -> None:
    """Shares of a batch must make the whole, whatever is drawn for them."""
    if keys is Keys.ONE:
        expected = "one that takes a key for each example, an array [batch], where there is a mesh"
        remedy = "Draw for each, as jax.vmap(lambda one: jax.random.bernoulli(one, 0.5, [H]))(key) does."
        call.fail(TypeError, "loss", expected, "one that takes one key for a batch", remedy)
    if not is_mean(loss, params, data | keys.of(jax.random.key(0), len(next(iter(data.values()))))):
        expected = "a mean over examples, over valid steps, or by weights, where there is a mesh"
        call.fail(
            ValueError, "loss", expected, "another kind of loss (the halves of a batch do not add up to the whole)"
        )


def check_params(call: Call, params: Any) -> None:
    """Modules of other libraries hold more than arrays, which is to be parted from them."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        numbers = isinstance(leaf, jax.Array | np.ndarray | np.generic | float) and not is_key(leaf)
        if not numbers or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            came = f"{type(leaf).__name__} at {jax.tree_util.keystr(path) or 'the top'}"
            remedy = "Part them from the rest, as equinox.partition or flax.nnx.split do."
            call.fail(TypeError, "params", "a pytree of floating arrays", came, remedy)


def started(call: Call, params: Any, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    try:
        return start(params, optimizer, seed)
    except (AttributeError, TypeError, ValueError) as error:
        call.fail(TypeError, "optimizer", "one that can begin from params", f"one that fails ({error})", cause=error)


def check_optimizer(call: Call, optimizer: optax.GradientTransformation, state: TrainState) -> None:
    update = optax.with_extra_args_support(optimizer).update
    with jax.numpy_dtype_promotion("standard"):
        try:
            jax.eval_shape(lambda p, kept: update(p, kept, p, value=jnp.zeros(())), state.params, state.optimizer)
        except (AttributeError, TypeError, ValueError) as error:
            expected = "one that asks for no more than gradients, parameters and the loss"
            call.fail(TypeError, "optimizer", expected, f"one that needs more ({error})", cause=error)


def check_rows(
    call: Call, rows: dict[str, str], state: TrainState, optimizer: optax.GradientTransformation, buckets: list[Any]
) -> None:
    for table, name in rows.items():
        if table not in getattr(state.params, "_fields", ()) or getattr(state.params, table) is None:
            call.fail(ValueError, "rows", "a dict from arrays of params (a NamedTuple)", repr(table))
        if any(name not in b or b[name].dtype.kind not in "iu" for b in buckets):
            call.fail(ValueError, "rows", f"a dict to arguments of whole numbers ({', '.join(buckets[0])})", repr(name))
    if not rows:
        return
    try:
        marks_of(optimizer, state, set(rows))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"fit: rows: this optimizer does not keep what it keeps row by row ({error})") from error
    if any(map(_gathers, jax.tree.leaves(state.optimizer, is_leaf=_gathers))):
        raise ValueError("fit: rows: an optimizer that gathers gradients over steps needs the whole table")
    if not goes_row_by_row(optimizer, state.params, set(rows)):
        raise ValueError("fit: rows: what this optimizer does to a row depends on the others; it needs the whole table")


def _gathers(node: Any) -> bool:
    return isinstance(node, optax.MultiStepsState | optax.ApplyEvery)


def refuse_bad_data(
    name: str, loss: Callable[..., Any], params: Any, data: Mapping[str, Any], numbers: np.ndarray, keys: Keys
) -> None:
    """Under `jit` a bad label makes a loss NaN; outside, a loss of ours refuses it. Which of the examples of these
    `numbers` it is, is found by halves."""

    def refused(numbers: np.ndarray) -> ValueError | None:
        try:
            loss(params, **{n: a[numbers] for n, a in data.items()}, **keys.of(jax.random.key(0), len(numbers)))
        except ValueError as error:
            return error
        return None

    together = refused(numbers)
    if together is None:
        return
    while len(numbers) > 1:
        half = len(numbers) // 2
        numbers = numbers[:half] if refused(numbers[:half]) else numbers[half:]
    alone = refused(numbers)
    if alone is None:
        raise together
    raise ValueError(f"fit: example {numbers[0]} of {name}, on its own: {alone}") from alone
