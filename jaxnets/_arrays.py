"""What every room computes with: products summed in float32 or wider, rows picked by number, device axes."""

from collections.abc import Callable
from functools import wraps
from itertools import takewhile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec, auto_axes, use_abstract_mesh


def compiled(f: Callable[..., Any], *, static: tuple[int, ...] = (), rows: int | None = None) -> Callable[..., Any]:
    """What the nets compute with. Called as it is, as in a notebook, it is one program, compiled once for each size; in
    a `jit` of the caller's it is as if it stood there.

    Where axes of a mesh are explicit, as `jax.make_mesh` makes them, the compiler chooses within: what comes out is
    split over devices as the leading axes of argument number `rows` are.
    """

    def on_any_mesh(*args):
        shardings = [
            jax.typeof(a).sharding for k in set(range(len(args))) - set(static) for a in jax.tree.leaves(args[k])
        ]
        mesh = next((s.mesh for s in shardings if AxisType.Explicit in s.mesh.axis_types), None)
        if rows is None or mesh is None:
            return f(*args)
        data = jax.typeof(jax.tree.leaves(args[rows])[0])
        dynamic = [k for k in range(len(args)) if k not in static]

        def called(*given):
            full = list(args)
            for k, value in zip(dynamic, given, strict=True):
                full[k] = value
            return f(*full)

        given = [args[k] for k in dynamic]
        out = jax.eval_shape(called, *jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), given))
        split = jax.tree.map(lambda a: _split_as(data, a.shape), out)
        with use_abstract_mesh(mesh):
            return auto_axes(called, out_sharding=split)(*given)

    return jax.jit(wraps(f)(on_any_mesh), static_argnums=static, inline=True)


def _split_as(data: Any, shape: tuple[int, ...]) -> PartitionSpec:
    """Over which axes of the mesh a result's axes are split, those that it shares with the data."""
    leading = zip(shape, data.shape, data.sharding.spec, strict=False)
    shared = takewhile(lambda axis: axis[0] == axis[1], leading)
    return PartitionSpec(*(over for _, _, over in shared))


def is_known(*sizes: Any) -> bool:
    """Whether each is a number, and none a symbol that stands for any size, as under `jax.export`."""
    return all(isinstance(n, int | np.integer) for n in sizes)


def wide(dtype: Any) -> Any:
    """The dtype of sums: float32 for the half precisions, else the dtype itself."""
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a @ b` for a matrix or vector `b`; the result stays in the dtype that it was summed in."""
    if a.dtype != b.dtype:  # a wide adjoint meets a half-precision array
        a, b = a.astype(wide(a.dtype)), b.astype(wide(b.dtype))
    return lax.dot_general(a, b, (((a.ndim - 1,), (0,)), ((), ())), preferred_element_type=wide(a.dtype))


def rows(table: jax.Array, ids: jax.Array) -> jax.Array:
    """`table[ids]`, and rows of NaN for numbers outside the table (negative ones do not count from the end)."""
    table = jnp.asarray(table)  # under `jax.grad` an array of NumPy's comes as it is
    return table.at[_outside_is_beyond(table.shape[0], ids)].get(mode="fill", fill_value=jnp.nan)


def add_rows(table: jax.Array, ids: jax.Array, values: jax.Array) -> jax.Array:
    """`table[i] += value` for each pair; equal numbers accumulate, numbers outside the table are dropped."""
    return table.at[_outside_is_beyond(table.shape[0], ids)].add(values, mode="drop")


def _outside_is_beyond(size: int, ids: jax.Array) -> jax.Array:
    """Numbers outside the table, negative or too wide for 32 bits, as the first number beyond it."""
    return jnp.where((ids < 0) | (ids >= size), jnp.full_like(ids, size), ids).astype(jnp.int32)


def nan_unless(known: Any, a: jax.Array) -> jax.Array:
    """`a`, and NaN where it is not `known`. A root makes it, there alone: where jit is off `jax_debug_nans` stops at a
    constant of NaN, be it chosen or not."""
    return jnp.where(known, a, jnp.sqrt(jnp.where(known, 1, -1).astype(a.dtype)))


def reached(lengths: jax.Array, steps: int) -> jax.Array:
    """Which of the steps 0 … steps−1 each length covers, `[…, steps]`."""
    shape = (*lengths.shape, steps)
    return lax.broadcasted_iota(lengths.dtype, shape, lengths.ndim) < jnp.broadcast_to(lengths[..., None], shape)


def normal(key: jax.Array, shape: tuple[int, ...], inputs: int, dtype: Any) -> jax.Array:
    """Weights of variance 1/inputs, drawn wide so that a half-precision net starts where its float32 twin does."""
    return (jax.random.normal(key, shape, wide(dtype)) / inputs**0.5).astype(dtype)


def orthogonal(key: jax.Array, size: int, dtype: Any) -> jax.Array:
    """A random orthogonal matrix, uniform over all of them: QR of a normal one, with the signs that make R's diagonal
    positive, since QR alone leaves them to the library that computes it."""
    Q, R = jnp.linalg.qr(jax.random.normal(key, (size, size), wide(dtype)))
    return (Q * jnp.where(jnp.diagonal(R) < 0, -1, 1).astype(Q.dtype)[None]).astype(dtype)


def on_cpu() -> bool:
    """Will what is traced now run on a CPU? Told by the default device; it decides about cost, never about values."""
    config: Any = jax.config
    device = config.jax_default_device  # a device, a platform's name, or None
    return (getattr(device, "platform", device) or jax.default_backend()) == "cpu"


def on_same_axes(*args: Any) -> tuple[Any, ...]:
    """The arguments, every array marked as varying over each mesh axis that any of them varies over.

    Inside `shard_map` a rule must return cotangents that vary as its inputs do. Marking a replicated
    parameter here, outside the rule, makes JAX insert the sum over devices, once, where the mark is transposed.
    """
    axes = frozenset().union(*(_varying(a) for a in jax.tree.leaves(args)))

    def mark(a: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - _varying(a)))
        return lax.pcast(a, missing, to="varying") if missing else a

    return jax.tree.map(mark, args)


def zeros(shape: tuple[int, ...], dtype: Any, like: jax.Array) -> jax.Array:
    """Zeros that vary over the mesh axes `like` varies over, fit to start a scan's carry."""
    return on_same_axes(jnp.zeros(shape, dtype), like)[0]


def _varying(a: jax.Array) -> frozenset[str]:
    kind = jax.typeof(a)
    if hasattr(kind, "mat"):  # where the axes of one array stand together
        return kind.mat.varying
    return getattr(kind, "vma", frozenset())
