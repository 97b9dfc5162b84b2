"""How good a net is on data that it may never have seen: loss, accuracy, area under the curve; by batches."""

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxnets._shapes import Call
from jaxnets.train._examples import buckets_of, scored_of, size
from jaxnets.train._mesh import beside, copies
from jaxnets.train._processes import all_of


def scores(
    loss: Callable[..., jax.Array],
    predict: Callable[..., jax.Array] | None,
    params: Any,
    data: Any,
    batch: int = 1024,
) -> dict[str, float]:
    """`loss`, its mean over examples, over valid steps if there is a target at each, or by `weights`, whatever the
    size of batches; with `predict` also `accuracy` over the same and, for one output, `auc`. Data as for `fit`, the
    targets called `y`."""
    call = Call("scores")
    buckets = buckets_of(call, "data", loss, data)
    batch, compiled, counted = call.size("batch", batch), jax.jit(loss), jax.jit(scored_of, static_argnums=1)
    sums = np.zeros(2)
    for bucket in buckets:
        for value, piece in _each(compiled, params, bucket, batch):
            scored = float(counted({k: piece[k] for k in ("y", "weights", "lengths") if k in piece}, size(piece)))
            sums += (float(value) * scored, scored) if scored else (0, 0)
    if _everywhere(params):
        sums = all_of(sums).reshape(-1, 2).sum(0)
    found = {"loss": float(sums[0] / (sums[1] or 1))}
    if predict is None:
        return found
    check_predict(call, "data", predict, buckets)
    rights, ys, ps, by = [], [], [], []
    for bucket in buckets:
        if "y" not in bucket:
            call.fail(ValueError, "data", "data with targets y, for accuracy", f"only {', '.join(bucket)}")
        p, y = predictions(predict, params, bucket, batch), np.asarray(bucket["y"])
        rights.append((((p > 0.5) == (y > 0.5)) if p.ndim == y.ndim else p.argmax(-1) == y).reshape(-1))
        by.append(_weights(bucket, y).reshape(-1))
        if p.ndim == y.ndim == 1:
            ys.append(y > 0.5)
            ps.append(p)
    weights = np.concatenate(by)
    found["accuracy"] = float(np.concatenate(rights) @ weights / (weights.sum() or 1))
    if ys and 0 < (y := np.concatenate(ys)) @ weights < weights.sum():
        found["auc"] = auc(y, np.concatenate(ps), weights)
    return found


def check_predict(call: Call, name: str, predict: Callable[..., Any], buckets: list[dict[str, Any]]) -> None:
    """Refuses data that lack what `predict` needs."""
    parameters = list(inspect.signature(predict).parameters.values())[1:]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for bucket in buckets:
        if lacking := [n for n in needed if n not in bucket]:
            expected = f"data for all that predict needs ({', '.join(needed)})"
            call.fail(TypeError, name, expected, f"none for {lacking[0]!r}")


def _weights(bucket: Mapping[str, Any], y: np.ndarray) -> np.ndarray:
    """How much each target counts: by `weights`, and only where a step is valid."""
    weights = np.asarray(bucket.get("weights", np.ones(len(y))), np.float64)
    weights = np.broadcast_to(weights.reshape(weights.shape + (1,) * (y.ndim - weights.ndim)), y.shape)
    if y.ndim == 2 and "lengths" in bucket:
        return np.where(np.arange(y.shape[1]) < np.asarray(bucket["lengths"])[:, None], weights, 0)
    return weights


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


def auc(y: Any, score: Any, weights: Any = None) -> float:
    """Area under the ROC curve: how often a positive one scores above a negative one, a tie counting half; by
    `weights`, if there are any.

    >>> auc([0, 1, 0, 1], [0.1, 0.9, 0.9, 0.8])
    0.625
    """
    y, score = np.asarray(y, bool), np.asarray(score, np.float64)
    weights = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(score[~y])
    negative, up_to = score[~y][order], np.concatenate([[0.0], np.cumsum(weights[~y][order])])
    of_pairs = weights[y].sum() * up_to[-1]
    if not of_pairs:
        raise ValueError("auc: y must have both a positive and a negative one")
    below = sum(up_to[np.searchsorted(negative, score[y], side)] for side in ("left", "right"))
    return float(weights[y] @ below / 2 / of_pairs)


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
