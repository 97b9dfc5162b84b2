"""The homework's own check: central differences against the hand-written gradient of the text convolution.

    python -m benchmarks.homework

Width 2, 100 filters, one sentence with target 1, weights and word vectors from N(0, 0.01²), step 1e-4, float64: the sum
of squared differences over all of V, and over U at the winning slots (with one sentence, all of U).
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import textconv

STEP = 1e-4


def sums_of_squared_differences(words: int = 10, embed: int = 50, filters: int = 100) -> tuple[float, float]:
    """(for V, for U), at the first draw in which no winner changes within a step."""
    draws = (_draw(np.random.default_rng(seed), words, embed, filters) for seed in itertools.count())
    x, params = next(draw for draw in draws if _winners_are_clear(*draw))
    y = jnp.ones(1)
    grads = jax.grad(textconv.loss)(params, x, y)

    @jax.jit
    def slopes(params):
        leaves, structure = jax.tree.flatten(params)

        def slope(i, unit):
            def at(distance):
                moved = [leaf + distance * unit if j == i else leaf for j, leaf in enumerate(leaves)]
                return textconv.loss(jax.tree.unflatten(structure, moved), x, y)

            return (at(STEP) - at(-STEP)) / (2 * STEP)

        def all_slopes(i, leaf):
            units = jnp.arange(leaf.size)
            one_hot = jax.vmap(lambda n: jax.nn.one_hot(n, leaf.size, dtype=leaf.dtype).reshape(leaf.shape))
            return jax.lax.map(lambda n: slope(i, one_hot(n[None])[0]), units, batch_size=100).reshape(leaf.shape)

        return jax.tree.unflatten(structure, [all_slopes(i, leaf) for i, leaf in enumerate(leaves)])

    numeric = slopes(params)
    return float(jnp.sum((grads.V - numeric.V) ** 2)), float(jnp.sum((grads.U[0] - numeric.U[0]) ** 2))


def _draw(rng: np.random.Generator, words: int, embed: int, filters: int) -> tuple[jax.Array, textconv.Params]:
    def draw(*shape):
        return jnp.asarray(0.01 * rng.normal(size=shape))

    x = draw(1, words, embed)
    return x, textconv.Params(E=None, U=(draw(2, embed, filters),), b=None, V=draw(filters), c=None)


def _winners_are_clear(x: jax.Array, params: textconv.Params) -> bool:
    """No entry of U, moved by a step, lets another window win: the differences are those of one smooth function."""
    words, U = np.asarray(x[0]), np.asarray(params.U[0])
    windows = np.stack([words[t : t + 2].ravel() for t in range(len(words) - 1)])
    scores = np.sort(windows @ U.reshape(-1, U.shape[2]), axis=0)
    return (scores[-1] - scores[-2]).min() > 2 * STEP * np.abs(words).max()


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    of_V, of_U = sums_of_squared_differences()
    print(f"sum of squared differences, V: {of_V:.1e}")
    print(f"sum of squared differences, U: {of_U:.1e}")


if __name__ == "__main__":
    main()
