"""The operations as layers of Flax and Equinox, in place of those that people write there.

    python -m benchmarks.layers

Four steps of descent in one `lax.scan`, by the library's own layer and by ours, taking turns.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from benchmarks.timing import interleaved
from jaxnets import rnn, textconv


class Text(nnx.Module):
    """Text convolution, tanh, maximum over time."""

    def __init__(self, embed: int, width: int, filters: int, *, rngs: nnx.Rngs):
        self.U = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (width, embed, filters)))
        self.b = nnx.Param(jnp.zeros(filters))

    def __call__(self, x, lengths=None):
        return textconv.max_over_time(x, self.U[...], self.b[...], lengths)


class PlainText(nnx.Module):
    def __init__(self, embed: int, width: int, filters: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(embed, filters, (width,), padding="VALID", rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(jnp.max(self.conv(x), 1))


class States(eqx.Module):
    """Tanh states of all steps."""

    U: jax.Array
    W: jax.Array
    b: jax.Array

    def __init__(self, inputs: int, hidden: int, *, key):
        params: Any = rnn.init(key, inputs, hidden, outputs=2)
        self.U, self.W, self.b = params[:3]

    def __call__(self, x, lengths=None):
        return rnn.states(x, self.U, self.W, self.b, lengths=lengths)


class PlainStates(eqx.Module):
    of_x: eqx.nn.Linear
    of_h: eqx.nn.Linear

    def __init__(self, inputs: int, hidden: int, *, key):
        self.of_x = eqx.nn.Linear(inputs, hidden, key=key)
        self.of_h = eqx.nn.Linear(hidden, hidden, use_bias=False, key=key)

    def __call__(self, x):
        def one(x):
            def step(h, x_t):
                h = jnp.tanh(self.of_x(x_t) + self.of_h(h))
                return h, h

            return lax.scan(step, jnp.zeros(self.of_h.in_features), x)[1]

        return jax.vmap(one)(x)


def descent_of_nnx(model, x):
    structure, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, x):
        return jnp.mean(nnx.merge(structure, params, rest)(x) ** 2)

    return _descent(loss, params, x)


def descent_of_equinox(model, x):
    params, static = eqx.partition(model, eqx.is_array)
    return _descent(lambda params, x: jnp.mean(eqx.combine(params, static)(x) ** 2), params, x)


def _descent(loss, params, x):
    """Four steps in one `lax.scan`, as in a training loop."""

    def run(params, x):
        def step(params, _):
            value, grads = jax.value_and_grad(loss)(params, x)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

        return lax.scan(step, params, length=4)

    compiled = jax.jit(run).lower(params, x).compile()
    return lambda: jax.block_until_ready(compiled(params, x))


def main() -> None:
    key = jax.random.key(0)
    words, steps = jax.random.normal(key, (50, 56, 300)), jax.random.normal(key, (64, 256, 128))
    pairs = {
        "nnx.Conv, max, tanh -> Text, 50,56,300,3,100": (
            descent_of_nnx(Text(300, 3, 100, rngs=nnx.Rngs(0)), words),
            descent_of_nnx(PlainText(300, 3, 100, rngs=nnx.Rngs(0)), words),
        ),
        "a scan of eqx.nn.Linear -> States, 256,64,128,256": (
            descent_of_equinox(States(128, 256, key=key), steps),
            descent_of_equinox(PlainStates(128, 256, key=key), steps),
        ),
    }
    for name, runs in pairs.items():
        times = interleaved(runs, 7, 5.0)
        (ours, plain), faster = np.median(times, 0) * 1e3, np.median(times[:, 1] / times[:, 0])
        print(f"four steps in a scan, {name}: {plain:.0f} ms -> {ours:.0f} ms, {faster:.1f} times faster")


if __name__ == "__main__":
    main()
