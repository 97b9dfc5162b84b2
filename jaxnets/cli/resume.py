"""`jaxnets resume`: a run that was interrupted goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxnets.cli import _devices, _joining, _training, train
from jaxnets.cli._parsing import parse, said
from jaxnets.train import _processes as between

ABOUT = """\
Go on with a run that was interrupted, from its last checkpoint: it ends with the same bits as if it never had been
(on as many devices as before; on others, with the same numbers but for rounding).

    jaxnets resume runs/rnn-digits-1

Net, options and data are those of its config.json; data that have changed since are refused. Of several processes
(--coordinator) the first alone needs DIR, and each the data.

Exit code: 0 trained, 2 it could not be, 130 interrupted again."""


@dataclass
class Options:
    """Command-line options."""

    dir: Annotated[tyro.conf.Positional[str], said("DIR")]
    """The folder of a run."""
    devices: Annotated[str, said("N|auto")] = "1"
    """Devices that share each batch, as in `jaxnets train`; another number than before, if you like."""
    coordinator: Annotated[str, said("HOST:PORT")] = ""
    """Where process 0 runs, and a free port there; for a run of several processes."""
    processes: Annotated[int, said("N")] = 1
    """How many processes the run has; each is started with this command."""
    process: Annotated[int, said("I")] = 0
    """Which of them this is, from 0, which writes and shows."""
    json: Annotated[bool, said("")] = False
    """Print JSON, a line an epoch and one at the end, and nothing else, on standard output."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = parse(Options, "resume", ABOUT, argv)

    def resume() -> int:
        _devices.prepare(options.devices)
        with _joining.joined(options.coordinator, options.processes, options.process) as several:
            if several:
                between.check_alike({"the options": f"{options.processes} {options.devices}"})
                _joining.belongs_to(Path(options.dir))
            content = b"" if several and options.process else _training.content_of(options.dir)
            config = _training.config_of(options.dir, between.from_first(content) if several else content)
            found, mesh = _training.data_of(config), _devices.mesh(options.devices, config.shapes)
            return train.run(config, found, Path(options.dir), options.json, mesh, new=False)

    return _joining.alone_or_beside("resume", argv, options, resume)
