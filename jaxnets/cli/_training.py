"""A run: its config, its folder, and the call of `train.fit` that a new run and a resumed one share."""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

import jaxnets
from jaxnets import train
from jaxnets._chunks import near_divisor
from jaxnets.cli import _nets, _recipes, _sources
from jaxnets.cli._guard import Stop
from jaxnets.train import _checkpoint, _processes
from jaxnets.train._examples import size

FORMAT = "jaxnets run 1"
CONFIG, METRICS = "config.json", "metrics.jsonl"
HOLDS_ONE = "--out {0}: holds a run already; `jaxnets resume {0}` goes on with it"
AT_ONCE = 16  # about so many steps between two visits of Python: how soon Ctrl-C is heard


class Config(NamedTuple):
    """All that is needed to make the run again."""

    net: str
    sizes: dict[str, Any]
    options: dict[str, Any]
    source: _sources.Source
    digest: str
    recipe: Any

    @property
    def loss(self) -> Callable[..., Any]:
        return _nets.loss_of(self.net, self.options["by"], self.options.get("drop", 0.0))

    @property
    def predict(self) -> Callable[..., Any]:
        return _nets.predict_of(self.net, self.recipe.every_step)

    @property
    def shapes(self) -> Any:
        """Of the parameters."""
        return jax.eval_shape(partial(_nets.make, self.net, self.sizes, 0))

    @property
    def name(self) -> str:
        return f"{self.net} on {self.source.short}"

    @property
    def command(self) -> str:
        """What was asked for, wherever the data lie."""
        asked = self.net, self.sizes, self.options, self.source._replace(paths=()), _recipes.to_json(self.recipe)
        return json.dumps(asked)

    @property
    def title(self) -> str:
        """For pictures."""
        return self.name + (", by autodiff" if self.options["by"] == "autodiff" else "")

    def save(self, folder: Path) -> None:
        told = {
            "format": FORMAT,
            "jaxnets": jaxnets.__version__,
            "net": self.net,
            "sizes": self.sizes,
            "options": self.options,
            "source": self.source._asdict(),
            "digest": self.digest,
            "recipe": _recipes.to_json(self.recipe),
        }
        try:
            _checkpoint.write_whole(folder / CONFIG, (json.dumps(told, indent=1) + "\n").encode(), only_new=True)
        except FileExistsError as error:
            raise _checkpoint.InUse(HOLDS_ONE.format(folder)) from error


class Ended(NamedTuple):
    """What a run has come to."""

    params: Any  # the best
    history: list[dict[str, float]]
    validation: Any  # as `train.scores` takes it
    interrupted: bool


