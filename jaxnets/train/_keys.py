"""What a loss draws, for dropout say: each step has a key of its own, and each example in it another."""

import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.train._examples import abstract


class Keys(Enum):
    """What a loss takes as its `key`."""

    NONE = "nothing"
    ONE = "one for a batch"
    EACH = "one for each example"  # so that it does not matter which device an example is on

    def of(self, key: Any, examples: int) -> dict[str, Any]:
        """The argument, if it takes any."""
        if self is Keys.NONE:
            return {}
        return {"key": key if self is Keys.ONE else jax.random.split(key, examples)}


def keys_of(loss: Callable[..., Any], params: Any, data: Mapping[str, Any], batch: int) -> Keys:
    """Told by trying: `jax.random` refuses an array of keys where one is expected."""
    if "key" not in inspect.signature(loss).parameters:
        return Keys.NONE
    examples = abstract(data, batch) | {"key": jax.random.split(jax.random.key(0), batch)}
    try:
        jax.eval_shape(lambda params, examples: loss(params, **examples), params, examples)
    except (TypeError, ValueError):
        return Keys.ONE
    return Keys.EACH


def needs_key(loss: Callable[..., Any]) -> bool:
    """Whether it can do nothing without, as validation has none."""
    key = inspect.signature(loss).parameters.get("key")
    return key is not None and key.default is key.empty


def is_key(a: Any) -> bool:
    """Whether it is an array of keys, which is no array of numbers."""
    return isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
