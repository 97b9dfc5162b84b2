"""The options of a command: a typed dataclass, read by tyro; what it cannot read is told in a line."""

import contextlib
import io
import itertools
import json
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from jaxnets.cli import fail

T = TypeVar("T")
FLAGS = (tyro.conf.FlagCreatePairsOff,)


def said(metavar: str) -> Any:
    """How the value of an option is called in the help."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


def parse(options: type[T], command: str, about: str, argv: Sequence[str]) -> T:
    """`jaxnets COMMAND …`; ends the program, with exit code 2, where it cannot be read."""
    prog, told = f"jaxnets {command}", io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(options, prog=prog, description=about, args=list(argv), config=FLAGS)
    except SystemExit as stop:
        if stop.code in (0, None):
            sys.stderr.write(told.getvalue())
            raise
        message = f"{_first_of(told.getvalue()) or 'these options cannot be read'} ({prog} --help tells all)"
        if "--json" in argv:
            print(json.dumps({"ok": False, "error": message}), flush=True)
        fail(message)
        raise


def _first_of(box: str) -> str:
    """What a box with a title says, without the advice that follows after an empty line or a rule."""
    lines = [line.strip("│╭╮╰╯| ") for line in box.splitlines()][1:]
    said = itertools.dropwhile(_is_rule, lines)
    return " ".join(itertools.takewhile(lambda line: not _is_rule(line), said))


def _is_rule(line: str) -> bool:
    return set(line) <= {"─", "-"}
