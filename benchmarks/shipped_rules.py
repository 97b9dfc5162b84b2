"""The rules that other libraries ship: every `custom_jvp` and `custom_vjp` that a call meets, judged one by one.

    python -m benchmarks.shipped_rules [--json]

JAX, optax, flax and equinox are long in use, so a rule called wrong here is most likely a false alarm of the checker.
Arguments are drawn away from kinks. `DELIBERATE` holds the rules that are meant to differ from the derivative; they
are no part of the run. Exit code 1 if a rule of `SHIPPED` is not found right.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.linen import fp8_ops
from jax.experimental.ode import odeint
from jax.scipy import special, stats
from optax import losses, projections


class Entry(NamedTuple):
    library: str
    name: str
    f: Callable[..., Any]
    args: Callable[[np.random.Generator], tuple]


def _inner(value: Any) -> Iterator[Any]:
    """Every jaxpr in an equation's parameter; newer versions of JAX no longer wrap them in a ClosedJaxpr."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _inner(item)
    elif hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield from _inner(value.jaxpr)


def _label(eqn: Any) -> str:
    """`relu (custom_jvp, functions.py)`: the decorated function as its library names it."""
    info = eqn.params["call_jaxpr"].debug_info
    file = info.func_src_info.rpartition(" at ")[2].rpartition(":")[0]
    return f"{info.func_name} ({eqn.primitive.name.removesuffix('_call')}, {os.path.basename(file)})"


def rules_in(f: Callable[..., Any], args: tuple) -> list[str]:
    """The rules that `f(*args)` meets, those inside other rules too, in the order met and each once."""
    found: dict[str, None] = {}

    def walk(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            if eqn.primitive.name.startswith(("custom_jvp_call", "custom_vjp_call")):
                found[_label(eqn)] = None
            for value in eqn.params.values():
                for inner in _inner(value):
                    walk(inner)

    walk(jax.make_jaxpr(f)(*args).jaxpr)
    return list(found)


def _normal(*shapes: tuple[int, ...], scale: float = 1.0) -> Callable[[np.random.Generator], tuple]:
    return lambda rng: tuple(jnp.asarray(rng.normal(scale=scale, size=shape)) for shape in shapes)


def _between(*ranges: tuple[float, float], size: int = 7) -> Callable[[np.random.Generator], tuple]:
    return lambda rng: tuple(jnp.asarray(rng.uniform(low, high, size)) for low, high in ranges)


def _matrix(*shape: int) -> Callable[[np.random.Generator], tuple]:
    """A matrix far from singular, so that its determinant and inverse have derivatives of ordinary size."""
    return lambda rng: (jnp.asarray(rng.normal(size=shape) / 2 + 2 * np.eye(shape[-2], shape[-1])),)


def _labelled(rng: np.random.Generator) -> tuple:
    """Logits and labels; none is exactly 0, for which the loss has a special case."""
    return jnp.asarray(rng.normal(size=(5, 4))), jnp.asarray(rng.dirichlet(np.ones(4), 5))


def _linen(name: str, module: nn.Module, *shape: int) -> Entry:
    def args(rng):
        x = jnp.asarray(rng.normal(size=shape))
        return module.init(jax.random.key(int(rng.integers(1000))), x), x

    return Entry("flax", name, module.apply, args)


def _nnx(name: str, make: Callable[[], nnx.Module], *shape: int) -> Entry:
    def f(state, x):
        return nnx.merge(nnx.split(nnx.eval_shape(make))[0], state)(x)

    return Entry("flax", name, f, lambda rng: (nnx.split(make())[1], *_normal(shape)(rng)))


def _equinox(name: str, make: Callable[[], Any], *shape: int) -> Entry:
    """A module's arrays are arguments; what else it holds (functions, sizes) is made anew in each call."""

    def f(arrays, x):
        static = eqx.filter(eqx.filter_eval_shape(make), lambda leaf: not isinstance(leaf, jax.ShapeDtypeStruct))
        return eqx.filter_jit(eqx.combine(arrays, static))(x)

    return Entry("equinox", name, f, lambda rng: (eqx.filter(make(), eqx.is_array), *_normal(shape)(rng)))


def _softmax(x):
    with jax.softmax_custom_jvp(True):  # off by default: the softmax without a rule
        return jax.nn.softmax(x)


def _newton(a):
    """The square root of `a` as a root found by Newton's steps; the rule differentiates through the solution only."""

    def solve(g, x):
        return jax.lax.fori_loop(0, 30, lambda _, x: x - g(x) / (2 * x), x)

    return jax.lax.custom_root(lambda x: x * x - a, jnp.ones_like(a) * 2, solve, lambda g, y: y / g(jnp.ones_like(y)))


def _loop(w, x):
    """Five steps of a small recurrence, recomputed in the loop's own backward pass."""
    first, going = (jnp.array(0), x), lambda c: c[0] < 5
    return eqxi.while_loop(going, lambda c: (c[0] + 1, jnp.tanh(w @ c[1])), first, max_steps=8, kind="checkpointed")[1]


def _scan(w, xs):
    def step(h, x):
        return jnp.tanh(w @ h + x), h.sum()

    return eqxi.scan(step, jnp.zeros_like(xs[0]), xs, kind="checkpointed", checkpoints=2)


def _ctc(logits):
    labels = jnp.array([[1, 2, 0], [3, 3, 1]])
    return losses.ctc_loss(logits, jnp.zeros(logits.shape[:2]), labels, jnp.array([[0.0, 0.0, 1.0], [0.0] * 3]))


def _mlp():
    return eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(0))


