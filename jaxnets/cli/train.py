"""`jaxnets train`: a net on data, from the shell."""

import difflib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from jaxnets.cli import (
    INTERRUPTED,
    _devices,
    _joining,
    _nets,
    _pictures,
    _recipes,
    _sources,
    _training,
    end_if_heard,
    fail,
)
from jaxnets.cli._guard import stopping
from jaxnets.cli._parsing import parse, said
from jaxnets.cli._watching import watching
from jaxnets.train import _processes as between
from jaxnets.train._checkpoint import InUse

ABOUT = """\
Train a net: rnn (recurrent), textconv (text convolution), gated (two inputs, multiplied) or dense.

Without data of yours it takes what is built in: digits for rnn and dense, cancer for gated, docs for textconv.
    jaxnets train rnn
    jaxnets train textconv --epochs 5 --out runs/try

Your own data are KIND:PATH; gzipped or not, UTF-8 or Latin-1:
    jaxnets train textconv --data tsv:messages.tsv                label<TAB>text, a line each
    jaxnets train textconv --data polarity:bad.txt,good.txt       a file a class, a text a line
    jaxnets train rnn --data jsonl:names.jsonl                    {"text": …, "label": …}, by characters
    jaxnets train rnn --data idx:images.gz,labels.gz              the format of MNIST, an image by its rows
    jaxnets train rnn --data characters:book.txt                  the next character from those before
    jaxnets train dense --data csv:table.csv --y quality          all other columns are inputs
    jaxnets train gated --data csv:table.csv --x age sex --eta hours pay --y income
    jaxnets train rnn --data npz:arrays.npz                       arrays x, y (of gated also eta), maybe lengths

A tenth is held out and scored after each epoch, the best epoch is kept. Ctrl-C saves, `jaxnets resume DIR` goes on.
The folder of the run holds config.json, metrics.jsonl, curve.png, confusion.png and checkpoints. Then:
    jaxnets eval DIR --data tsv:others.tsv
    jaxnets predict DIR < lines

Exit code: 0 trained, 2 it could not be, 130 interrupted."""


