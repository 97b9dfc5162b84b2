"""`jaxnets demo`: all of it, from nothing, on one page."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from jaxnets.check import worksheets
from jaxnets.cli import _nets, _page, _training, agreement, train
from jaxnets.cli._guard import Stop, guarded
from jaxnets.cli._parsing import parse, said
from jaxnets.cli._watching import watching
from jaxnets.train._checkpoint import write_whole

ABOUT = """\
Everything at a glance, in a little over a minute: derivations from worksheets, checked; one wrong derivation with its
line, cause and picture; every gradient of every net against autodiff; each net trained on built-in data by its
hand-written gradient and by autodiff, from the same seed; one page that shows all of it.

    jaxnets demo
    jaxnets demo --out first-look

Nothing is downloaded. The page is report.html in the folder, next to a folder for each run.

Exit code: 0 all verdicts are as they should be, 1 some are not, 2 it could not be run, 130 interrupted."""
EPOCHS = {"rnn": 12, "textconv": 3, "gated": 40, "dense": 12}
PAGE, ERRORS = "report.html", "errors.png"
SHOWN = "X7"  # the worksheet's line that is shown in full


@dataclass
class Options:
    """Command-line options."""

    out: Annotated[str, said("DIR")] = ""
    """A folder for the page and the runs (left out: a new one, runs/demo-N)."""


class Pair(NamedTuple):
    """A net trained twice."""

    net: str
    folder: Path  # of the run by hand
    title: str
    accuracy: float
    losses: np.ndarray  # [epochs, 2] by hand, by autodiff
    seconds: tuple[float, float]  # of an epoch, after the first

    @property
    def difference(self) -> float:
        """Between the losses of an epoch: the largest, relative."""
        return float(np.max(np.abs(self.losses[:, 0] - self.losses[:, 1]) / self.losses[:, 1]))


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = parse(Options, "demo", ABOUT, argv)
    return guarded(lambda: _demo(options))


def _demo(options: Options) -> int:
    begun = time.perf_counter()
    folder = _folder(options.out)
    checked: list[tuple[worksheets.Case, Any]] = []
    for line in worksheets.table(_kept(worksheets.run(), checked)):
        print(line, flush=True)
    shown = next(found for case, found in checked if case.tag == SHOWN)
    shown.save_picture(folder / ERRORS)
    print(f"\n{SHOWN} in full, with a picture of its errors in {folder / ERRORS}:\n{shown}\n")
    rows: list[dict[str, Any]] = []
    for line in agreement.table(_kept(agreement.rows(), rows)):
        print(line, flush=True)
    print(f"\n{_page.HEAD}", flush=True)
    pairs = []
    for net in _nets.NETS:
        pairs.append(_trained(net, folder))
        print(_page.line(pairs[-1]), flush=True)
    seconds = time.perf_counter() - begun
    write_whole(folder / PAGE, _page.page(checked, (shown, folder / ERRORS), rows, pairs, seconds).encode())
    print(f"\n{folder / PAGE}: all of it, with pictures; {seconds:.0f} s")
    as_expected = all(case.expects(found) for case, found in checked)
    return 0 if as_expected and all(row["right"] for row in rows) else 1


def _folder(out: str) -> Path:
    if not out:
        return _training.numbered(Path("runs"), "demo")
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--out {out}: must be a new or an empty folder; there is something in it")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _trained(net: str, folder: Path) -> Pair:
    """By hand and by autodiff: the same seed, the same order of examples, no dropout."""
    ended = {}
    for by in ("hand", "autodiff"):
        options = train.Options(net, epochs=EPOCHS[net], patience=EPOCHS[net], by=by)
        options.drop = 0.0 if net == "textconv" else None
        config, found = train.plan(options)
        out = folder / f"{net}-{by}"
        out.mkdir()
        config.save(out)
        with watching(False, f"{net} by {by}: ") if sys.stderr.isatty() else nullcontext(_untold) as watch:
            ended[by] = config, _training.fit(config, found, out, watch, Stop())
    config, by_hand = ended["hand"]
    train.draw(config, by_hand, folder / f"{net}-hand")
    histories = [run.history for _, run in ended.values()]
    of_hand, of_autodiff = (float(np.median([entry["seconds"] for entry in history[1:]])) for history in histories)
    return Pair(
        net,
        folder / f"{net}-hand",
        config.name,
        _training.summary(by_hand, config)["accuracy"],
        np.array([[entry["loss"] for entry in history] for history in histories]).T,
        (of_hand, of_autodiff),
    )


def _untold(_: Any) -> None:
    """In a pipe lines of progress would stand between those of the tables."""


def _kept(items: Iterator[Any], rows: list[Any]) -> Iterator[Any]:
    for item in items:
        rows.append(item)
        yield item
