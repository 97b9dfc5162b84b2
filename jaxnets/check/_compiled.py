"""Programs that are run a few hundred times on small numbers: most of their time is compiling, which is kept short."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax

_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def quickly(f: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit`, for programs that are small and soon done with."""
    return jax.jit(f, compiler_options=_options())


@cache
def _options() -> dict[str, Any]:
    """Those of the options that this version of XLA knows; without them all is the same, and slower."""
    return {name: value for name, value in _QUICK.items() if _is_known(name, value)}


def _is_known(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value})()
    except jax.errors.JaxRuntimeError:
        return False
    return True
