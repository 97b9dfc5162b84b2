"""The nets as the commands see them: what each is made of, trained by and asked with; one table."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnets import dense, gated, heads, rnn, textconv


class Net(NamedTuple):
    """What one net differs in."""

    module: ModuleType
    task: str  # the built-in data it is trained on where none are named
    own: dict[str, Any]  # options that are sizes or dropout, which not every net has; with their defaults
    usual: dict[str, Any]  # defaults of the options that all have


NETS = {
    "rnn": Net(
        rnn,
        "digits",
        {"hidden": 128},
        {"epochs": 40, "batch": 32, "rate": 2e-3, "schedule": "onecycle", "clip": 1.0, "decay": 1e-3},
    ),
    "textconv": Net(
        textconv,
        "docs",
        {"filters": 100, "widths": (3, 4, 5), "embed": 100, "drop": 0.5},
        {"epochs": 12, "batch": 50, "rate": 1e-3, "schedule": "constant", "clip": 0.0, "decay": 0.0},
    ),
    "gated": Net(
        gated,
        "cancer",
        {"hidden": 16},
        {"epochs": 60, "batch": 32, "rate": 5e-3, "schedule": "constant", "clip": 1.0, "decay": 0.1},
    ),
    "dense": Net(
        dense,
        "digits",
        {"hidden": 128, "layers": 2},
        {"epochs": 40, "batch": 32, "rate": 2e-3, "schedule": "onecycle", "clip": 0.0, "decay": 1e-3},
    ),
}
OWN = ("hidden", "filters", "widths", "embed", "layers", "drop")
SCHEDULES: dict[str, Callable[[float, int], Any]] = {
    "constant": lambda rate, steps: rate,
    "cosine": optax.cosine_decay_schedule,
    "onecycle": lambda rate, steps: optax.cosine_onecycle_schedule(steps, rate),
}


def sizes(net: str, recipe: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What `init` is called with, beside its key: of two classes one output is enough."""
    widths, outputs = recipe.widths, 1 if len(recipe.classes) == 2 else len(recipe.classes)
    if net == "rnn":
        return {"inputs": widths["x"], "hidden": options["hidden"], "outputs": outputs}
    if net == "gated":
        return {"x": widths["x"], "eta": widths["eta"], "hidden": options["hidden"]}
    if net == "dense":
        return {"sizes": (widths["x"], *[options["hidden"]] * (options["layers"] - 1), outputs)}
    of_words = {"vocab": widths["x"], "embed": options["embed"]} if recipe.tokens else {"embed": widths["x"]}
    return {**of_words, "widths": options["widths"], "filters": options["filters"], "outputs": outputs}


def make(net: str, sizes: dict[str, Any], seed: int) -> Any:
    """Parameters, the same for the same seed."""
    return jax.jit(NETS[net].module.init, static_argnames=tuple(sizes))(jax.random.key(seed), **sizes)


def loss_of(net: str, by: str, drop: float) -> Callable[..., jax.Array]:
    """The loss by its hand-written rule, or the same loss by autodiff of the net's `reference`."""
    module = NETS[net].module
    if by == "hand":
        return partial(module.loss, drop=drop) if drop else module.loss

    def loss(params: Any, *, y: jax.Array, **inputs: jax.Array) -> jax.Array:
        if y.ndim == 1:
            return heads.reference_loss(module.reference(params, **inputs), y)
        scored = None
        if "lengths" in inputs:
            scored = jnp.arange(y.shape[1], dtype=jnp.int32)[None] < inputs["lengths"][:, None]
        return heads.reference_loss(module.reference(params, **inputs, every_step=True), y, weights=scored)

    return loss


def predict_of(net: str, every_step: bool) -> Callable[..., jax.Array]:
    """Probabilities, of every step where these are scored."""
    predict = NETS[net].module.predict
    return partial(predict, every_step=True) if every_step else predict


def optimizer(options: dict[str, Any], steps: int) -> optax.GradientTransformation:
    """Adam, with what was asked for around it."""
    rate = SCHEDULES[options["schedule"]](options["rate"], steps)
    adam = optax.adamw(rate, weight_decay=options["decay"]) if options["decay"] else optax.adam(rate)
    return optax.chain(optax.clip_by_global_norm(options["clip"]), adam) if options["clip"] else adam