def content_of(folder: str | Path) -> bytes:
    """The config of the run in a folder, as it is written."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no run is there (it has no {CONFIG})")
    return path.read_bytes()


def config_of(folder: str | Path, content: bytes | None = None) -> Config:
    """Of the run in a folder, or what was read there."""
    path = Path(folder) / CONFIG
    try:
        told = json.loads(content_of(folder) if content is None else content)
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']!r}, expected {FORMAT!r}")
        given = _recipes.as_tuples(told)
        recipe, source = _recipes.from_json(given["recipe"]), _sources.Source(**given["source"])
        return Config(given["net"], given["sizes"], given["options"], source, given["digest"], recipe)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: is damaged, or no config of this version ({type(error).__name__}: {error})"
        ) from error


def data_of(config: Config) -> Any:
    """The data that the run was begun with; refused if they are others by now."""
    found = _sources.read(config.source, getattr(config.recipe, "strings", ()))
    if _sources.digest(found) != config.digest:
        raise ValueError(f"{config.source.name}: has changed since the run was begun; put back the data, or train anew")
    return found


def held_out(config: Config, found: Any) -> Any:
    """The part of these data that the run does not train on."""
    _, part = _recipes.parts(found, config.options["held_out"], config.options["seed"])
    return config.recipe.data(found, part, config.source, strict=False)


def best(folder: str | Path, config: Config) -> Any:
    """The parameters to use: of the best epoch so far. Before the first is done, those of the last step, which is
    told."""
    kept = _checkpoint.newest(folder)
    if kept is None:
        raise ValueError(f"{folder}: has no checkpoint yet; `jaxnets resume {folder}` goes on with the training")
    arrays, record, path = kept
    prefix = "best." if record["best_epoch"] else "state.params."
    if not record["best_epoch"]:
        told = f"no epoch is done yet; these are the parameters after step {record['step']}"
        print(f"jaxnets: {folder}: {told}", file=sys.stderr)
    named = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    return _checkpoint.as_in(config.shapes, named, path)


def fit(
    config: Config,
    found: Any,
    folder: Path,
    watch: Callable[[train.Progress], Any],
    stop: Stop,
    mesh: Mesh | None = None,
) -> Ended:
    """Train, or go on; the entries of the epochs are kept beside the checkpoints."""
    options, recipe = config.options, config.recipe
    rest, part = _recipes.parts(found, options["held_out"], options["seed"])
    training = recipe.data(found, rest, config.source, _recipes.BUCKETS, strict=False)
    validation = recipe.data(found, part, config.source, strict=False)
    sample = recipe.data(found, rest[: len(part)], config.source, strict=False)  # scored as the held-out part is
    buckets = _as_list(training)
    steps = sum(size(bucket) // min(options["batch"], size(bucket)) for bucket in buckets)
    last, writes = False, _processes.writes(mesh)

    def seen(progress: train.Progress) -> bool:
        nonlocal last
        last = progress.entry is not None and progress.epoch == options["epochs"]
        if progress.entry is not None and writes:
            _write_metrics(folder, progress.history)
        watch(progress)
        return stop.asked

    fitted = train.fit(
        config.loss,
        _nets.make(config.net, config.sizes, options["seed"]),
        training,
        _nets.optimizer(options, options["epochs"] * steps),
        epochs=options["epochs"],
        batch=options["batch"],
        seed=options["seed"],
        validation=train.Validation(
            validation,
            config.predict,
            monitor="loss" if recipe.every_step or config.net == "gated" else "accuracy",
            patience=options["patience"],
            also={"training": sample},
        ),
        rows={"E": "x"} if config.net == "textconv" and recipe.tokens else None,
        out=folder,
        watch=seen,
        mesh=mesh,
        pieces=train.Pieces(near_divisor(steps, AT_ONCE) if len(buckets) == 1 else 2 * AT_ONCE),  # compiled once
    )
    if writes:
        _write_metrics(folder, fitted.history)
    asked = _processes.any_of(stop.asked) if _processes.several(mesh) else stop.asked
    return Ended(fitted.params, fitted.history, validation, asked and not last)


def summary(ended: Ended, config: Config) -> dict[str, Any]:
    """What is told at the end: the scores of the best epoch."""
    best = best_entry(ended.history, config)
    return {"epochs": len(ended.history), "best_epoch": int(best["epoch"]), **scores_of(best, "validation_")}


def best_entry(history: list[dict[str, float]], config: Config) -> dict[str, float]:
    """The first of the best, as `train.fit` keeps it."""
    if config.recipe.every_step or config.net == "gated":
        return min(history, key=lambda entry: entry["validation_loss"])
    return max(history, key=lambda entry: entry["validation_accuracy"])


def scores_of(entry: dict[str, float], prefix: str) -> dict[str, float]:
    """Of an entry of the history, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in entry.items() if name.startswith(prefix)}


def history_of(folder: Path) -> list[dict[str, float]]:
    """The entries that are kept."""
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def confusion(config: Config, params: Any, held: Any) -> np.ndarray:
    """How many of each class (rows) were taken for which (columns)."""
    n = len(config.recipe.classes)
    table = np.zeros((n, n), np.int64)
    for bucket in _as_list(held):
        p, y = train.predictions(config.predict, params, bucket), bucket["y"]
        guess = (p > 0.5).astype(np.int64) if p.ndim == y.ndim else p.argmax(-1)
        np.add.at(table, (y, guess), 1)
    return table


def new_folder(config: Config, out: str) -> Path:
    """A folder for a new run, made; another run is not overwritten."""
    if out:
        folder = Path(out)
        if (folder / CONFIG).exists() or any(folder.glob("step-*.safetensors")):
            raise ValueError(HOLDS_ONE.format(out))
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = numbered(Path("runs"), f"{config.net}-{config.source.short}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder}: must be a folder that can be written to; it cannot")
    return folder


def numbered(parent: Path, name: str) -> Path:
    """The first of name-1, name-2 … that is not there, made."""
    n = 1
    while True:
        try:
            (folder := parent / f"{name}-{n}").mkdir(parents=True)
        except FileExistsError:
            if parent.exists() and not parent.is_dir():
                raise
            n += 1
        else:
            return folder


def _as_list(buckets: Any) -> list[dict[str, Any]]:
    return buckets if isinstance(buckets, list) else [buckets]


def _write_metrics(folder: Path, history: list[dict[str, float]]) -> None:
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    _checkpoint.write_whole(folder / METRICS, lines.encode())
