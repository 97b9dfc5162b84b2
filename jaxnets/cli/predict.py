"""`jaxnets predict`: lines in, probabilities out."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro

from jaxnets import train
from jaxnets.cli import _nets, _training
from jaxnets.cli._guard import guarded
from jaxnets.cli._parsing import parse, said

ABOUT = """\
Predict with a trained net: a line in, a line out, class after class with its probability, the likeliest first.

Nets of texts take a text a line; nets of numbers take numbers between commas, or a JSON array; nets of a CSV file take
rows of it, the input columns in their order, or any columns after a header line that names them:
    echo "free entry in a weekly draw" | jaxnets predict runs/textconv-messages-1
    jaxnets predict runs/gated-table-1 < table.csv > predictions.txt

Nets of characters take a text a line, and tell what comes after it; others with a target at every step answer for the
last. Lines are answered as they come, so that a pipe works in both directions; one without numbers or cells gets an
empty answer (in JSON, null).

Exit code: 0 done, 2 a line could not be read (those before it are answered)."""
AT_ONCE = 64  # lines
SHOWN = 10  # classes of a line; --json has all


@dataclass
class Options:
    """Command-line options."""

    dir: Annotated[tyro.conf.Positional[str], said("DIR")]
    """The folder of a run."""
    json: Annotated[bool, said("")] = False
    """Print an object of JSON a line: the class, and the probability of each."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = parse(Options, "predict", ABOUT, argv)
    return guarded(lambda: _predict(options), options.json)


def _predict(options: Options) -> int:
    config = _training.config_of(options.dir)
    answer = _Answers(config, _training.best(options.dir, config), options.json)
    number, begun = 0, config.recipe.form != "table"
    for lines in _as_they_come():
        while not begun and lines:  # a header comes first, if there is one
            blank = not lines[0].strip(" ,\t")
            begun = not blank
            if blank or answer.takes_header(lines[0]):
                lines, number = lines[1:], number + 1
        answer(lines, number)
        number += len(lines)
        sys.stdout.flush()
    return 0


class _Answers:
    def __init__(self, config: _training.Config, params: Any, as_json: bool) -> None:
        self.config, self.params, self.as_json = config, params, as_json
        self.recipe = config.recipe
        self.predict = _nets.predict_of(config.net, every_step=False)  # of a line, what its last step says

    def takes_header(self, line: str) -> bool:
        """Whether it is one; its columns are those of the lines after it, then."""
        header = self.recipe.header_of(line)
        if header is not None:
            self.recipe = header
        return header is not None

    def __call__(self, lines: list[str], before: int) -> None:
        """Print the answers to these lines; `before` have come before them. An empty line is a text, but no row."""
        asks = [self.recipe.reads_empty or bool(line.strip(" ,\t")) for line in lines]
        try:
            answers = iter(self._answers([line for line, asked in zip(lines, asks, strict=True) if asked]))
        except ValueError as error:
            if len(lines) == 1:
                raise ValueError(f"line {before + 1}: {error}") from error
            for i, line in enumerate(lines):  # which one is it?
                self([line], before + i)
            return
        for asked in asks:
            print(next(answers) if asked else "null" if self.as_json else "")

    def _answers(self, lines: list[str]) -> list[str]:
        if not lines:
            return []
        given, n = self.recipe.inputs(lines), len(lines)
        rows = 1 << (n - 1).bit_length()  # few shapes are few compilations
        given = {name: np.concatenate([a, np.repeat(a[:1], rows - n, 0)]) for name, a in given.items()}
        p = train.predictions(self.predict, self.params, given)[:n]
        return [self._told(row) for row in (np.stack([1 - p, p], 1) if p.ndim == 1 else p)]

    def _told(self, row: np.ndarray) -> str:
        order, classes = np.argsort(-row, kind="stable"), self.recipe.classes
        if self.as_json:
            probabilities = {name: float(p) for name, p in zip(classes, row, strict=True)}
            return json.dumps({"class": classes[order[0]], "probabilities": probabilities})
        return "\t".join(f"{_printable(classes[i])} {row[i]:.4f}" for i in order[:SHOWN])


def _as_they_come() -> Iterator[list[str]]:
    """Lines of standard input: those that are there, without waiting for more."""
    rest = b""
    if sys.stdin is None:
        raise ValueError("standard input is closed; lines are expected there")
    read: Any = sys.stdin.buffer
    while content := read.read1(1 << 16):
        *lines, rest = (rest + content).split(b"\n")
        for first in range(0, len(lines), AT_ONCE):
            yield [_decoded(line) for line in lines[first : first + AT_ONCE]]
    if rest:
        yield [_decoded(rest)]


def _decoded(line: bytes) -> str:
    line = line.removesuffix(b"\r")
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _printable(name: str) -> str:
    """A class that is a line break or a tab must not look like one."""
    return name if name.isprintable() and name != " " else repr(name)
