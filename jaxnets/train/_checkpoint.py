"""Checkpoints: one safetensors file each, arrays and record together, whole or not there.

A file is written beside its place, flushed to the disk, and renamed; a digest over all of it is checked before anything
is read. The last `KEPT` stay, so that a damaged one has another before it. Nothing that is read can run code.
"""

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets._shapes import Call
from jaxnets.train._keys import is_key

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

KEPT = 2
FORMAT = "jaxnets 1"
_NAME = re.compile(r"step-(\d+)\.safetensors")


def save(folder: str | Path, step: int, tree: Any, record: dict[str, Any]) -> Path:
    """Keep the arrays of `tree` and `record` (anything of JSON) as the checkpoint of `step`; those of smaller steps go,
    but for the last. On failure what was there is still there."""
    folder, step, call = Path(folder), Call("train.save").size("step", step, least=0), Call("train.save")
    folder.mkdir(parents=True, exist_ok=True)
    arrays, dtypes = {}, {}
    for name, a in _leaves(tree):
        if isinstance(a, np.ma.MaskedArray):
            call.array(name, a)  # refuses it
        a = np.asarray(jax.random.key_data(a) if is_key(a) else a)
        if a.dtype.kind in "OSUMmc":
            raise TypeError(f"train.save: {name} must be of real numbers; got {a.dtype}")
        a = a.astype(a.dtype.newbyteorder("="), copy=False)
        dtypes[name] = a.dtype.name
        a = a.view(f"u{a.dtype.itemsize}") if a.dtype.kind == "V" else a  # bfloat16 and the like, by their bits
        arrays[name] = np.asarray(a, order="C")
    try:
        told = json.dumps(record)
    except (TypeError, ValueError) as error:
        call.fail(TypeError, "record", "what JSON can hold (numbers of Python's, strings, lists, dicts)", str(error))
    about = {"format": FORMAT, "record": told, "dtypes": json.dumps(dtypes)}
    about["digest"] = _digest(arrays, about)
    path = folder / f"step-{step:09d}.safetensors"
    write_whole(path, _safetensors().numpy.save(arrays, about))
    older = [other for other in _by_step(folder) if _step(other) < step]
    for old in [*older[: len(older) - KEPT + 1], *folder.glob(".step-*.safetensors.part")]:  # these of a killed process
        old.unlink()
    return path


def load(folder: str | Path, like: Any) -> tuple[Any, dict[str, Any], Path] | None:
    """The newest whole checkpoint of a folder: arrays in the structure of `like`, record, file; None if there is none.
    A leaf comes back as what it is in `like`: an array of JAX's or NumPy's, or a number of Python's.

    A damaged one is reported by a warning and the one before it is tried; if all are damaged, ValueError is raised.
    """
    found = newest(folder)
    return found and (as_in(like, found[0], found[2]), *found[1:])


def newest(folder: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any], Path] | None:
    """As `load`, with arrays by name."""
    paths = _by_step(Path(folder))[::-1]
    for path in paths:
        try:
            arrays, record = _read(path)
        except ValueError as error:
            warnings.warn(f"{error}; the checkpoint before it is tried", stacklevel=2)
            continue
        return arrays, record, path
    if paths:
        raise ValueError(f"{folder}: each of the {len(paths)} checkpoints is damaged")
    return None


def _by_step(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)), key=_step)


def _step(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else -1


def write_whole(path: Path, content: bytes, only_new: bool = False) -> None:
    """Put a file in its place, whole or not at all, whatever happens in between; what was there stays until then. Where
    it is to be `only_new`, FileExistsError if it is there, be it by another process at the same moment."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part" if only_new else f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if only_new:
            _put_if_new(part, path)
        else:
            part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say where
            error.filename = str(path)
        raise
    if os.name == "posix":
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the name, too, is on the disk
        finally:
            os.close(descriptor)


class InUse(ValueError):  # noqa: N818
    """Another run is at work in the folder."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Within it no other run gets the folder, be it of another process; one that is killed leaves no trace of it. On
    file systems that know no such locks it is as without."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"fit: out ({folder}) is in use by another run; wait until it ends, or stop it") from error
        except OSError:
            pass  # it knows none
        yield
    finally:
        os.close(descriptor)


def _put_if_new(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
        part.unlink()
    except FileExistsError:
        raise
    except OSError as error:  # a file system without links, as of a memory stick: looked at, then put there
        if path.exists():
            raise FileExistsError(error.errno, "is there", str(path)) from error
        part.replace(path)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error})") from error
    if about.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint of jaxnets (format {about.get('format')!r}, expected {FORMAT!r})")
    if about.pop("digest", None) != _digest(arrays, about):
        raise ValueError(f"{path}: damaged (its content is not what was written)")
    for name, dtype in json.loads(about["dtypes"]).items():
        arrays[name] = arrays[name].view(jnp.dtype(dtype))
    return arrays, json.loads(about["record"])


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install 'jaxnets[cli]'") from error
    return safetensors


def _digest(arrays: dict[str, np.ndarray], about: dict[str, str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(about):
        digest.update(f"{name}={about[name]}\n".encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}\n".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def as_in(like: Any, arrays: dict[str, np.ndarray], path: Path) -> Any:
    """Arrays by name -> the structure of `like`, whose names, shapes and dtypes they must have."""
    found = []
    for name, leaf in _leaves(like):
        wanted = jax.random.key_data(leaf) if is_key(leaf) else leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        expected = f"{name} {wanted.dtype}{list(wanted.shape)}"
        if name not in arrays:
            raise ValueError(f"{path}: has no {expected}; was it written by another net or optimizer?")
        a = arrays.pop(name)
        if a.shape != wanted.shape or a.dtype != wanted.dtype.newbyteorder("="):
            raise ValueError(f"{path}: {name} is {a.dtype}{list(a.shape)}; expected {expected}")
        found.append(_as(leaf, a, f"{path}: {name}"))
    if arrays:
        raise ValueError(f"{path}: has {', '.join(arrays)}, which this net and optimizer do not have")
    return jax.tree.unflatten(jax.tree.structure(like), found)


def _as(leaf: Any, a: np.ndarray, what: str) -> Any:
    """What was read, as what the leaf is: never with fewer digits than were written."""
    if isinstance(leaf, np.ndarray):
        return a
    if isinstance(leaf, bool | int | float | complex | np.generic):
        return type(leaf)(a[()])
    if jax.dtypes.canonicalize_dtype(a.dtype) != a.dtype:
        switch = 'switch 64 bits on with jax.config.update("jax_enable_x64", True)'
        raise ValueError(f"{what} is {a.dtype}, which JAX would narrow here: {switch}")
    b = jnp.asarray(a)
    return jax.random.wrap_key_data(b, impl=jax.random.key_impl(leaf)) if is_key(leaf) else b


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    """By names such as `params.W.0`; by those that leave no doubt (`['a.b']`) where two would be the same, or one is
    what the file's format keeps for itself."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for simple in (True, False):
        names = [jax.tree_util.keystr(path, simple=simple, separator="." if simple else "") for path, _ in leaves]
        if len(set(names)) == len(names) and "__metadata__" not in names:
            break
    return [(name, leaf) for name, (_, leaf) in zip(names, leaves, strict=True)]