def _odeint(y, k):
    return odeint(lambda y, t, k: jnp.stack([y[1], -k * jnp.sin(y[0])]), y, jnp.linspace(0.0, 1.0, 4), k)


_OLD = jax.__version_info__ < (0, 12)  # two functions of JAX had rules until then
SHIPPED: list[Entry] = [
    Entry("jax", "nn.relu", jax.nn.relu, _normal((6, 4))),
    Entry("jax", "nn.relu6", jax.nn.relu6, _normal((6, 4), scale=5)),
    Entry("jax", "nn.softplus", jax.nn.softplus, _normal((6, 4))),
    Entry("jax", "nn.softmax, with its rule", _softmax, _normal((6, 4))),
    Entry("jax", "nn.log1mexp", jax.nn.log1mexp, _between((0.1, 3))),
    Entry("jax", "numpy.logaddexp2", jnp.logaddexp2, _normal((7,), (7,))),
    Entry("jax", "numpy.i0", jnp.i0, _normal((7,))),
    Entry("jax", "numpy.linalg.slogdet, 2×2", jnp.linalg.slogdet, _matrix(3, 2, 2)),
    Entry("jax", "numpy.linalg.slogdet", jnp.linalg.slogdet, _matrix(2, 4, 4)),
    Entry("jax", "numpy.linalg.slogdet by qr", lambda a: jnp.linalg.slogdet(a, method="qr"), _matrix(4, 4)),
    Entry("jax", "numpy.linalg.det", jnp.linalg.det, _matrix(4, 4)),
    Entry("jax", "numpy.linalg.pinv", jnp.linalg.pinv, _matrix(5, 3)),
    Entry("jax", "scipy.special.logit", special.logit, _between((0.1, 0.9))),
    Entry("jax", "scipy.special.entr", special.entr, _between((0.1, 2))),
    Entry("jax", "scipy.special.log_ndtr", special.log_ndtr, _normal((7,))),
    Entry("jax", "scipy.special.zeta", special.zeta, _between((2, 4), (1, 3))),
    Entry("jax", "scipy.special.expi", special.expi, _between((0.5, 3))),
    Entry("jax", "scipy.special.sici", special.sici, _between((0.5, 3))),
    Entry("jax", "scipy.special.poch", special.poch, _between((1, 3), (1, 3))),
    Entry("jax", "scipy.special.hyp1f1", special.hyp1f1, _between((1, 2), (2, 3), (0.2, 0.8), size=3)),
    Entry("jax", "scipy.special.owens_t", special.owens_t, _normal((7,), (7,))),
    Entry("jax", "scipy.special.fresnel", special.fresnel, _between((0.2, 3))),  # near 0 autodiff of its series is NaN
    Entry("jax", "scipy.stats.beta.logpdf", stats.beta.logpdf, _between((0.2, 0.8), (1.5, 3), (1.5, 3))),
    *([Entry("jax", "numpy.sinc", jnp.sinc, _normal((7,)))] if _OLD else []),
    Entry("optax", "projection_simplex", projections.projection_simplex, _normal((6,))),
    Entry("optax", "projection_l1_ball", projections.projection_l1_ball, _normal((6,), scale=0.5)),
    Entry("optax", "safe_softmax_cross_entropy", losses.safe_softmax_cross_entropy, _labelled),
    Entry("optax", "sparsemax loss", lambda x: losses.multiclass_sparsemax_loss(x, jnp.arange(3)), _normal((3, 4))),
    Entry("optax", "log_cosh", losses.log_cosh, _normal((7,), (7,))),
    Entry("optax", "ctc_loss", _ctc, _normal((2, 6, 5))),
    _linen("linen.Dense by fp8_ops.dot_general", nn.Dense(5, dot_general=fp8_ops.dot_general_with_precision), 4, 3),
    _linen("linen.Sequential with relu", nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)]), 4, 3),
    _nnx("nnx.Sequential, softplus", lambda: nnx.Sequential(nnx.Linear(3, 5, rngs=nnx.Rngs(0)), nnx.softplus), 4, 3),
    _equinox("nn.MLP under jit", _mlp, 3),
    _equinox("nn.MLP under jit and vmap", lambda: eqx.filter_vmap(_mlp()), 5, 3),
    Entry("equinox", "while_loop, checkpointed", _loop, _normal((3, 3), (3,))),
    Entry("equinox", "error_if", lambda x: eqx.error_if(x, x > 100, "too large") ** 2, _normal((6,))),
    Entry("equinox", "nextafter", lambda x: eqxi.nextafter(x) ** 2, _normal((6,))),
]


