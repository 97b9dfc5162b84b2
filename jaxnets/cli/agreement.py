"""The agreement table: every gradient of every net, by the hand-written rule, against autodiff and differences.

Truth is `jax.grad` of the net's `reference` in float64 at the same numbers. An error is the largest one of a leaf, in
units of the dtype's rounding (eps) times the leaf's largest entry. The last column holds the float64 rule against a
five-point stencil along a random direction, relative. A row is wrong if any error exceeds the limit of its column.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import dense, gated, heads, rnn, textconv

NETS = ("heads", "textconv", "rnn", "gated", "dense")
DTYPES = ("float64", "float32", "bfloat16", "float16")
LIMITS = {"float64": 64, "float32": 64, "bfloat16": 6, "float16": 6, "differences": 1e-9}  # in eps; relative


def nets(rng: np.random.Generator) -> dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]]:
    """Name -> (loss by rule, loss by autodiff of the reference, float64 arguments that have gradients)."""
    key = jax.random.key(0)
    B, T, f64 = 16, 30, jnp.float64
    lengths, tokens = rng.integers(1, T + 1, B), rng.integers(0, 50, (B, T))
    classes, each = rng.integers(0, 5, B), rng.integers(0, 5, (B, T))
    scored = jnp.asarray(np.arange(T)[None] < lengths[:, None])
    targets = rng.integers(0, 2, B)
    text = {"embed": 24, "widths": (3, 4, 5), "filters": 20, "dtype": f64}
    plain = heads.reference_loss

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape))

    cell = rnn.init(key, inputs=20, hidden=32, outputs=5, dtype=f64)
    return {
        "heads.logistic": (
            lambda h, v, c: heads.logistic(h, v, c, targets),
            lambda h, v, c: heads.reference_logistic(h, v, c, targets),
            {"h": draw(B, 40), "v": draw(40) / 6, "c": draw()},
        ),
        "heads.softmax": (
            lambda h, V, c: heads.softmax(h, V, c, classes),
            lambda h, V, c: heads.reference_softmax(h, V, c, classes),
            {"h": draw(B, 40), "V": draw(40, 5) / 6, "c": draw(5)},
        ),
        "textconv, tokens": (
            lambda params: textconv.loss(params, tokens, classes, lengths),
            lambda params: plain(textconv.reference(params, tokens, lengths), jnp.asarray(classes)),
            {"params": textconv.init(key, **text, outputs=5, vocab=50)},
        ),
        "textconv, word vectors": (
            lambda params, x: textconv.loss(params, x, targets),
            lambda params, x: plain(textconv.reference(params, x), jnp.asarray(targets)),
            {"params": textconv.init(key, **text), "x": draw(B, T, 24)},
        ),
        "rnn, last step": (
            lambda params, x, h0: rnn.loss(params, x, classes, lengths, h0),
            lambda params, x, h0: plain(rnn.reference(params, x, lengths, h0), jnp.asarray(classes)),
            {"params": cell, "x": draw(B, T, 20), "h0": draw(B, 32)},
        ),
        "rnn, every step": (
            lambda params: rnn.loss(params, tokens % 20, each, lengths, save=5),
            lambda params: plain(
                rnn.reference(params, tokens % 20, lengths, every_step=True), jnp.asarray(each), weights=scored
            ),
            {"params": cell},
        ),
        "gated": (
            lambda params, x, eta: gated.loss(params, x, eta, targets),
            lambda params, x, eta: plain(gated.reference(params, x, eta), jnp.asarray(targets)),
            {"params": gated.init(key, x=24, eta=18, hidden=30, dtype=f64), "x": draw(B, 24), "eta": draw(B, 18)},
        ),
        "dense": (
            lambda params, x: dense.loss(params, x, classes),
            lambda params, x: plain(dense.reference(params, x), jnp.asarray(classes)),
            {"params": dense.init(key, sizes=(24, 40, 30, 5), dtype=f64), "x": draw(B, 24)},
        ),
    }


def rows(of: Collection[str] = NETS, seed: int = 0) -> Iterator[dict[str, Any]]:
    """One row a net and leaf: errors by dtype in eps, of float64 against differences, and whether all are right."""
    with _precise():
        drawn = nets(np.random.default_rng(seed))
    for net, (rule, plain, args) in drawn.items():
        if net.split(".")[0].split(",")[0] not in of:
            continue
        with _precise():  # not around a yield, which would hand the setting on to whoever takes the row
            true = jax.jit(jax.grad(lambda a, plain=plain: plain(**a)))  # compiled once for all dtypes
            by_hand = jax.jit(jax.grad(lambda a, rule=rule: rule(**a)))
            errors = {dtype: _errors(by_hand, true, args, jnp.dtype(dtype)) for dtype in DTYPES}
            differences = _differences(rule, by_hand(args), args, seed)
        for leaf in errors["float64"]:
            row = {dtype: errors[dtype][leaf] for dtype in DTYPES} | {"differences": differences[leaf]}
            right = all(row[column] <= limit for column, limit in LIMITS.items())  # NaN is not
            yield {"net": net, "leaf": leaf, **row, "right": right}


@contextlib.contextmanager
def _precise() -> Iterator[None]:
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


def table(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The rows as lines of text."""
    yield f"JAX {jax.__version__} on {jax.devices()[0].device_kind}; errors in eps of each dtype"
    yield f"{'net':<24}{'gradient of':<14}" + "".join(f"{dtype:>10}" for dtype in DTYPES) + f"{'differences':>13}"
    wrong, net = 0, ""
    for row in rows:
        wrong += not row["right"]
        name, net = (row["net"] if row["net"] != net else ""), row["net"]
        figures = "".join(f"{row[dtype]:>10.2f}" for dtype in DTYPES) + f"{row['differences']:>13.1e}"
        yield f"{name:<24}{row['leaf']:<14}{figures}" + ("" if row["right"] else "  WRONG")
    yield "all right" if not wrong else f"{wrong} wrong"


def _errors(by_hand: Callable[..., Any], true: Callable[..., Any], args: Any, dtype: Any) -> dict[str, float]:
    rounded = jax.tree.map(lambda a: np.asarray(a).astype(dtype), args)
    got, want = by_hand(rounded), true(jax.tree.map(lambda a: a.astype(np.float64), rounded))

    def error(g, t):
        g, t = np.asarray(g).astype(np.float64), np.asarray(t)
        return float(np.max(np.abs(g - t)) / np.max(np.abs(t)) / float(jnp.finfo(dtype).eps))

    return _by_name(jax.tree.map(error, got, want))


def _differences(rule: Callable[..., Any], grads: Any, args: Any, seed: int, step: float = 1e-3) -> dict[str, float]:
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, args))
    rng = np.random.default_rng(seed)
    f = jax.jit(lambda leaves: rule(**jax.tree.unflatten(structure, leaves)))

    def error(i, grad):
        direction = rng.normal(size=grad.shape)
        direction = direction / np.sqrt(np.sum(direction**2))
        at = [
            float(f([a + d * step * direction if j == i else a for j, a in enumerate(leaves)])) for d in (-2, -1, 1, 2)
        ]
        slope = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)
        return float(abs(slope - np.vdot(grad, direction)) / np.sqrt(np.sum(grad**2)))

    grads = jax.tree.leaves(jax.tree.map(np.asarray, grads))
    return _by_name(jax.tree.unflatten(structure, [error(i, g) for i, g in enumerate(grads)]))


def _by_name(tree: Any) -> dict[str, Any]:
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path)[2:].replace("']", "", 1): leaf for path, leaf in paths}
