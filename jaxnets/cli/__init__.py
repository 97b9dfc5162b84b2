"""The shell command `jaxnets`."""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

COMMANDS = {
    "check": "is a derivative written by hand right; if not, which line is wrong, and why",
    "train": "train a net, on data of yours or on what is built in",
    "resume": "go on with a run that was interrupted",
    "eval": "loss and accuracy of a trained net on other data",
    "predict": "lines in, probabilities out",
    "export": "a trained net as one file that JAX alone can run",
    "demo": "see it all: gradients checked, nets trained by them and by autodiff, a page that shows it",
}
INTERRUPTED = 130
_NEEDED = {"tyro", "rich", "safetensors", "sklearn", "matplotlib", "flatbuffers"}
_heard: list[int] = []  # Ctrl-C, in this command


def main(argv: Sequence[str] | None = None) -> int:
    """Run `jaxnets COMMAND …`; returns the exit code: 0 right, 1 something wrong, 2 could not be run."""
    try:
        _heard.clear()
        with _on_ctrl_c(_note):
            if not _streams_are_open():
                return fail("standard output is closed; send it to a file, or to /dev/null")
            code = _run([*(sys.argv[1:] if argv is None else argv)] or ["--help"])
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        return nobody_reads()
    except KeyboardInterrupt:
        fail("interrupted")
        return INTERRUPTED
    except OSError as error:  # a full disk, say
        nobody_reads()
        return fail(f"standard output: {error.strerror or error}")


def _run(argv: list[str]) -> int:
    name, *rest = argv
    if name in ("-h", "--help"):
        commands = "".join(f"  {c:<9}{what}\n" for c, what in COMMANDS.items())
        print(f"usage: jaxnets COMMAND …\n\n{commands}\n`jaxnets COMMAND --help` tells more.", flush=True)
        return 0
    if name not in COMMANDS:
        return fail(f"no such command: {name!r}; there is {', '.join(COMMANDS)}")
    try:
        command = importlib.import_module(f"jaxnets.cli.{name}")
        end_if_heard()
        with _on_ctrl_c(_raise):
            return command.main(rest)
    except ImportError as error:
        if (error.name or "").split(".")[0] not in _NEEDED:
            raise
        return fail(f"the shell command needs {error.name}: pip install 'jaxnets[cli]'")
    except SystemExit as stop:  # `--help`, or arguments that could not be read
        return stop.code if isinstance(stop.code, int) else 2


@contextlib.contextmanager
def _on_ctrl_c(do: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, told, sys.unraisablehook = signal.signal(signal.SIGINT, do), sys.unraisablehook, _untold
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
        sys.unraisablehook = told


def _note(number: int, _: Any) -> None:
    """While modules are imported: an exception in the midst of one that is no Python ends the process."""
    _heard.append(number)


def _raise(number: int, _: Any) -> None:
    _note(number, _)
    raise KeyboardInterrupt


def _untold(dropped: Any) -> None:
    """Where Ctrl-C comes while a library cleans up, Python drops the exception; it is noted all the same."""
    if dropped.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(dropped)


def end_if_heard() -> None:
    """Before something long begins."""
    if _heard:
        raise KeyboardInterrupt


def _streams_are_open() -> bool:
    """Whether there is a standard output. What it cannot encode is written by its number, not refused; and no file that
    is opened later gets the number of a stream that was closed."""
    there = sys.stdout is not None
    while (unused := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(unused)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")
    return there


def nobody_reads() -> int:
    """Whoever read standard output has enough; Python must not try to write what is left when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def fail(message: str) -> int:
    """Say on standard error why it could not be run."""
    print(f"jaxnets: {message}", file=sys.stderr)
    return 2