def _quantised(op: Callable[..., Any], dtype: Any) -> Callable[..., Any]:
    return lambda x, scale, history: op(jnp.float32, dtype, x, scale, history)


def _fp8(rng: np.random.Generator) -> tuple:
    return jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), jnp.ones(1, jnp.float32), jnp.zeros(4, jnp.float32)


# Meant to differ from the derivative: half of the gradient; rounding passed straight through, with the new scales in
# place of the scales' gradients; an argument that must not be differentiated, which raises; an adjoint equation
# solved anew, which agrees with the derivative of the computed solution to the solver's tolerance only; a root whose
# derivative is given to the equation's constants, where that of the iteration comes by the solver's; and a loop's
# buffer for its results, whose first content is never read, and whose gradient nobody asks for.
DELIBERATE: list[Entry] = [
    Entry("optax", "scale_gradient", lambda x: optax.scale_gradient(x, 0.5), _normal((6,))),
    Entry("flax", "fp8_ops.in_qdq", _quantised(fp8_ops.in_qdq, jnp.float8_e4m3fn), _fp8),
    Entry("flax", "fp8_ops.out_qdq", _quantised(fp8_ops.out_qdq, jnp.float8_e5m2), _fp8),
    Entry("equinox", "nondifferentiable", eqxi.nondifferentiable, _normal((6,))),
    Entry("jax", "experimental.ode.odeint", _odeint, _normal((2,), (), scale=0.7)),
    *([Entry("jax", "lax.custom_root", _newton, _between((1, 3)))] if _OLD else []),
    Entry("equinox", "scan, checkpointed", _scan, _normal((3, 3), (4, 3))),
]


def main() -> int:
    from jaxnets import check

    parser = argparse.ArgumentParser(description="Judge the custom derivative rules that other libraries ship.")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    as_json, rows = parser.parse_args().json, []
    if not as_json:
        print(f"{'library':9}{'function':38}{'seconds':>8}  {'verdict':24}  rules met")
    for number, entry in enumerate(SHIPPED):
        start, args = time.perf_counter(), entry.args(np.random.default_rng(number))
        rules = rules_in(entry.f, args)
        try:
            report = check.rules(entry.f, args)
            verdict = "right" if report.ok else f"wrong: {report.first}" if report.first else "not decided"
            verdict = verdict if rules else "no rule met"
        except Exception as error:  # one that cannot be checked must not hide the others
            verdict = f"failed: {type(error).__name__}: {error}"
        row = {"library": entry.library, "function": entry.name, "rules": rules, "verdict": verdict}
        rows.append({**row, "seconds": round(time.perf_counter() - start, 2)})
        if not as_json:
            seconds = rows[-1]["seconds"]
            print(f"{entry.library:9}{entry.name:38}{seconds:8.2f}  {verdict:24}  {', '.join(rules)}", flush=True)
    if as_json:
        print(json.dumps(rows, indent=1))
    return int(any(row["verdict"] != "right" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
