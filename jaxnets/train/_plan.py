"""How an epoch is cut into steps, and these into pieces; what of the data is where when a piece is computed."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxnets._chunks import near_divisor
from jaxnets._shapes import Call
from jaxnets.train import _processes
from jaxnets.train._examples import size
from jaxnets.train._mesh import Order, dealt, placed, replicated, shares

TURN = 16  # about so many steps of one bucket before another has its turn


class Pieces(NamedTuple):
    """How much is done at once, which decides nothing but time and memory."""

    at_once: int | None = None  # steps at most between two visits of Python; an epoch, or a bucket's turn, if None
    budget: int = 2**30  # bytes of data that are put on a device as a whole; of more, blocks of half as much


class Plan(NamedTuple):
    """How an epoch is cut: a bucket into steps, its steps into turns between those of other buckets, and these into
    pieces. The pieces decide nothing but when Python is visited."""

    sizes: list[int]  # examples of each bucket
    batches: list[int]  # of a step
    turns: list[int]  # steps of a turn
    pieces_of: list[int]  # steps of a piece
    mesh: Mesh | None = None
    deals: bool = False  # whether each device has its share of the data alone

    @property
    def steps(self) -> int:
        return sum(n // b for n, b in zip(self.sizes, self.batches, strict=True))

    def pieces(self, buckets: list[dict[str, Any]], key: jax.Array, epoch: int, done: int) -> Iterator["Piece"]:
        """Steps with their data on the devices, without the `done` first steps of the epoch."""
        key = jax.random.fold_in(key, epoch)
        orders, turns = [], []
        for i, (n, batch, length) in enumerate(zip(self.sizes, self.batches, self.turns, strict=True)):
            order = np.asarray(_permutation(key, i, n))[: n // batch * batch].reshape(-1, batch)
            orders.append(order)
            turns += [(i, first, min(first + length, len(order))) for first in range(0, len(order), length)]
        for turn in _permutation(key, len(buckets), len(turns)).tolist():
            i, first, end = turns[turn]
            skipped = min(done, end - first)
            done -= skipped
            for at in range(first + skipped, end, self.pieces_of[i]):
                picked = orders[i][at : min(at + self.pieces_of[i], end)]
                yield self._piece(buckets[i], picked, min(self.pieces_of[i], self.turns[i]))

    def _piece(self, bucket: dict[str, Any], picked: np.ndarray, length: int) -> "Piece":
        """All pieces of a bucket have one length on the device, and so one program; not all its rows are steps."""
        order = np.concatenate([picked, np.broadcast_to(picked[:1], (length - len(picked), picked.shape[1]))])
        if self.mesh is not None:
            order = shares(order, self.mesh)
            there = dealt(bucket, order, self.mesh) if self.deals else (bucket, placed(order, self.mesh))
            return Piece(bucket, picked, *there)
        if all(isinstance(a, jax.Array) for a in bucket.values()):
            return Piece(bucket, picked, bucket, jax.device_put(order))
        block = {name: a[order.reshape(-1)] for name, a in bucket.items()}
        return Piece(bucket, picked, *jax.device_put((block, np.arange(order.size).reshape(order.shape))))


@partial(jax.jit, static_argnums=2)
def _permutation(key: jax.Array, number: int, n: int) -> jax.Array:
    return jax.random.permutation(jax.random.fold_in(key, number), n)


class Piece(NamedTuple):
    """Steps between two visits of Python."""

    bucket: dict[str, Any]
    picked: np.ndarray  # examples of the bucket, [steps, batch]
    data: dict[str, jax.Array]  # on the devices, as the runner takes them
    order: jax.Array | Order  # of the picked, and some more rows


def plan_of(call: Call, buckets: list[dict[str, Any]], batch: int, at: Pieces, mesh: Mesh | None) -> Plan:
    """Puts data within the budget on the device, unless several processes have a share each."""
    if not isinstance(at, Pieces):
        call.fail(TypeError, "pieces", "a train.Pieces, as train.Pieces(budget=2**30) is", type(at).__name__)
    budget = call.size("budget", at.budget)
    sizes = [size(bucket) for bucket in buckets]
    batches = [min(batch, n) for n in sizes]
    steps = [n // b for n, b in zip(sizes, batches, strict=True)]
    turns = steps if len(buckets) == 1 else [near_divisor(s, min(TURN, s)) for s in steps]
    most = max(steps) if at.at_once is None else call.size("at_once", at.at_once)
    bytes_ = [sum(a.nbytes for a in bucket.values()) for bucket in buckets]
    whole, several = sum(bytes_) <= budget, _processes.several(mesh)
    if whole and not several:
        for bucket in buckets:
            bucket.update({name: replicated(a, mesh) for name, a in bucket.items()})
    elif mesh is not None:
        for bucket in buckets:
            bucket.update({name: np.asarray(a) for name, a in bucket.items()})
    if whole:
        return Plan(sizes, batches, turns, [most] * len(sizes), mesh, several)
    of_device = [b if mesh is None else b // mesh.size + b % mesh.size for b in batches]
    room = [budget // 2 * n // (b * held) for n, b, held in zip(sizes, of_device, bytes_, strict=True)]
    return Plan(sizes, batches, turns, [max(min(most, r), 1) for r in room], mesh, mesh is not None)
