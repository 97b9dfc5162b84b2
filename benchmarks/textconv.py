"""The text convolution against every plain form of it.

Operations of a step: the convolution forward, B·T'·k·S·F; backward the winners alone, twice B·k·S·F where x is trained.
"""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.timing import OURS, Work
from jaxnets import heads, textconv

SIZES = ((64, 400, 300, 3, 100), (32, 1000, 128, 5, 128), (50, 56, 300, 3, 100))
SLOW_IN_A_LOOP = frozenset(
    {"tanh before the maximum", "jax.checkpoint of the convolution", "nnx.Conv", "eqx.nn.Conv1d"}
)
TOKENS = (50, 60, 300, (3, 4, 5), 100, 18_000)  # movie reviews, as most people train them


def works(quick: bool) -> Iterator[Work]:
    for size in SIZES[2:] if quick else SIZES:
        for trained in (True,) if quick else (False, True):
            work = at(*size, trained)
            yield work._replace(alone=SLOW_IN_A_LOOP) if quick else work
    if not quick:
        yield of_tokens(*TOKENS)


def at(B: int, T: int, S: int, k: int, F: int, trained: bool) -> Work:
    params = textconv.init(jax.random.key(0), embed=S, widths=(k,), filters=F)
    x = 0.25 * jax.random.normal(jax.random.key(1), (B, T, S))
    y = jnp.arange(B) % 2
    operations = 2.0 * B * k * S * F * (T - k + 1 + (2 if trained else 1))
    return Work(
        "textconv", f"{B},{T},{S},{k},{F}", "x trained" if trained else "x fixed", operations, losses(S, k, F),
        params, (x, (y,)), trains_data=trained, others=partial(torch_steps, params, x, y, trained),
        alone=SLOW_IN_A_LOOP if T > 100 else frozenset(),  # minutes each, for the reason that lax.conv shows
    )  # fmt: skip


def of_tokens(B: int, T: int, S: int, widths: tuple[int, ...], F: int, N: int) -> Work:
    params = textconv.init(jax.random.key(0), embed=S, widths=widths, filters=F, outputs=2, vocab=N)
    x = jax.random.randint(jax.random.key(1), (B, T), 0, N)
    y = jnp.arange(B) % 2
    forms = {
        (OURS, OURS): textconv.loss,
        **{(name, "jax"): partial(plain, scores) for name, scores in FORMS.items()},
    }
    operations = 2.0 * B * S * F * sum(k * (T - k + 3) for k in widths)
    return Work("textconv", f"{B},{T},{S},3/4/5,{F}", f"table of {N}", operations, forms, params, (x, (y,)))


def losses(S: int, k: int, F: int) -> dict[tuple[str, str], Callable[..., Any]]:
    found: dict[tuple[str, str], Callable[..., Any]] = {(OURS, OURS): textconv.loss}
    found |= {(name, "jax"): partial(plain, scores) for name, scores in FORMS.items()}
    found["tanh before the maximum", "jax"] = partial(plain, convolved, tanh_first=True)
    found["jax.checkpoint of the convolution", "checkpoint"] = partial(plain, convolved, remat=True)
    if importlib.util.find_spec("flax"):
        found["nnx.Conv", "flax"] = flax_loss(S, k, F)
    if importlib.util.find_spec("equinox"):
        found["eqx.nn.Conv1d", "equinox"] = equinox_loss(S, k, F)
    return found


def convolved(w: jax.Array, U: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(w, U, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))


def unfolded(w: jax.Array, U: jax.Array) -> jax.Array:
    k, S, F = U.shape
    windows = w.shape[1] - k + 1
    return jnp.concatenate([w[:, i : i + windows] for i in range(k)], 2) @ U.reshape(k * S, F)


def shifted(w: jax.Array, U: jax.Array) -> jax.Array:
    windows = w.shape[1] - U.shape[0] + 1
    return sum((w[:, i : i + windows] @ U_i for i, U_i in enumerate(U)), jnp.zeros(()))


FORMS = {"lax.conv": convolved, "windows unfolded": unfolded, "shifted products": shifted}


def plain(scores, p, x, y, tanh_first=False, remat=False):
    w = x if p.E is None else p.E[x]

    def features(w, U, b):
        if tanh_first:
            return jnp.max(jnp.tanh(scores(w, U) + b), 1)
        return jnp.tanh(jnp.max(scores(w, U), 1) + b)

    if remat:
        features = jax.checkpoint(features)
    h = jnp.concatenate([features(w, U, b) for U, b in zip(p.U, p.b, strict=True)], 1)
    return heads.reference_loss(h @ p.V + p.c, y)


def flax_loss(S: int, k: int, F: int) -> Any:
    from flax import nnx

    structure, _, rest = nnx.split(nnx.Conv(S, F, kernel_size=(k,), padding="VALID", rngs=nnx.Rngs(0)), nnx.Param, ...)

    def loss(p, x, y):
        conv = nnx.merge(structure, nnx.State({"kernel": nnx.Param(p.U[0]), "bias": nnx.Param(p.b[0])}), rest)
        return heads.reference_loss(jnp.tanh(jnp.max(conv(x), 1)) @ p.V + p.c, y)

    return loss


def equinox_loss(S: int, k: int, F: int) -> Any:
    import equinox as eqx

    layer = eqx.nn.Conv1d(S, F, k, key=jax.random.key(0))

    def loss(p, x, y):
        conv = eqx.tree_at(lambda m: (m.weight, m.bias), layer, (p.U[0].transpose(2, 1, 0), p.b[0][:, None]))
        h = jax.vmap(lambda w: jnp.tanh(jnp.max(conv(w.T), 1)))(x)
        return heads.reference_loss(h @ p.V + p.c, y)

    return loss


def torch_steps(params: textconv.Params, x: jax.Array, y: jax.Array, trained: bool) -> dict[str, Any]:
    """With its own layout, channels first, made before the clock starts."""
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    from benchmarks.torch_peer import put, step

    k, S, F = params.U[0].shape
    conv, head = torch.nn.Conv1d(S, F, k), torch.nn.Linear(F, 1)
    put(conv, weight=params.U[0].transpose(2, 1, 0), bias=params.b[0])  # pyright: ignore[reportOptionalSubscript]
    put(head, weight=params.V[None], bias=params.c.reshape(1))  # pyright: ignore[reportOptionalMemberAccess]

    def loss(x, t):
        h = torch.tanh(conv(x).amax(2))
        return torch.nn.functional.binary_cross_entropy_with_logits(head(h)[:, 0], t)

    channels_first = jnp.swapaxes(x, 1, 2)
    return {"nn.Conv1d": step(loss, (conv, head), (channels_first, y.astype(jnp.float32)), trained)}
