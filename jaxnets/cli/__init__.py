"""The shell command `jaxnets`."""

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "check": "is a derivative written by hand right; if not, which line is wrong, and why",
    "train": "train a net, on data of yours or on what is built in",
    "resume": "go on with a run that was interrupted",
    "eval": "loss and accuracy of a trained net on other data",
    "predict": "lines in, probabilities out",
    "export": "a trained net as one file that JAX alone can run",
    "demo": "see it all: gradients checked, nets trained by them and by autodiff, a page that shows it",
}
_NEEDED = {"tyro", "rich", "safetensors", "sklearn", "matplotlib", "flatbuffers"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `jaxnets COMMAND …`; returns the exit code: 0 right, 1 something wrong, 2 could not be run."""
    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if name in ("-h", "--help"):
        commands = "".join(f"  {c:<9}{what}\n" for c, what in COMMANDS.items())
        try:
            print(f"usage: jaxnets COMMAND …\n\n{commands}\n`jaxnets COMMAND --help` tells more.", flush=True)
        except BrokenPipeError:
            return nobody_reads()
        return 0
    if name not in COMMANDS:
        return fail(f"no such command: {name!r}; there is {', '.join(COMMANDS)}")
    try:
        return importlib.import_module(f"jaxnets.cli.{name}").main(rest)
    except ImportError as error:
        if (error.name or "").split(".")[0] not in _NEEDED:
            raise
        return fail(f"the shell command needs {error.name}: pip install 'jaxnets[cli]'")
    except SystemExit as stop:  # `--help`, or arguments that could not be read
        return stop.code if isinstance(stop.code, int) else 2


def nobody_reads() -> int:
    """Whoever read standard output has enough; Python must not try to write what is left when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def fail(message: str) -> int:
    """Say on standard error why it could not be run."""
    print(f"jaxnets: {message}", file=sys.stderr)
    return 2
