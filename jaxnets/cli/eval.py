"""`jaxnets eval`: how good a trained net is."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro

from jaxnets import train
from jaxnets.cli import _recipes, _sources, _training
from jaxnets.cli._guard import guarded
from jaxnets.cli._parsing import parse, said

ABOUT = """\
Loss, accuracy and, of two classes, area under the ROC curve (AUC) of a trained net: the best epoch of a run.

On the part of the data that was held out, or on other data:
    jaxnets eval runs/textconv-docs-1
    jaxnets eval runs/textconv-messages-1 --data tsv:later.tsv

Other data become numbers by what was learned in training; `jaxnets train --help` tells the kinds.

Exit code: 0 done, 2 it could not be."""
MOST = 12  # classes whose table is shown


@dataclass
class Options:
    """Command-line options."""

    dir: Annotated[tyro.conf.Positional[str], said("DIR")]
    """The folder of a run."""
    data: Annotated[str, said("KIND:PATH[,PATH]")] = ""
    """Data to score (left out: the part that was held out)."""
    json: Annotated[bool, said("")] = False
    """Print JSON, and nothing else, on standard output."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = parse(Options, "eval", ABOUT, argv)
    return guarded(lambda: _eval(options), options.json)


def _eval(options: Options) -> int:
    config = _training.config_of(options.dir)
    params = _training.best(options.dir, config)
    what, examples = _data(config, options.data)
    found: dict[str, Any] = train.scores(config.loss, config.predict, params, examples)
    classes = config.recipe.classes
    table = None
    if not config.recipe.every_step and len(classes) <= MOST:
        table = _training.confusion(config, params, examples)
    if options.json:
        shown = {} if table is None else {"classes": classes, "confusion": table.tolist()}
        print(json.dumps({"ok": True, "data": what, **found, **shown}))
        return 0
    print(f"{config.name}, {what}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    for line in _lines(classes, table) if table is not None else ():
        print(line)
    return 0


def _data(config: _training.Config, spec: str) -> tuple[str, Any]:
    """What is scored, in words and as `train.scores` takes it."""
    if not spec:
        return "the part held out", _training.held_out(config, _training.data_of(config))
    source = _sources.parse(spec)
    if source.form != config.recipe.form:
        fitting = ", ".join(k for k in _sources.SERVES[config.net] if _sources.FORMS[k] == config.recipe.form)
        raise ValueError(f"--data must be of a kind that this run can be scored on ({fitting}); got {source.kind}")
    found = _sources.read(source, getattr(config.recipe, "strings", ()))
    return source.name, config.recipe.data(found, np.arange(_recipes.count(found)), source)


def _lines(classes: tuple[str, ...], table: np.ndarray) -> Iterator[str]:
    shown = [name if name.isprintable() else repr(name) for name in classes]
    names = [name if len(name) <= 14 else name[:13] + "…" for name in shown]
    width = max(5, *map(len, names)) + 1
    yield "\nis \\ taken for".ljust(17) + "".join(name.rjust(width) for name in names)
    for name, row in zip(names, table, strict=True):
        yield f"  {name}".ljust(16) + "".join(str(n).rjust(width) for n in row)