@dataclass
class Options:
    """Command-line options."""

    net: Annotated[tyro.conf.Positional[str], said("NET")]
    """rnn, textconv, gated or dense."""
    data: Annotated[str, said("KIND:PATH[,PATH]")] = ""
    """What to train on (left out: the built-in task of the net)."""
    x: Annotated[tuple[str, ...], said("COLUMN …")] = ()
    """Columns of csv:FILE that are inputs (left out: all that are nothing else)."""
    eta: Annotated[tuple[str, ...], said("COLUMN …")] = ()
    """Columns that are the second input of the gated net."""
    y: Annotated[str, said("COLUMN")] = ""
    """The column that is to be predicted (left out: the last)."""
    out: Annotated[str, said("DIR")] = ""
    """A folder for the run (left out: a new one, runs/NET-DATA-N)."""
    epochs: Annotated[int | None, said("N")] = None
    """How often to go through the data, at most."""
    batch: Annotated[int | None, said("N")] = None
    """Examples of a step."""
    hidden: Annotated[int | None, said("N")] = None
    """Units of a hidden layer (rnn, gated, dense)."""
    layers: Annotated[int | None, said("N")] = None
    """Layers of weights (dense)."""
    filters: Annotated[int | None, said("N")] = None
    """Filters of each width (textconv)."""
    widths: Annotated[tuple[int, ...], said("N …")] = ()
    """Words in a window (textconv)."""
    embed: Annotated[int | None, said("N")] = None
    """Size of a word vector (textconv)."""
    drop: Annotated[float | None, said("P")] = None
    """Share of features that are dropped in a step (textconv)."""
    rate: Annotated[float | None, said("R")] = None
    """Learning rate; with a schedule, the highest."""
    schedule: Annotated[Literal["constant", "cosine", "onecycle"] | None, said("constant|cosine|onecycle")] = None
    """How the rate goes over the whole run."""
    clip: Annotated[float | None, said("NORM")] = None
    """Longest gradient, all parameters together; 0: any."""
    decay: Annotated[float | None, said("D")] = None
    """Weight decay, as in AdamW."""
    patience: Annotated[int, said("N")] = 10
    """Stop after so many epochs without a better one."""
    held_out: Annotated[float, said("SHARE")] = 0.1
    """Share of the data that is not trained on but scored after each epoch."""
    seed: Annotated[int, said("N")] = 0
    """Of all that is random; the same seed gives the same bits."""
    by: Annotated[Literal["hand", "autodiff"], said("hand|autodiff")] = "hand"
    """Gradients by the hand-written rule, or by autodiff of the plain net."""
    devices: Annotated[str, said("N|auto")] = "1"
    """Devices that share each batch; on a CPU, cores (auto: as many as pay)."""
    coordinator: Annotated[str, said("HOST:PORT")] = ""
    """Where process 0 runs, and a free port there; for a run of several processes."""
    processes: Annotated[int, said("N")] = 1
    """How many processes the run has; each is started with this command."""
    process: Annotated[int, said("I")] = 0
    """Which of them this is, from 0, which writes and shows."""
    json: Annotated[bool, said("")] = False
    """Print JSON, a line an epoch and one at the end, and nothing else, on standard output."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = parse(Options, "train", ABOUT, argv)
    return _joining.alone_or_beside("train", argv, options, lambda: _train(options))


def _train(options: Options) -> int:
    if options.net not in _nets.NETS:
        near = difflib.get_close_matches(options.net, _nets.NETS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no net {options.net!r}; {hint}There are {', '.join(_nets.NETS)}")
    _devices.prepare(options.devices)
    with _joining.joined(options.coordinator, options.processes, options.process) as several:
        config, found = plan(options)
        mesh = _devices.mesh(options.devices, config.shapes)
        if several:
            numbers = f"{options.processes} {options.devices}"
            between.check_alike({"the data": config.digest, "the options": config.command + numbers})
        end_if_heard()
        theirs = bool(options.out) and Path(options.out).is_dir()
        folder = _training.new_folder(config, options.out) if between.writes(mesh) else Path()
        if several:
            folder = Path(between.from_first(str(folder).encode()).decode())
            _joining.belongs_to(folder)
        return run(config, found, folder, options.json, mesh, new=True, theirs=theirs)


def plan(options: Options) -> tuple[_training.Config, Any]:
    """All of a new run, and its data: what is impossible is refused before anything is written."""
    net = options.net
    settings = _settings(options)
    source = _sources.parse(options.data or _nets.NETS[net].task)
    if source.kind not in _sources.SERVES[net]:
        raise ValueError(f"{net} does not take {source.kind}; it takes {', '.join(_sources.SERVES[net])}")
    found = _sources.read(source)
    source = source._replace(x=options.x, eta=options.eta, y=options.y)
    source = _sources.with_columns(source, found, net)
    if source.kind == "csv":  # labels as they stand: 01 is not 1
        found = _sources.read(source, (source.y,))
    rest, _ = _recipes.parts(found, options.held_out, options.seed)
    recipe = _recipes.learn(found, rest, net, source)
    sizes = _nets.sizes(net, recipe, settings)
    _check_memory(net, sizes)
    return _training.Config(net, sizes, settings, source, _sources.digest(found), recipe), found


def run(
    config: _training.Config, found: Any, folder: Path, as_json: bool, mesh: Any, new: bool, theirs: bool = True
) -> int:
    """Train in a folder, and say what came of it. What is begun there `new` but has learned nothing is taken away
    again, and the folder where it was not there before, as `theirs`."""
    begun = time.perf_counter()
    if not between.writes(mesh):
        return _help(config, found, folder, mesh)
    with stopping() as stop:
        try:
            if new:
                config.save(folder)
            with watching(as_json) as watch:
                ended = _training.fit(config, found, folder, watch, stop, mesh)
        except BaseException as error:
            if any(folder.glob("step-*.safetensors")) or not new or isinstance(error, InUse):
                if isinstance(error, KeyboardInterrupt):
                    fail(f"interrupted. {_joining.to_go_on(folder)}")
                    if not between.several(mesh):
                        return _interrupted(folder, as_json)
                if isinstance(error, between.Lost):
                    raise between.Lost(f"{error} To go on: jaxnets resume {folder}") from error
            else:
                (folder / _training.CONFIG).unlink(missing_ok=True)
                if not theirs and folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            raise
    if ended.interrupted:
        fail(f"interrupted, and saved. To go on: jaxnets resume {folder}")
        return _interrupted(folder, as_json)
    draw(config, ended, folder)
    summary = _training.summary(ended, config)
    if as_json:
        print(json.dumps({"ok": True, "out": str(folder), **summary}), flush=True)
        return 0
    seconds = time.perf_counter() - begun
    scores = ", ".join(f"{n} {summary[n]:.4f}" for n in ("loss", "accuracy", "auc") if n in summary)
    when = f"epoch {summary['best_epoch']} of {summary['epochs']}"
    print(f"{config.name}: {scores} on the part held out, {when}; {seconds:.0f} s")
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
    return 0


def _interrupted(folder: Path, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"ok": False, "interrupted": True, "out": str(folder)}), flush=True)
    return INTERRUPTED


def _help(config: _training.Config, found: Any, folder: Path, mesh: Any) -> int:
    """As a process that is not the first: nothing is written or shown."""
    with stopping() as stop:
        try:
            ended = _training.fit(config, found, folder, lambda progress: None, stop, mesh)
        except between.Lost as error:
            raise between.Lost(f"{error} To go on: jaxnets resume {folder}, with it or without") from error
    return INTERRUPTED if ended.interrupted else 0


def draw(config: _training.Config, ended: _training.Ended, folder: Path) -> None:
    """The pictures of a run."""
    best = int(_training.best_entry(ended.history, config)["epoch"])
    _pictures.curve(folder / "curve.png", ended.history, best, config.title)
    if not config.recipe.every_step and len(config.recipe.classes) <= _pictures.MOST:
        table = _training.confusion(config, ended.params, ended.validation)
        _pictures.confusion(folder / "confusion.png", table, config.recipe.classes, config.title)


def _settings(options: Options) -> dict[str, Any]:
    """The options of the run, each with its value; those of other nets are refused."""
    net = _nets.NETS[options.net]
    given = {name: value for name in (*_nets.OWN, *net.usual) if (value := getattr(options, name)) not in (None, ())}
    if others := [name for name in given if name in _nets.OWN and name not in net.own]:
        own = ", ".join(f"--{name}" for name in net.own)
        raise ValueError(f"--{others[0]} is not an option of {options.net}, which has {own}")
    if options.by == "autodiff" and "drop" in net.own:
        if given.get("drop"):
            raise ValueError("--drop goes with --by hand: the plain net that autodiff goes through has no dropout")
        given["drop"] = 0.0
    rest = {name: getattr(options, name) for name in ("patience", "held_out", "seed", "by")}
    settings = {**net.usual, **net.own, **given, **rest}
    _check(settings)
    return settings


def _check(settings: dict[str, Any]) -> None:
    for name in ("epochs", "batch", "patience", "hidden", "layers", "filters", "embed"):
        if not 1 <= settings.get(name, 1) < 2**31:
            raise ValueError(f"--{name} must be at least 1, and less than 2³¹; got {settings[name]}")
    for width in settings.get("widths", ()):
        if not 1 <= width < 2**31:
            raise ValueError(f"--widths must be at least 1, and less than 2³¹; got {width}")
    for name in ("clip", "decay"):
        if not 0 <= settings[name] < float("inf"):
            raise ValueError(f"--{name} must be at least 0; got {settings[name]}")
    if not 0 < settings["rate"] < float("inf"):
        raise ValueError(f"--rate must be more than 0; got {settings['rate']}")
    for name, low in (("drop", 0), ("held_out", 1e-9)):
        if not low <= settings.get(name, 0.5) < 1:
            expected = f"{'more than' if low else 'from'} 0, to below 1"
            raise ValueError(f"--{name.replace('_', '-')} must be {expected}; got {settings[name]}")
    if not 0 <= settings["seed"] < 2**31:
        raise ValueError(f"--seed must be at least 0, and less than 2³¹; got {settings['seed']}")


def _check_memory(net: str, sizes: dict[str, Any]) -> None:
    """Parameters, the best of them, their gradients and Adam's moments must fit: the system may kill what does not."""
    try:
        params = jax.eval_shape(partial(_nets.make, net, sizes, 0))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"these sizes are beyond what an array can have ({sizes})") from error
    numbers = sum(a.size for a in jax.tree.leaves(params))
    if not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 5 * 4 * numbers > there:
        told = f"{numbers:.3g} parameters need {5 * 4 * numbers / 1e9:.3g} GB; the machine has {there / 1e9:.3g}"
        raise ValueError(f"there is not enough memory for a net of these sizes: {told}")
