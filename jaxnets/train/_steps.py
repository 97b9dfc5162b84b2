"""Steps of descent in one jitted loop; of a table, the rows that a batch reads."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

from jaxnets.train import _mesh
from jaxnets.train._examples import abstract
from jaxnets.train._keys import Keys


class TrainState(NamedTuple):
    """Where a run stands."""

    params: Any
    optimizer: Any  # the optimizer's own state
    step: jax.Array  # [] steps done
    key: jax.Array  # of the run: order and dropout follow from it, the epoch and the step


def start(params: Any, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """A run's first state, in arrays of its own, since steps write over the state that they are given."""

    @jax.jit
    def state(params: Any, key: jax.Array) -> TrainState:
        # Copies of the optimizer's arrays, too: it may hold the parameters themselves.
        return copied(TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), key))

    return state(params, jax.random.key(seed))


@jax.jit
def copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def program_of(
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    state: TrainState,
    data: Mapping[str, Any],
    batch: int,
    keys: Keys,
) -> dict[str, str]:
    """A digest of what a step computes, from which another loss, learning rate or optimizer is told; nothing where the
    program calls back into Python, which is another in each process. Its name says what it is only comparable within:
    the same program is written differently elsewhere."""

    def step(params: Any, kept: Any, examples: dict[str, Any], key: jax.Array) -> Any:
        value, grads = jax.value_and_grad(loss)(params, **examples, **keys.of(key, batch))
        with jax.numpy_dtype_promotion("standard"):
            return value, optax.with_extra_args_support(optimizer).update(grads, kept, params, value=value)

    examples = abstract(data, batch)
    with jax.default_matmul_precision("default"):  # how products are rounded is no other loss
        text = jax.jit(step).trace(state.params, state.optimizer, examples, state.key).lower().as_text()
    if "callback" in text:
        return {}
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return {f"the loss or the optimizer (JAX {jax.__version__}, {jax.default_backend()})": digest}


