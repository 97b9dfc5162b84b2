"""The README does what it says: its code runs and prints what stands below it, its tags stand in the code."""

import re
from pathlib import Path

import jax
import pytest

from jaxnets import cli

ROOT = Path(__file__).resolve().parent.parent
# Fewer steps and epochs than the README has: of what it prints, only figures that are not compared depend on these.
LESS = {"(128, 784, 1)": "(128, 56, 1)", "length=100": "length=5", "epochs=40": "epochs=2"}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the README's figures are those of a CPU")
@pytest.mark.parametrize("replaced", [LESS, {}], ids=["less", "as it stands"])
def test_example(replaced, capsys):
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n((?:(?!```).)*)```\s*```text\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    assert all(much in "".join(code for code, _ in blocks) for much in LESS)
    names = {}
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for code, output in blocks:
            for much, less in replaced.items():
                code = code.replace(much, less)
            exec(code, names)
            assert _without_rounding(capsys.readouterr().out) == _without_rounding(output)


def test_homework(tmp_path, capsys, monkeypatch):
    text = (ROOT / "README.md").read_text()
    code, options, output = re.search(
        r"```python\n(# homework.py\n.*?)```\s*```bash\n\S+/jaxnets (.*?)\n```\s*```text\n(.*?)```", text, re.DOTALL
    ).groups()
    (tmp_path / "homework.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert cli.main(options.split()) == 1
    assert _without_rounding(capsys.readouterr().out) == _without_rounding(output)
    assert (tmp_path / "errors.png").stat().st_size > 10_000


def _without_rounding(text):
    """Rounding errors vary with the machine, megabytes with the compiler, and with both the epoch at which a run stops:
    that they are there is compared, not more."""
    return re.sub(r"\d+e[-+]\d+|\d+ MB|\d+ epochs|\d\.\d+", "#", text)


ROOMS = [("H", "heads", 7), ("C", "textconv", 7), ("R", "rnn", 7), ("G", "gated", 7), ("D", "dense", 4)]


@pytest.mark.parametrize(("letter", "room", "count"), ROOMS)
def test_every_tag_stands_at_a_line_of_code(letter, room, count):
    lines = (ROOT / "jaxnets" / f"{room}.py").read_text().splitlines()
    tags = [line.split("  # ", 1)[1] for line in lines if "  # " in line]
    for n in range(1, count + 1):
        assert any(re.search(rf"\(.*\b{letter}{n}\b", tag) for tag in tags), f"({letter}{n}) in {room}.py"
