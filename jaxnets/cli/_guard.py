"""Around a command: faults are one line, Ctrl-C is heard between two steps, a closed pipe ends quietly."""

import contextlib
import json
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType

from jaxnets.cli import INTERRUPTED, end_if_heard, fail, nobody_reads


class Stop:
    """Whether somebody wants it to end."""

    asked = False


def guarded(command: Callable[[], int], as_json: bool = False) -> int:
    """Run it; returns the exit code."""
    try:
        with _warnings_as_lines():
            return command()
    except BrokenPipeError:
        return nobody_reads()
    except KeyboardInterrupt:
        if as_json:
            print(json.dumps({"ok": False, "interrupted": True}), flush=True)
        fail("interrupted")
        return INTERRUPTED
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except (ValueError, TypeError, ImportError, FloatingPointError) as error:
        message = str(error)
    except Exception as error:  # ours: told with its place, since a trace says nothing to who runs the command
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"the command itself failed, {type(error).__name__} at {place.name}:{place.lineno}: {error}"
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in message:
            message = f"there is not enough memory for these data and sizes ({error})"
    message = " ".join(message.split())
    if as_json:
        print(json.dumps({"ok": False, "error": message}), flush=True)
    return fail(message)


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Within it the first SIGINT or SIGTERM is only noted; the second ends as it would elsewhere."""
    stop = Stop()
    end_if_heard()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        print("\njaxnets: saving after the steps at hand; once more ends at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """A damaged checkpoint is told by a warning, once; here it is a line like others."""
    told = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in told:
            told.add(str(message))
            print(f"jaxnets: {message}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", ".*the checkpoint before it is tried", UserWarning)
        warnings.showwarning = show
        yield
