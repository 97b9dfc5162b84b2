"""A run of several processes: `--coordinator HOST:PORT --processes N --process I`, the same command for each I.

`jax.distributed` does the work. What a person may have got wrong (an address where nobody answers, a port that is
taken) is looked at before, so that it is told in a line, and in time. Where JAX loses touch with the others it ends the
process that it is in, by a signal, with pages of its own: so the run has a process to itself, and the one that the
person has started stands beside it and says in a line what happened.
"""

import json
import os
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

WAIT = 40  # seconds for the others to come
SILENCE = 30  # seconds after which a process that says nothing counts as gone
PARTING = 300  # seconds that those who are done wait for those who still draw
NOTES = "JAXNETS_NOTES"  # where the two processes of a command leave notes for each other
_NOISE, _WHY = "noise", "why"


@contextmanager
def joined(coordinator: str, processes: int, process: int) -> Iterator[bool]:
    """Within it JAX sees the devices of all processes; whether there are several. To be entered before JAX starts."""
    if processes == 1:
        yield False
        return
    late = f"not all {processes} processes have come to {coordinator} within {WAIT} s"
    if_it_ends(late)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=WAIT,
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=PARTING,
        )
    except jax.errors.JaxRuntimeError as error:
        raise Lost(f"{late} ({str(error).splitlines()[0]})") from error
    if_it_ends(GONE)
    with watched(True, str):
        yield True
        jax.distributed.shutdown()


def if_it_ends(why: str) -> None:
    """What is to be said where JAX ends this process."""
    if folder := os.environ.get(NOTES):
        (Path(folder) / _WHY).write_text(why)


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
        _check(options.coordinator, options.processes, options.process)
        return run() if options.processes == 1 else _beside(command, argv, options.json)

    return guarded(begin, options.json)


def _beside(command: str, argv: Sequence[str], as_json: bool) -> int:
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.Popen(
            [sys.executable, "-m", "jaxnets", command, *argv],
            env={**os.environ, NOTES: folder},
            stdin=subprocess.PIPE,  # whose end it sees when this one is no more
            start_new_session=True,  # Ctrl-C comes here alone, and is handed on once
        )
        before = {
            number: signal.signal(number, lambda number, _: run.send_signal(number))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            code = run.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return code if code >= 0 else _told(Path(folder), -code, as_json)


def _told(folder: Path, number: int, as_json: bool) -> int:
    """What to say of a run that a signal has ended."""
    message = f"the run was ended by {signal.Signals(number).name}"
    if number == signal.SIGABRT and (folder / _WHY).exists():
        noise = (folder / _NOISE).read_text(errors="replace").splitlines()
        reasons = [line.partition("absl::Status: ")[2] for line in noise if "absl::Status: " in line]
        message = (folder / _WHY).read_text() + "".join(f" ({reason})" for reason in reasons[:1])
    if as_json:
        print(json.dumps({"ok": False, "error": message}), flush=True)
    return fail(message)


def _settle() -> None:
    """In the process that `beside` has made: what is not Python's own goes to a file; it ends with who made it."""
    noise = os.open(Path(os.environ[NOTES]) / _NOISE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream, number in (("stdout", 1), ("stderr", 2)):
        kept = os.fdopen(os.dup(number), "w", buffering=1, encoding="utf-8", errors="replace")
        setattr(sys, stream, kept)
        os.dup2(noise, number)

    def end_with_the_other() -> None:
        while os.read(0, 1):
            pass
        os._exit(2)

    threading.Thread(target=end_with_the_other, daemon=True).start()


def _check(coordinator: str, processes: int, process: int) -> None:
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
        _check_free(port) if process == 0 else _await(host, port)


def _address(coordinator: str) -> tuple[str, int]:
    host, colon, port = coordinator.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"--coordinator must be HOST:PORT, with a port from 1 to 65535; got {coordinator!r}")
    return host.strip("[]"), int(port)


def _check_free(port: int) -> None:
    """Two services may share a port without a word; here nobody else may have it."""
    for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with socket.socket(family) as trial:
            if family == socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that a program has just left is free
            try:
                trial.bind((everywhere, port))
            except OSError as error:
                raise ValueError(f"--coordinator: port {port} cannot be used here ({error.strerror})") from error


def _await(host: str, port: int) -> None:
    """Process 0 may be started a little later."""
    until = time.monotonic() + WAIT
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except socket.gaierror as error:
            raise ValueError(f"--coordinator: there is no host {host!r} ({error.strerror})") from error
        except OSError as error:
            if time.monotonic() > until:
                told = f"nobody answers at {host}:{port}, {WAIT} s long ({error.strerror or error})"
                raise Lost(f"--coordinator: {told}; is process 0 running there?") from error
        time.sleep(0.2)
