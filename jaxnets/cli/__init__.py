"""The shell command `jaxnets`."""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "check": "is a derivative written by hand right; if not, which line is wrong, and why",
    "train": "train a net, on data of yours or on what is built in",
    "resume": "go on with a run that was interrupted",
    "eval": "loss and accuracy of a trained net on other data",
    "predict": "lines in, probabilities out",
    "demo": "see it all: gradients checked, nets trained by them and by autodiff, a page that shows it",
}
_NEEDED = {"tyro", "rich", "safetensors", "sklearn", "matplotlib"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `jaxnets COMMAND …`; returns the exit code: 0 right, 1 something wrong, 2 could not be run."""
    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: jaxnets COMMAND …\n\n" + "".join(f"  {c:<9}{what}\n" for c, what in COMMANDS.items()))
        print("`jaxnets COMMAND --help` tells more.")
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


def fail(message: str) -> int:
    """Say on standard error why it could not be run."""
    print(f"jaxnets: {message}", file=sys.stderr)
    return 2
