"""Rules that a function applies as it runs. Those under a `grad`, `jvp` or `vjp` of its own leave no equation."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from jax.core import Tracer

_SAMPLES = 2  # of the values that a rule is applied to


class Applied(NamedTuple):
    """A function with a rule, as a function of the arrays that it is handed, and samples of these."""

    function: Callable[..., Any]
    samples: list[list[np.ndarray]]


@contextlib.contextmanager
def applied() -> Iterator[list[Applied]]:
    """Watches functions with rules being called within transformations; once it is left, the list is whole."""
    found: dict[Any, Applied] = {}
    lock = threading.Lock()

    def watched(original):
        def called(rule, *args, **kwargs):
            leaves, structure = jax.tree.flatten((args, kwargs))
            traced = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Tracer)]
            if traced:
                key = rule, structure, tuple((k, leaves[k].shape, leaves[k].dtype) for k in traced)
                if key not in found:
                    found[key] = Applied(_with(rule, structure, leaves, traced), [])
                    jax.debug.callback(lambda *values: keep(key, values), *(leaves[k] for k in traced))
            return original(rule, *args, **kwargs)

        return called

    def keep(key, values):
        with lock:
            if len(found[key].samples) < _SAMPLES:
                found[key].samples.append([np.array(v) for v in values])

    calls: list[Applied] = []
    with contextlib.ExitStack() as watching:
        for kind in (jax.custom_vjp, jax.custom_jvp):
            watching.enter_context(mock.patch.object(kind, "__call__", watched(kind.__call__)))
        yield calls
    jax.effects_barrier()
    calls += [call for call in found.values() if call.samples]


def _with(rule: Any, structure: Any, leaves: list[Any], traced: list[int]) -> Callable[..., Any]:
    """The call as a function of what was traced in it."""
    known = [None if k in traced else leaf for k, leaf in enumerate(leaves)]

    def function(*values):
        full = list(known)
        for k, value in zip(traced, values, strict=True):
            full[k] = value
        args, kwargs = jax.tree.unflatten(structure, full)
        return rule(*args, **kwargs)

    return function
