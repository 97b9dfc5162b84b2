"""Programs that are run a few hundred times on small numbers: most of their time is compiling, which is kept short, and
done once for a program that was compiled before, as that of a rule which is met several times."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

_QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,  # what is small is not worth dividing
}
_MOST = 500  # programs that are kept, the latest

_programs: dict[Any, Any] = {}


def quickly(f: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit`, for programs that are small and soon done with."""
    return _once(f, _options())


def well(f: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit`, for those that may run long."""
    return _once(f, {})


def _once(f: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    # All arguments are kept, so that two programs with the same text take the same ones.
    jitted = jax.jit(f, compiler_options=options or None, keep_unused=True)
    known: dict[Any, Any] = {}

    @wraps(f)
    def run(*args):
        leaves, structure = jax.tree.flatten(args)
        if not all(isinstance(a, np.ndarray | np.generic) or _is_array(a) for a in leaves):
            return jitted(*args)
        kinds = [(a.shape, a.dtype, getattr(a, "weak_type", False), getattr(a, "sharding", None)) for a in leaves]
        key = (structure, *kinds, jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
        if key not in known:
            known[key] = _compiled(jitted.trace(*args), options)
        return known[key](*args)

    return run


def _is_array(a: Any) -> bool:
    return isinstance(a, jax.Array) and not isinstance(a, Tracer)


def _compiled(traced: Any, options: dict[str, Any]) -> Any:
    """As it was compiled before, if it was; what calls back is compiled for itself."""
    lowered = traced.lower()
    if traced.jaxpr.effects:
        return lowered.compile()
    trees = lowered.in_tree, lowered.out_tree, tuple(map(repr, traced.jaxpr.out_avals))
    key = lowered.as_text(), trees, *options
    if key not in _programs:
        while len(_programs) >= _MOST:
            _programs.pop(next(iter(_programs)))
        _programs[key] = lowered.compile()
    return _programs[key]


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
