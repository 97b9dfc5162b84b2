"""A run of several processes: `--coordinator HOST:PORT --processes N --process I`, the same command for each I.

`jax.distributed` does the work. What a person may have got wrong (an address where nobody answers, a port that is
taken) is looked at before, so that it is told in a line, and in time. Where JAX loses touch with the others it ends the
process that it is in, by a signal, with pages of its own: so the run has a process to itself, and the one that the
person has started stands beside it and says in a line what happened.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from jaxnets.cli import fail
from jaxnets.cli._guard import guarded
from jaxnets.train._processes import GONE, Lost, watched

WAIT = 40  # seconds for all to come
SILENCE = 30  # seconds after which a process that says nothing counts as gone
PARTING = 300  # seconds that those who are done wait for those who still draw
NOTES = "JAXNETS_NOTES"  # the folder where the two processes of a command leave notes for each other, and until when
_NOISE, _WHY, _FOLDER, _HEARS = "noise", "why", "folder", "hears"


@contextmanager
def joined(coordinator: str, processes: int, process: int) -> Iterator[bool]:
    """Within it JAX sees the devices of all processes; whether there are several. To be entered before JAX starts."""
    if processes == 1:
        yield False
        return
    notes, until = _notes()
    late = f"not all {processes} processes have come to {coordinator} within {WAIT} s, or something else answers there"
    (notes / _WHY).write_text(late)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=max(int(until - time.time()), 5),
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=PARTING,
            coordinator_bind_address=None if socket.has_dualstack_ipv6() else f"0.0.0.0:{_address(coordinator)[1]}",
        )
    except jax.errors.JaxRuntimeError as error:
        raise Lost(_why(late, str(error).splitlines()[0])) from error
    (notes / _WHY).write_text(GONE)
    (notes / _HEARS).touch()
    with watched(True, str):
        yield True
        (notes / _HEARS).unlink()  # what it waits for now it can leave at once
        jax.distributed.shutdown()


def belongs_to(folder: Path) -> None:
    """What there is to go on from, if this process should be ended."""
    (_notes()[0] / _FOLDER).write_text(str(folder))


def to_go_on(folder: Path) -> str:
    """For who has lost a run."""
    kept = max(folder.glob("step-*.safetensors"), default=None)
    told = f"The last good checkpoint is {kept}. " if kept else ""
    return f"{told}To go on: jaxnets resume {folder}"


def alone_or_beside(command: str, argv: Sequence[str], options: Any, run: Callable[[], int]) -> int:
    """Run a command whose options are these: here, or as one of several in a process of its own; its exit code."""
    if os.environ.get(NOTES):
        _settle()
        if code := guarded(run, options.json):  # at its exit JAX would wait for the others, who wait for it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return 0

    def begin() -> int:
        until = time.time() + WAIT
        _check(options.coordinator, options.processes, options.process, until)
        return run() if options.processes == 1 else _beside(command, argv, options.json, until)

    return guarded(begin, options.json)


def _beside(command: str, argv: Sequence[str], as_json: bool, until: float) -> int:
    """A process of its own for the run; what it may be told by signals it is told once it hears."""
    with tempfile.TemporaryDirectory(prefix="jaxnets-") as folder:
        run = subprocess.Popen(
            [sys.executable, "-P", "-m", "jaxnets", command, *argv],
            env={**os.environ, NOTES: f"{folder}:{until}"},
            stdin=subprocess.PIPE,  # whose end it sees when this one is no more
            start_new_session=True,  # Ctrl-C comes here alone, and is handed on
        )
        heard: list[int] = []

        def hand_on(number: int, _: Any) -> None:
            heard.append(number)
            run.send_signal(number if (Path(folder) / _HEARS).exists() and len(heard) < 3 else signal.SIGKILL)

        before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = run.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if heard and code < 0:
            raise KeyboardInterrupt
        return code if code >= 0 else _told(Path(folder), -code, as_json)


def _told(notes: Path, number: int, as_json: bool) -> int:
    """What to say of a run that a signal has ended."""
    message = f"the run was ended by {signal.Signals(number).name}"
    if number == signal.SIGABRT and (notes / _WHY).exists():
        noise = (notes / _NOISE).read_text(errors="replace").splitlines()
        reasons = [line.partition("absl::Status: ")[2] for line in noise if "absl::Status: " in line]
        message = _why((notes / _WHY).read_text(), *reasons[:1])
    if (notes / _FOLDER).exists():
        message += f" {to_go_on(Path((notes / _FOLDER).read_text()))}"
    if as_json:
        print(json.dumps({"ok": False, "error": message}), flush=True)
    return fail(message)


def _why(told: str, reason: str = "") -> str:
    if "incarnation" in reason:
        return "two processes were started with the same --process, or one was started again while the others ran"
    return f"{told} ({reason})" if reason else told


def _notes() -> tuple[Path, float]:
    folder, _, until = os.environ[NOTES].rpartition(":")
    return Path(folder), float(until)


def _settle() -> None:
    """In the process that `_beside` has made: what is not Python's own goes to a file; it ends with who made it."""
    notes, _ = _notes()
    noise = os.open(notes / _NOISE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream, number in (("stdout", 1), ("stderr", 2)):
        kept = os.fdopen(os.dup(number), "w", buffering=1, encoding="utf-8", errors="replace")
        setattr(sys, stream, kept)
        os.dup2(noise, number)

    def end_with_the_other() -> None:
        while os.read(0, 1):
            pass
        shutil.rmtree(notes, ignore_errors=True)
        os._exit(2)

    threading.Thread(target=end_with_the_other, daemon=True).start()


def _check(coordinator: str, processes: int, process: int, until: float) -> None:
    """The three options, and whether the address is as it must be before a run starts."""
    if not 1 <= processes <= 2**16:
        raise ValueError(f"--processes must be from 1 to 65536; got {processes}")
    if not 0 <= process < processes:
        raise ValueError(f"--process must be from 0 to {processes - 1} (--processes {processes}); got {process}")
    if (processes > 1) != bool(coordinator):
        given, lacking = (
            ("--coordinator", "--processes N") if coordinator else ("--processes", "--coordinator HOST:PORT")
        )
        raise ValueError(f"{given} needs {lacking} beside it, the same in every process")
    if processes > 1:
        host, port = _address(coordinator)
        _check_free(port) if process == 0 else _await(host, port, until)


def _address(coordinator: str) -> tuple[str, int]:
    host, colon, port = coordinator.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"--coordinator must be HOST:PORT, with a port from 1 to 65535; got {coordinator!r}")
    return host.strip("[]"), int(port)


def _check_free(port: int) -> None:
    """Two services may share a port without a word; here nobody else may have it."""
    both = ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))
    for family, everywhere in both[: 1 + socket.has_dualstack_ipv6()]:
        with socket.socket(family) as trial:
            if family == socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that a program has just left is free
            try:
                trial.bind((everywhere, port))
            except OSError as error:
                raise ValueError(f"--coordinator: port {port} cannot be used here ({error.strerror})") from error


def _await(host: str, port: int, until: float) -> None:
    """Process 0 may be started a little later."""
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except socket.gaierror as error:
            raise ValueError(f"--coordinator: there is no host {host!r} ({error.strerror})") from error
        except OSError as error:
            if time.time() > until:
                told = f"nobody answers at {host}:{port}, {WAIT} s long ({error.strerror or error})"
                raise Lost(f"--coordinator: {told}; is process 0 running there?") from error
        time.sleep(0.2)
