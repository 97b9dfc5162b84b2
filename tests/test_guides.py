"""The README and the guides do what they say: their code runs and prints what stands below it, their links lead
somewhere, the tags of the equations stand in the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxnets import cli

ROOT = Path(__file__).resolve().parent.parent
GUIDES = [
    "README.md",
    "jaxnets/README.md",
    "jaxnets/check/README.md",
    "jaxnets/train/README.md",
    "benchmarks/README.md",
]
# Fewer steps and epochs than the guides have: of what they print, only figures that are not compared depend on these.
LESS = {"(128, 784, 1)": "(128, 56, 1)", "length=100": "length=5", "epochs=40": "epochs=2"}


def blocks(guide, kind):
    """The guide's blocks of a kind, each with the output that follows it, or None."""
    found = re.findall(r"```(\w+)\n(.*?)```", (ROOT / guide).read_text(), re.DOTALL)
    following = [*found[1:], ("", "")]
    return [
        (text, after if then == "text" else None)
        for (name, text), (then, after) in zip(found, following, strict=True)
        if name == kind
    ]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the figures are those of a CPU")
@pytest.mark.parametrize("replaced", [LESS, {}], ids=["less", "as it stands"])
@pytest.mark.parametrize("guide", [guide for guide in GUIDES if blocks(guide, "python")])
def test_python(guide, replaced, capsys):
    """Block after block, as somebody would paste them who reads from top to bottom."""
    names = {}
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for code, output in blocks(guide, "python"):
            for much, less in replaced.items():
                code = code.replace(much, less)
            exec(code, names)
            if "args" not in names and "example" in names:
                names["args"] = names["example"]
            printed = capsys.readouterr().out
            if output is not None and not code.startswith("# homework.py"):
                assert without_rounding(printed) == without_rounding(output)


def test_homework(tmp_path, capsys, monkeypatch):
    guide = "jaxnets/check/README.md"
    code = next(code for code, _ in blocks(guide, "python") if code.startswith("# homework.py"))
    command, output = next((c, o) for c, o in blocks(guide, "bash") if "homework.py" in c)
    (tmp_path / "homework.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert cli.main(command.split()[1:]) == 1
    assert without_rounding(capsys.readouterr().out) == without_rounding(output)
    assert (tmp_path / "errors.png").stat().st_size > 10_000


@pytest.mark.skipif("JAXNETS_DATA" not in os.environ, reason="JAXNETS_DATA is not set")
def test_messages_from_the_shell(tmp_path):
    command, output = next((c, o) for c, o in blocks("jaxnets/train/README.md", "bash") if "messages.tsv" in c)
    (tmp_path / "messages.tsv").write_bytes(Path(os.environ["JAXNETS_DATA"], "sms", "SMSSpamCollection").read_bytes())
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PATH": path}
    found = subprocess.run(
        ["sh", "-ec", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert without_numbers(found.stdout) == without_numbers(output)


def test_links_lead_somewhere():
    for guide in GUIDES:
        for target in re.findall(r"\]\(([^)]+)\)", (ROOT / guide).read_text()):
            path, _, anchor = target.partition("#")
            there = (ROOT / guide).parent / path if path else ROOT / guide
            assert there.exists(), f"{guide}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
                anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
                assert anchor in anchors, f"{guide}: {target}; there are {anchors}"


def test_the_front_page_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 220


def without_rounding(text):
    """Rounding errors vary with the machine, megabytes with the compiler, and with both the epoch at which a run stops:
    that they are there is compared, not more."""
    return re.sub(r"\d+e[-+]\d+|\d+ MB|\d+ epochs|\d\.\d+", "#", text)


def without_numbers(text):
    """Where a few steps more or less change each of them."""
    return re.sub(r" *[\d.]+", " #", text)


ROOMS = [("H", "heads", 7), ("C", "textconv", 7), ("R", "rnn", 7), ("G", "gated", 7), ("D", "dense", 4)]


@pytest.mark.parametrize(("letter", "room", "count"), ROOMS)
def test_every_tag_stands_at_a_line_of_code(letter, room, count):
    lines = (ROOT / "jaxnets" / f"{room}.py").read_text().splitlines()
    tags = [line.split("  # ", 1)[1] for line in lines if "  # " in line]
    for n in range(1, count + 1):
        assert any(re.search(rf"\(.*\b{letter}{n}\b", tag) for tag in tags), f"({letter}{n}) in {room}.py"
