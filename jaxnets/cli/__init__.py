"""The shell command `jaxnets`."""

import contextlib
import difflib
import importlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

COMMANDS = {
    "check": "is my gradient right; if not, which line is wrong, and why",
    "demo": "see everything: derivations checked, nets trained, one page with the results",
    "train": "train a net on your data, or on a built-in task",
    "resume": "continue an interrupted run",
    "eval": "loss and accuracy of a trained net",
    "predict": "lines in, probabilities out",
    "export": "a trained net as one file that runs without jaxnets",
    "completion": "let your shell complete commands and options",
}
START = """\
jaxnets checks derivatives written by hand, and trains nets by them.

    jaxnets check homework.py:loss --by-hand grads      is my gradient right? which line is wrong?
    jaxnets check model.py:loss --rules                 is every custom_vjp rule right?
    jaxnets demo                                        see everything, in a little over a minute
    jaxnets train textconv --data tsv:messages.tsv      train a net on label<TAB>text lines
{run}
`jaxnets --help` lists all commands."""
INTERRUPTED = 130
_NEEDED = {"tyro", "rich", "safetensors", "sklearn", "matplotlib", "flatbuffers"}
_heard: list[int] = []  # Ctrl-C, in this command


def shell() -> NoReturn:
    """The command of the shell. Interrupted, it ends at once: what JAX has begun would go on while Python shuts down,
    and can crash it."""
    code = main()
    sys.stderr.flush()
    if code == INTERRUPTED:
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `jaxnets COMMAND …`; returns the exit code: 0 right, 1 something wrong, 2 could not be run."""
    try:
        _heard.clear()
        with _on_ctrl_c(_note):
            if not _streams_are_open():
                return fail("standard output is closed; send it to a file, or to /dev/null")
            code = _run([*(sys.argv[1:] if argv is None else argv)])
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        return nobody_reads()
    except KeyboardInterrupt:
        if "--json" in (sys.argv[1:] if argv is None else argv):
            print('{"ok": false, "interrupted": true}', flush=True)
        fail("interrupted")
        return INTERRUPTED
    except OSError as error:  # a full disk, say
        nobody_reads()
        return fail(f"standard output: {error.strerror or error}")


def _run(argv: list[str]) -> int:
    if not argv:
        print(START.format(run=_newest_run()), flush=True)
        return 0
    name, *rest = argv
    if name in ("-h", "--help"):
        commands = "".join(f"  {c:<12}{what}\n" for c, what in COMMANDS.items())
        print(f"usage: jaxnets COMMAND …\n\n{commands}\n`jaxnets COMMAND --help` tells more.", flush=True)
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return fail(f"no such command: {name!r}; {hint}There are {', '.join(COMMANDS)}")
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
        return 0 if stop.code is None else stop.code if isinstance(stop.code, int) else 2


def _newest_run() -> str:
    """What can be done with the run that was begun here last."""
    configs = [*Path().glob("*/config.json"), *Path("runs").glob("**/config.json")]
    runs = [path.parent for path in configs if any(path.parent.glob("step-*.safetensors"))]
    if not runs:
        return ""
    run = max(runs, key=lambda folder: (folder / "config.json").stat().st_mtime)
    name = shlex.quote(str(run))
    lines = {f"eval {name}": "how good is the net that was trained here last?", f"predict {name} < lines": "ask it"}
    return "".join(f"    jaxnets {command:<44}{what}\n" for command, what in lines.items())


@contextlib.contextmanager
def _on_ctrl_c(do: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, hook, sys.unraisablehook = signal.signal(signal.SIGINT, do), sys.unraisablehook, _untold
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler or signal.default_int_handler)
        sys.unraisablehook = hook


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
