"""How good a net is on data that it may never have seen: loss, accuracy, area under the curve; by batches."""

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxnets._shapes import Call
from jaxnets.train._examples import buckets_of, size
from jaxnets.train._mesh import beside, copies
from jaxnets.train._processes import all_of


def scores(
    loss: Callable[..., jax.Array],
    predict: Callable[..., jax.Array] | None,
    params: Any,
    data: Any,
    batch: int = 1024,
) -> dict[str, float]:
    """`loss`, its mean over examples (over batches, weighted by their size); with `predict` also `accuracy` (over valid
    steps where a target stands at every step) and, for one output, `auc`. Data as for `fit`, the targets called `y`."""
    call = Call("scores")
    buckets = buckets_of(call, "data", loss, data)
    batch, compiled, total = call.size("batch", batch), jax.jit(loss), 0.0
    for bucket in buckets:
        for value, piece in _each(compiled, params, bucket, batch):
            total += float(value) * size(piece)
    if _everywhere(params):
        total = float(all_of(np.array(total)).sum())
    found = {"loss": total / sum(map(size, buckets))}
    if predict is None:
        return found
    rights, ys, ps = [], [], []
    for bucket in buckets:
        if "y" not in bucket:
            call.fail(ValueError, "data", "data with targets y, for accuracy", f"only {', '.join(bucket)}")
        p, y = predictions(predict, params, bucket, batch), np.asarray(bucket["y"])
        right = ((p > 0.5) == (y > 0.5)) if p.ndim == y.ndim else p.argmax(-1) == y
        if y.ndim == 2 and "lengths" in bucket:
            right = right[np.arange(y.shape[1]) < np.asarray(bucket["lengths"])[:, None]]
        rights.append(right.reshape(-1))
        if p.ndim == y.ndim == 1:
            ys.append(y > 0.5)
            ps.append(p)
    found["accuracy"] = float(np.concatenate(rights).mean())
    if ys and 0 < (y := np.concatenate(ys)).mean() < 1:
        found["auc"] = auc(y, np.concatenate(ps))
    return found


def predictions(
    predict: Callable[..., jax.Array], params: Any, data: Mapping[str, Any], batch: int = 1024
) -> np.ndarray:
    """`predict` of a dict of data, as one NumPy array. What `predict` does not take, such as targets, is left out."""
    takes = list(inspect.signature(predict).parameters)[1:]
    inputs = {name: a for name, a in data.items() if name in takes and a is not None}
    parts = [np.asarray(found) for found, _ in _each(jax.jit(predict), params, inputs, batch)]
    if not _everywhere(params):
        return np.concatenate(parts)
    like = jax.eval_shape(predict, copies(params)[0], **next(_batches(inputs, batch)))
    rounds = -(-size(inputs) // (batch * jax.process_count()))
    mine = np.zeros((rounds, batch, *like.shape[1:]), like.dtype)
    for into, part in zip(mine, parts, strict=False):
        into[: len(part)] = part
    return all_of(mine).swapaxes(0, 1).reshape(-1, *mine.shape[2:])[: size(inputs)]


def auc(y: Any, score: Any) -> float:
    """Area under the ROC curve: how often a positive one scores above a negative one, a tie counting half.

    >>> auc([0, 1, 0, 1], [0.1, 0.9, 0.9, 0.8])
    0.625
    """
    y, score = np.asarray(y, bool), np.asarray(score, np.float64)
    positive, negative = np.sort(score[y]), np.sort(score[~y])
    if not len(positive) or not len(negative):
        raise ValueError("auc: y must have both a positive and a negative one")
    below, up_to = (np.searchsorted(negative, positive, side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(negative))


def _each(
    f: Callable[..., jax.Array], params: Any, data: Mapping[str, Any], batch: int
) -> Iterator[tuple[jax.Array, dict[str, Any]]]:
    """`f` of each batch, in order, and the batch; parameters on several devices are all at work, those of several
    processes by turns."""
    there, waiting = copies(params), deque()
    mine = slice(jax.process_index(), None, jax.process_count()) if _everywhere(params) else slice(None)
    for i, piece in enumerate(_batches(data, batch, mine)):
        one = there[i % len(there)]
        waiting.append((f(one, **(beside(piece, one) if len(there) > 1 else piece)), piece))
        if len(waiting) > len(there):
            yield waiting.popleft()
    yield from waiting


def _everywhere(params: Any) -> bool:
    """Whether they are on devices of several processes, which all score then."""
    return any(isinstance(a, jax.Array) and not a.is_fully_addressable for a in jax.tree.leaves(params))


def _batches(data: Mapping[str, Any], batch: int, which: slice = slice(None)) -> Iterator[dict[str, Any]]:
    for first in range(0, size(data), batch)[which]:
        yield {name: a[first : first + batch] for name, a in data.items()}
