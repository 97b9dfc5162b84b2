"""What is seen of a run while it goes: a bar on a terminal, else a line an epoch, or JSON for programs."""

import contextlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from jaxnets.train import Progress

Watch = Callable[[Progress], None]


@contextlib.contextmanager
def watching(as_json: bool, name: str = "") -> Iterator[Watch]:
    """What `train.fit` is to tell of its progress."""
    if as_json:
        yield _json
    elif sys.stderr.isatty():
        with _bar(name) as watch:
            yield watch
    else:
        yield _Lines(name)


def figures(entry: dict[str, float]) -> str:
    """The scores of an epoch, in words."""
    told = [f"loss {entry['loss']:.4f}"]
    for part in ("training", "validation"):
        scores = {n.removeprefix(f"{part}_"): v for n, v in entry.items() if n.startswith(f"{part}_")}
        scores.pop("loss" if part == "training" else "", None)  # the mean over the epoch is told already
        if scores:
            told.append(f"{part} " + " ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    return ", ".join(told)


def _json(progress: Progress) -> None:
    if progress.entry is not None:
        print(json.dumps(progress.history[-1]), flush=True)


class _Speed:
    """Steps a second, of late."""

    def __init__(self) -> None:
        self.visits: deque[tuple[int, float]] = deque(maxlen=30)

    def __call__(self, step: int) -> float:
        now = time.perf_counter()
        self.visits.append((step, now))
        first, begun = self.visits[0]
        return (step - first) / max(now - begun, 1e-9)


class _Lines:
    def __init__(self, name: str) -> None:
        self.name, self.speed = name, _Speed()

    def __call__(self, progress: Progress) -> None:
        speed = self.speed(progress.step)
        if progress.entry is not None:
            told = f"{figures(progress.entry)}; {speed:.0f} steps/s"
            print(f"{self.name}epoch {progress.epoch} of {progress.epochs}: {told}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Watch]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[told]}"), TimeRemainingColumn(),
    )  # fmt: skip
    console, speed, accuracy = Console(stderr=True), _Speed(), ""
    with Bar(*columns, console=console, transient=True) as bar:
        task: Any = bar.add_task(f"{name}compiling", total=None, told="")

        def watch(progress: Progress) -> None:
            nonlocal accuracy
            if progress.entry is not None:
                right = progress.entry.get("validation_accuracy")
                accuracy = "" if right is None else f"  accuracy {right:.3f}"
            bar.update(
                task,
                description=f"{name}epoch {progress.epoch}/{progress.epochs}",
                total=progress.epochs * progress.steps,
                completed=progress.step,
                told=f"loss {progress.loss:.4f}{accuracy}  {speed(progress.step):.0f} steps/s",
            )

        yield watch
