"""Libraries of nets and their optimizers: optax, flax, equinox."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.linen import fp8_ops
from optax import losses, projections

from benchmarks.shipped_rules._entry import Entry, normal


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

    return Entry("flax", name, f, lambda rng: (nnx.split(make())[1], *normal(shape)(rng)))


def _equinox(name: str, make: Callable[[], Any], *shape: int) -> Entry:
    """A module's arrays are arguments; what else it holds (functions, sizes) is made anew in each call."""

    def f(arrays, x):
        static = eqx.filter(eqx.filter_eval_shape(make), lambda leaf: not isinstance(leaf, jax.ShapeDtypeStruct))
        return eqx.filter_jit(eqx.combine(arrays, static))(x)

    return Entry("equinox", name, f, lambda rng: (eqx.filter(make(), eqx.is_array), *normal(shape)(rng)))


def _loop(w, x):
    """Five steps of a small recurrence, recomputed in the loop's own backward pass."""
    first, going = (jnp.array(0), x), lambda c: c[0] < 5
    return eqxi.while_loop(going, lambda c: (c[0] + 1, jnp.tanh(w @ c[1])), first, max_steps=8, kind="checkpointed")[1]


def _scan(w, xs):
    def step(h, x):
        return jnp.tanh(w @ h + x), h.sum()

    return eqxi.scan(step, jnp.zeros_like(xs[0]), xs, kind="checkpointed", checkpoints=2)


def _ctc(logits):
    """With its own log_epsilon of −1e5, the rule of logaddexp loses three digits in float32, and that is told."""
    labels, padding = jnp.array([[1, 2, 0], [3, 3, 1]]), jnp.array([[0.0, 0.0, 1.0], [0.0] * 3])
    return losses.ctc_loss(logits, jnp.zeros(logits.shape[:2]), labels, padding, log_epsilon=-50.0)


def _mlp():
    return eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(0))


def _quantised(op: Callable[..., Any], dtype: Any) -> Callable[..., Any]:
    return lambda x, scale, history: op(jnp.float32, dtype, x, scale, history)


def _fp8(rng: np.random.Generator) -> tuple:
    return jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), jnp.ones(1, jnp.float32), jnp.zeros(4, jnp.float32)


ENTRIES = [
    Entry("optax", "projection_simplex", projections.projection_simplex, normal((6,))),
    Entry("optax", "projection_l1_ball", projections.projection_l1_ball, normal((6,), scale=0.5)),
    Entry("optax", "safe_softmax_cross_entropy", losses.safe_softmax_cross_entropy, _labelled),
    Entry("optax", "sparsemax loss", lambda x: losses.multiclass_sparsemax_loss(x, jnp.arange(3)), normal((3, 4))),
    Entry("optax", "log_cosh", losses.log_cosh, normal((7,), (7,))),
    Entry("optax", "ctc_loss", _ctc, normal((2, 6, 5))),
    _linen("linen.Dense by fp8_ops.dot_general", nn.Dense(5, dot_general=fp8_ops.dot_general_with_precision), 4, 3),
    _linen("linen.Sequential with relu", nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)]), 4, 3),
    _nnx("nnx.Sequential, softplus", lambda: nnx.Sequential(nnx.Linear(3, 5, rngs=nnx.Rngs(0)), nnx.softplus), 4, 3),
    _equinox("nn.MLP under jit", _mlp, 3),
    _equinox("nn.MLP under jit and vmap", lambda: eqx.filter_vmap(_mlp()), 5, 3),
    Entry("equinox", "while_loop, checkpointed", _loop, normal((3, 3), (3,))),
    Entry("equinox", "error_if", lambda x: eqx.error_if(x, x > 100, "too large") ** 2, normal((6,))),
    Entry("equinox", "nextafter", lambda x: eqxi.nextafter(x) ** 2, normal((6,))),
    Entry("equinox", "scan, checkpointed", _scan, normal((3, 3), (4, 3))),
]

# Meant to differ from the derivative: half of the gradient; rounding passed straight through, with the new scales in
# place of the scales' gradients; an argument that must not be differentiated, which raises.
DELIBERATE = [
    Entry("optax", "scale_gradient", lambda x: optax.scale_gradient(x, 0.5), normal((6,))),
    Entry("flax", "fp8_ops.in_qdq", _quantised(fp8_ops.in_qdq, jnp.float8_e4m3fn), _fp8),
    Entry("flax", "fp8_ops.out_qdq", _quantised(fp8_ops.out_qdq, jnp.float8_e5m2), _fp8),
    Entry("equinox", "nondifferentiable", eqxi.nondifferentiable, normal((6,))),
]
