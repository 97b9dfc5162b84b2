"""How good a net is on data that it may never have seen: loss, accuracy, area under the curve; by batches."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np

_TARGETS = ("y", "weights")  # what a loss reads and a prediction does not


def scores(
    loss: Callable[..., jax.Array],
    predict: Callable[..., jax.Array] | None,
    params: Any,
    data: Mapping[str, Any],
    batch: int = 1024,
) -> dict[str, float]:
    """`loss`, its mean over examples (over batches, weighted by their size); with `predict` also `accuracy` (over valid
    steps where a target stands at every step) and, for one output, `auc`."""
    total, count = 0.0, 0
    for piece, size in _batches(data, batch):
        total, count = total + float(_jitted(loss)(params, **piece)) * size, count + size
    found = {"loss": total / count}
    if predict is None:
        return found
    probabilities, y = predictions(predict, params, data, batch), np.asarray(data["y"])
    one_output = probabilities.ndim == y.ndim
    right = ((probabilities > 0.5) == (y > 0.5)) if one_output else probabilities.argmax(-1) == y
    if y.ndim == 2 and data.get("lengths") is not None:
        right = right[np.arange(y.shape[1]) < np.asarray(data["lengths"])[:, None]]
    found["accuracy"] = float(right.mean())
    if one_output and y.ndim == 1 and 0 < (y > 0.5).mean() < 1:
        found["auc"] = auc(y > 0.5, probabilities)
    return found


def predictions(
    predict: Callable[..., jax.Array], params: Any, data: Mapping[str, Any], batch: int = 1024
) -> np.ndarray:
    """`predict` of everything in `data` but targets and weights, as one NumPy array."""
    inputs = {name: a for name, a in data.items() if name not in _TARGETS}
    return np.concatenate([np.asarray(_jitted(predict)(params, **piece)) for piece, _ in _batches(inputs, batch)])


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


@lru_cache(maxsize=64)
def _jitted(f: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(f)


def _batches(data: Mapping[str, Any], batch: int) -> Iterator[tuple[dict[str, Any], int]]:
    data = {name: a for name, a in data.items() if a is not None}
    n = len(next(iter(data.values())))
    for first in range(0, n, batch):
        yield {name: a[first : first + batch] for name, a in data.items()}, min(batch, n - first)
