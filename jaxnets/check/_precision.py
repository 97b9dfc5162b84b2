"""Float64, whatever the caller's precision; and how precise a program is."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.check import _walk
from jaxnets.check._names import is_floating


@contextlib.contextmanager
def double() -> Iterator[None]:
    """Float64, whatever the caller's settings say, and JAX's ordinary promotions."""
    narrow = not jax.config.read("jax_enable_x64")
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        token = _NARROW.set(_NARROW.get() or narrow)
        try:
            yield
        finally:
            _NARROW.reset(token)


# Whether the caller's own settings know no 64-bit numbers.
_NARROW = contextvars.ContextVar("narrow", default=False)


def as_float64(leaf: Any) -> Any:
    """A floating leaf in float64, of the kind that it was (NumPy or JAX); anything else as it is.

    But integers of 64 bits become what the caller's settings make of them: programs that JAX keeps of theirs would else
    be found again outside, by callers whose integers have 32.
    """
    if isinstance(leaf, np.ndarray) and leaf.dtype in (np.int64, np.uint64) and _NARROW.get():
        return leaf.astype(np.int32 if leaf.dtype == np.int64 else np.uint32)
    is_complex = jnp.issubdtype(getattr(leaf, "dtype", np.int64), jnp.complexfloating)
    if not (is_floating(leaf) or is_complex) or isinstance(leaf, float):
        return leaf
    wide = np.asarray(leaf).astype(np.complex128 if is_complex else np.float64)
    return jax.device_put(wide) if isinstance(leaf, jax.Array) else wide


def narrowest(program: Any) -> float:
    """The eps of the narrowest float that a program computes with."""
    floats = [v.aval.dtype for s in _walk.sites(program) for v in s.eqn.outvars if _walk.is_float(v)]
    return max([float(jnp.finfo(d).eps) for d in floats], default=0.0)
