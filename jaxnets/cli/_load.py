"""Functions and arguments out of somebody's file."""

import difflib
import inspect
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxnets.check._gradient import drawn
from jaxnets.check._names import call


class Files:
    """The files of one command, each run once, their folders on the path of imports while this is open."""

    def __init__(self) -> None:
        self.modules: dict[Path, ModuleType] = {}
        self.path = list(sys.path)

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: Any) -> None:
        sys.path[:] = self.path

    def get(self, spec: str, option: str, beside: str = "") -> Any:
        """What `FILE.py:name` names; `name` alone is looked for in the file of `beside`."""
        file, colon, name = spec.rpartition(":")
        if not colon and beside and not name.endswith(".py"):
            file = beside.rpartition(":")[0]
        if not file or not name:
            raise ValueError(f"{option}: expected FILE.py:name; got {spec!r}")
        module = self._module(Path(file), option)
        if not hasattr(module, name):
            raise ValueError(f"{option}: {file} has no {name!r}; {_functions_of(module, name)}")
        return getattr(module, name)

    def function(self, spec: str, option: str, beside: str = "") -> Callable[..., Any]:
        """The same, where it must be a function."""
        found = self.get(spec, option, beside)
        if not callable(found):
            raise TypeError(f"{option}: {spec} is no function but {type(found).__name__}")
        return found

    def _module(self, path: Path, option: str) -> ModuleType:
        path = path.resolve()
        if path not in self.modules:
            if not path.is_file():
                raise FileNotFoundError(f"{option}: no such file: {path}")
            self.modules[path] = _run(path, option)
        return self.modules[path]


def _run(path: Path, option: str) -> ModuleType:
    """Like an import by path, but always of the file as it stands: nothing compiled is kept or looked for."""
    linecache.checkcache(str(path))
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        where = f" line {error.lineno}: `{(error.text or '').strip()}`" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"{option}: {path}{where} is no Python: {error.args[0]}") from error
    module = ModuleType(f"_jaxnets_checked_{path.stem}_{len(sys.modules)}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    sys.path.insert(0, str(path.parent))
    call(f"{option}: {path.name}", exec, code, module.__dict__)
    return module


def _functions_of(module: ModuleType, wanted: str) -> str:
    own = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
    near = difflib.get_close_matches(wanted, own, 1)
    told = f"it has the functions {', '.join(own)}" if own else "it has no functions"
    return f"did you mean {near[0]!r}? {told}" if near else told


def arguments(example: Any, spec: str) -> tuple[Any, ...]:
    """The tuple of arguments: `example` itself, or what it returns."""
    example = drawn(example, f"--args {spec}")
    if not isinstance(example, tuple | list) or hasattr(example, "_fields"):
        raise TypeError(
            f"--args: {spec} must be a tuple of the function's arguments, or return one; got "
            f"{type(example).__name__}. For a single argument write (x,)."
        )
    if not example:
        raise ValueError(f"--args: {spec} is empty: there is nothing to differentiate by")
    return tuple(example)
