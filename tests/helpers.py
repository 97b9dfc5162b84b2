"""What the tests share: the one table of tolerances, and how numbers are drawn and compared."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = {"float64": jnp.float64, "float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}

# Largest error of a leaf, relative to the leaf's largest entry, in units of the dtype's rounding (eps): room for sums
# of up to a hundred terms. The halves sum in float32 but round every value that they keep.
TOLERANCE_EPS = {"float64": 64, "float32": 64, "bfloat16": 6, "float16": 6}
# Derivatives by differences are exact only as far as their step allows.
NUMERIC_TOLERANCE = 1e-9


def eps(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps)


def tolerance(dtype: Any, terms: int = 100) -> float:
    """For sums of up to `terms` products; rounding errors of longer ones grow like the root of their length."""
    return TOLERANCE_EPS[jnp.dtype(dtype).name] * eps(dtype) * max(1.0, (terms / 100) ** 0.5)


def named_leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def as_float64(tree: Any) -> Any:
    return jax.tree.map(lambda a: np.asarray(a).astype(np.float64), tree)


def nudged(rng: np.random.Generator, tree: Any, by: float) -> Any:
    """Each number larger or smaller by that share of itself, at random."""
    return jax.tree.map(lambda a: a * (1 + by * rng.choice([-1.0, 1.0], np.shape(a))), tree)


def leaf_errors(got: Any, want: Any, scales: dict[str, float] | None = None) -> dict[str, float]:
    """Per leaf: the largest error relative to the largest entry wanted, or to `scales` where that is more; NaN and
    infinity count as infinite error."""
    got, want = named_leaves(as_float64(got)), named_leaves(as_float64(want))
    assert got.keys() == want.keys(), f"leaves differ: {got.keys()} against {want.keys()}"
    errors = {}
    for name, g in got.items():
        w = want[name]
        assert g.shape == w.shape, f"{name}: shape {g.shape} against {w.shape}"
        scale = max(np.max(np.abs(w), initial=0), scales[name] if scales else 0)
        error = np.max(np.abs(g - w), initial=0) / (scale or 1.0)
        errors[name] = float(error) if np.isfinite(error) else np.inf
    return errors


def assert_close(got: Any, want: Any, limit: float, scales: dict[str, float] | None = None) -> None:
    wrong = {name: e for name, e in leaf_errors(got, want, scales).items() if not e <= limit}
    assert not wrong, f"beyond {limit:.2g}: {wrong}"


def assert_same(got: Any, want: Any) -> None:
    """To the last bit, dtypes included; NaN equals NaN."""
    got, want = named_leaves(got), named_leaves(want)
    assert got.keys() == want.keys()
    for name, g in got.items():
        assert g.dtype == want[name].dtype, name
        np.testing.assert_array_equal(np.asarray(g), np.asarray(want[name]), err_msg=name)


def normal_like(rng: np.random.Generator, tree: Any) -> Any:
    """Random cotangents: Gaussian, of each leaf's shape and dtype."""
    return jax.tree.map(lambda a: jax.device_put(rng.normal(size=a.shape).astype(a.dtype)), tree)


def make_params(rng: np.random.Generator, params: Any) -> Any:
    """`params` with every leaf, biases too, drawn so that no unit saturates and no gradient is zero."""
    return jax.tree.map(lambda a: jax.device_put((0.5 * rng.normal(size=a.shape)).astype(a.dtype)), params)