def runner(
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    rows: Mapping[str, str],
    keys: Keys = Keys.NONE,
    mesh: Mesh | None = None,
    is_dealt: bool = False,
) -> Callable[[TrainState, dict[str, jax.Array], Any, Any], tuple[TrainState, jax.Array]]:
    """`state, losses = run(state, data, order, count)`: a step for each of the first `count` rows of `order
    [steps, batch]`, whose numbers pick examples of `data`; of the others the losses are zero. `rows` says which
    argument picks rows of which table, `keys` what the loss is given to draw by. On a `mesh` the order is one of
    `_mesh.placed`, or it and the data are those of `_mesh.dealt`."""
    update = optax.with_extra_args_support(optimizer).update

    def step(state: TrainState, data: dict[str, jax.Array], picked: Any) -> tuple[TrainState, jax.Array]:
        key, rest, mine = jax.random.fold_in(state.key, state.step), 0, slice(None)
        if mesh is None:
            drawn = keys.of(key, len(picked))
        else:
            rest, mine = len(picked.rest), _mesh.places(picked, mesh)
            drawn = {name: a[mine] for name, a in keys.of(key, mesh.size * len(picked.own) + rest).items()}
            picked = jnp.concatenate(picked)
        examples: dict[str, Any] = {name: _taken(a, picked) for name, a in data.items()}
        marks, read = marks_of(optimizer, state, set(rows)), {}
        for table, name in rows.items():
            tokens = examples[name] if mesh is None else _mesh.gathered(examples[name], rest, mesh)
            read[table], numbers = _rows_read(tokens, getattr(state.params, table))
            examples[name] = numbers[mine]
        small = _rows_of(state, marks, read)
        if mesh is not None:
            value, grads = _mesh.value_and_grad(loss, small.params, examples | drawn, rest, mesh)
        else:
            value, grads = jax.value_and_grad(loss)(small.params, **examples, **drawn)
        with jax.numpy_dtype_promotion("standard"):  # which optax is written for
            updates, kept = update(grads, small.optimizer, small.params, value=value)
            params = optax.apply_updates(small.params, updates)
        after = TrainState(params, kept, state.step + 1, state.key)
        won = {
            table: jnp.any(getattr(grads, table) != 0, tuple(range(1, getattr(grads, table).ndim))) for table in rows
        }
        return _rows_back(state, small, after, marks, read, won), value

    def run(state: TrainState, data: dict[str, jax.Array], order: Any, count: Any) -> tuple[TrainState, jax.Array]:
        def one(i: Any, so_far: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
            state, losses = so_far
            state, value = step(state, data, jax.tree.map(lambda a: _taken(a, i), order))
            return state, losses.at[i].set(value.astype(losses.dtype))

        losses = jnp.zeros(len(jax.tree.leaves(order)[0]), float)  # as wide as this run's numbers get
        return lax.fori_loop(0, count, one, (state, losses))  # counted at run time, so that a rest is not compiled

    return jax.jit(run if mesh is None else _mesh.on_all(run, mesh, is_dealt), donate_argnums=0)


def _taken(a: jax.Array, picked: jax.Array) -> jax.Array:
    return a.at[picked].get(mode="promise_in_bounds")


# Rows of a table: a step reads and writes those of its batch, never the table as a whole.


def _rows_read(tokens: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens -> the rows they name, each once, [R] (and N, which is no row), and the tokens as numbers among these.
    An impossible token stays one. Where its row was named last is a row's place among them: nothing need be sorted."""
    N, R, tokens = table.shape[0], tokens.size, tokens.astype(jnp.int32)
    possible = (tokens >= 0) & (tokens < N)
    if R >= N:
        return jnp.arange(N, dtype=jnp.int32), jnp.where(possible, tokens, N)
    named, places = jnp.where(possible, tokens, N).reshape(-1), jnp.arange(R, dtype=jnp.int32)
    last = jnp.zeros(N + 1, jnp.int32).at[named].max(places, mode="promise_in_bounds")
    at = last.at[named].get(mode="promise_in_bounds")
    return jnp.where(at == places, named, N), jnp.where(possible, at.reshape(tokens.shape), R)


def marks_of(optimizer: optax.GradientTransformation, state: TrainState, tables: set[str]) -> TrainState:
    """Which leaves belong to which table ("" to none): of the parameters, and of what the optimizer keeps for them."""
    none = jax.tree.map(lambda _: "", state)
    if not tables:
        return none
    of_params = none.params._replace(**{table: table for table in tables})
    of_optimizer = optax.tree_utils.tree_map_params(
        optimizer, lambda _, table: table, state.optimizer, of_params, transform_non_params=lambda _: ""
    )
    shapes = {table: getattr(state.params, table).shape for table in tables}
    kept = zip(jax.tree.leaves(state.optimizer), jax.tree.leaves(of_optimizer), strict=True)
    if any(table and a.shape != shapes[table] for a, table in kept):
        raise ValueError("what it keeps of a table has another shape")
    return none._replace(params=of_params, optimizer=of_optimizer)


def goes_row_by_row(optimizer: optax.GradientTransformation, params: Any, tables: set[str]) -> bool:
    """Whether steps, each of two rows of a few, leave the same where an optimizer sees these rows alone as where it
    sees whole tables: in the row that all of them read, and in all other parameters. Tried on a few numbers of the same
    axes."""
    rng, N, update = np.random.default_rng(0), 4, optax.with_extra_args_support(optimizer).update
    picked = np.array([[1, 3], [2, 3]] * 6)

    def few(a: Any, is_table: bool) -> np.ndarray:
        sizes = [min(n, 4) for n in a.shape]
        return rng.normal(size=[N, *sizes[1:]] if is_table else sizes).astype(np.float32)

    is_table = jax.tree.map(lambda _: False, params)._replace(**dict.fromkeys(tables, True))
    begin, slopes = (jax.tree.map(few, params, is_table) for _ in range(2))
    begin = jax.tree.map(lambda a: 1e-3 * a, begin)  # so that small steps are more than their rounding

    @partial(jax.jit, static_argnums=0)
    def after(by_rows: bool, begin: Any, slopes: Any) -> Any:
        def step(state: TrainState, two: jax.Array) -> tuple[TrainState, None]:
            read = two if by_rows else jnp.arange(N)
            named = (read[:, None] == two).any(1)
            of_tables = {
                t: jnp.einsum("r,r...->r...", named.astype(jnp.float32), getattr(slopes, t)[read]) for t in tables
            }
            places, moved = dict.fromkeys(tables, read), dict.fromkeys(tables, jnp.full(len(read), True))
            small = _rows_of(state, marks, places)
            updates, kept = update(slopes._replace(**of_tables), small.optimizer, small.params, value=1.0)
            now = TrainState(optax.apply_updates(small.params, updates), kept, state.step + 1, state.key)
            return _rows_back(state, small, now, marks, places, moved), None

        state = TrainState(begin, optimizer.init(begin), jnp.zeros((), jnp.int32), jax.random.key(0))
        marks = marks_of(optimizer, state, tables)
        return lax.scan(step, state, jnp.asarray(picked))[0].params

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        alone, whole = (jax.device_get(after(by_rows, begin, slopes)) for by_rows in (True, False))
    looked_at = [
        jax.tree.leaves(p._replace(**{table: getattr(p, table)[3] for table in tables})) for p in (alone, whole, begin)
    ]
    change = max(float(np.max(np.abs(b - c), initial=0)) for b, c in zip(*looked_at[1:], strict=True))
    room = max(1e-4 * change, 4e-9)  # the second of roundings alone
    return all(np.allclose(a, b, rtol=0, atol=room) for a, b in zip(*looked_at[:2], strict=True))


def _rows_of(state: TrainState, marks: TrainState, read: dict[str, Any]) -> TrainState:
    return jax.tree.map(lambda a, table: a.at[read[table]].get(mode="fill", fill_value=0) if table else a, state, marks)


def _rows_back(
    state: TrainState,
    small: TrainState,
    after: TrainState,
    marks: TrainState,
    read: dict[str, Any],
    won: dict[str, Any],
) -> TrainState:
    """The state with the rows that got gradient as they are after the step; the others stay, moments included."""

    def back(whole, before, now, table):
        if not table:
            return now
        stays = ~won[table].reshape((-1,) + (1,) * (whole.ndim - 1))
        return whole.at[read[table]].set(jnp.where(stays, before, now), mode="drop")

    return jax.tree.map(back, state, small, after, marks)
