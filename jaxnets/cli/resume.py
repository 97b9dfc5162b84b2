"""`jaxnets resume`: a run that was interrupted goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxnets.cli import _devices, _run, train
from jaxnets.cli._guard import guarded
from jaxnets.cli._options import parse, said

ABOUT = """\
Go on with a run that was interrupted, from its last checkpoint: it ends with the same bits as if it never had been
(on as many devices as before; on others, with the same numbers but for rounding).

    jaxnets resume runs/rnn-digits-1

Net, options and data are those of its config.json; data that have changed since are refused.

Exit code: 0 trained, 2 it could not be, 130 interrupted again."""


@dataclass
class Options:
    """What can be said on the command line."""

    dir: Annotated[tyro.conf.Positional[str], said("DIR")]
    """The folder of a run."""
    devices: Annotated[str, said("N|auto")] = "1"
    """Devices that share each batch, as in `jaxnets train`; another number than before, if you like."""
    json: Annotated[bool, said("")] = False
    """Print JSON, a line an epoch and one at the end, and nothing else, on standard output."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = parse(Options, "resume", ABOUT, argv)

    def resume() -> int:
        _devices.prepare(options.devices)
        config = _run.config_of(options.dir)
        mesh = _devices.mesh(options.devices, config.shapes)
        return train.run(config, _run.data_of(config), Path(options.dir), options.json, mesh)

    return guarded(resume, options.json)
