"""`jaxnets export`: a trained net as one file that JAX alone can run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import flatbuffers  # noqa: F401  what JAX writes such files with; where it is missing, this says so at once
import jax
import jax.numpy as jnp
import tyro
from jax import export

from jaxnets.cli import _nets, _recipes, _training
from jaxnets.cli._guard import guarded
from jaxnets.cli._parsing import parse, said
from jaxnets.train._checkpoint import write_whole

ABOUT = """\
A trained net as one file, for a server that has jax and flatbuffers, and not jaxnets: numbers in, probabilities out,
of any number of examples, of any length.

    jaxnets export runs/rnn-digits-1 --out digits.jaxnet

FILE.json beside it lists the inputs in their order, the classes and the preprocessing. To serve it:
    net = jax.export.deserialize(bytearray(open("digits.jaxnet", "rb").read()))
    probabilities = net.call(x)

Exit code: 0 done, 2 it could not be."""
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@dataclass
class Options:
    """Command-line options."""

    dir: Annotated[tyro.conf.Positional[str], said("DIR")]
    """The folder of a run."""
    out: Annotated[str, said("FILE")]
    """The file to write; one that is there is replaced once the new one is whole."""
    json: Annotated[bool, said("")] = False
    """Print JSON, and nothing else, on standard output."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = parse(Options, "export", ABOUT, argv)
    return guarded(lambda: _export(options), options.json)


def _export(options: Options) -> int:
    out = Path(options.out)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out: no such folder: {out.parent}")
    beside = out.with_name(out.name + ".json")
    if out.is_dir():
        raise ValueError(f"--out must be a file; {out} is a folder")
    if beside.exists() and not _is_of_an_export(beside):
        raise ValueError(f"--out {out}: {beside} is there and belongs to no export; choose another name")
    config = _training.config_of(options.dir)
    params, inputs = _training.best(options.dir, config), _inputs(config)
    predict = _nets.predict_of(config.net, config.recipe.every_step)
    function = jax.jit(lambda *given: predict(params, **dict(zip(inputs, given, strict=True))))
    exported = export.export(function, platforms=PLATFORMS)(*inputs.values())
    told = {
        "inputs": {name: {"dtype": a.dtype.name, "shape": list(map(str, a.shape))} for name, a in inputs.items()},
        "output": {"dtype": exported.out_avals[0].dtype.name, "shape": list(map(str, exported.out_avals[0].shape))},
        "classes": config.recipe.classes,
        "net": config.net,
        "recipe": _recipes.to_json(config.recipe),
    }
    write_whole(out, bytes(exported.serialize()))
    write_whole(beside, json.dumps(told, indent=2).encode())
    if options.json:
        print(json.dumps({"ok": True, "out": str(out), **{k: told[k] for k in ("inputs", "output", "classes")}}))
        return 0
    shapes = ", ".join(f"{name} {a.dtype}[{', '.join(map(str, a.shape))}]" for name, a in inputs.items())
    print(f"{out}: {config.name}, of {shapes}; {out}.json describes the classes and the preprocessing")
    return 0


def _is_of_an_export(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(found, dict) and {"inputs", "output", "classes", "recipe"} <= set(found)


def _inputs(config: _training.Config) -> dict[str, jax.ShapeDtypeStruct]:
    """What the net takes, by name: of any number of examples, and of any length where they have one."""
    recipe, scope = config.recipe, export.SymbolicScope()

    def of(dtype: Any, *sizes: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(export.symbolic_shape(", ".join(map(str, sizes)), scope=scope), dtype)

    if recipe.tokens:
        return {"x": of(jnp.int32, "batch", "length"), "lengths": of(jnp.int32, "batch")}
    sequence = ("length",) if config.net in ("rnn", "textconv") else ()
    return {name: of(jnp.float32, "batch", *sequence, width) for name, width in recipe.widths.items()}
