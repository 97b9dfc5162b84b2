"""Parts of a data set: held out, or fold by fold; the same for the same seed."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def split(n: int, held_out: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the examples to train on and of those held out (a fraction of n), both in random order.

    >>> [len(part) for part in split(10, 0.2)]
    [8, 2]
    """
    count = round(n * held_out)
    if not 0 < count < n:
        raise ValueError(f"split: held_out must leave both parts at least one of {n} examples; got {held_out}")
    order = np.random.default_rng(seed).permutation(n)
    return order[count:], order[:count]


def folds(n: int, k: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """k pairs of training and test examples; each example is in the test part of one.

    >>> [sorted(test.tolist()) for _, test in folds(4, 2)]
    [[0, 2], [1, 3]]
    """
    if not 2 <= k <= n:
        raise ValueError(f"folds: k must be within 2 … {n} (the examples); got {k}")
    parts = np.array_split(np.random.default_rng(seed).permutation(n), k)
    return [(np.concatenate([*parts[:i], *parts[i + 1 :]]), test) for i, test in enumerate(parts)]


def take(data: Mapping[str, Any], examples: np.ndarray) -> dict[str, Any]:
    """These examples of every array."""
    return {name: np.asarray(a)[examples] for name, a in data.items() if a is not None}
