"""`jaxnets completion`: what a shell needs to complete the commands and their options."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import tyro

from jaxnets.cli import COMMANDS
from jaxnets.cli._parsing import FLAGS, parse, said

ABOUT = """\
Print a script that lets your shell complete commands, options and file names.

    source <(jaxnets completion bash)          in ~/.bashrc
    source <(jaxnets completion zsh)           in ~/.zshrc, after compinit
    jaxnets completion fish | source           in ~/.config/fish/config.fish"""


@dataclass
class Options:
    """Command-line options."""

    shell: Annotated[tyro.conf.Positional[Literal["bash", "zsh", "fish"]], said("bash|zsh|fish")]
    """Your shell."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = parse(Options, "completion", ABOUT, argv)
    commands: Any = Union[  # noqa: UP007
        tuple(
            Annotated[importlib.import_module(f"jaxnets.cli.{name}").Options, tyro.conf.subcommand(name)]
            for name in COMMANDS
        )
    ]
    tyro.cli(commands, prog="jaxnets", args=["--tyro-print-completion", options.shell], config=FLAGS)
    return 0
