"""The worksheets' derivations come out as the page says: right, or wrong at their line, with their cause."""

import jax
import pytest

from jaxnets.check import CallerError, worksheets

CASES = worksheets.cases()
# tag -> verdict, first wrong line, a kind of cause that must be told: the page's own table, in its order
PAGE = [
    *((f"P{n}", "right", None, None) for n in range(1, 7)),
    ("X1", "right", None, None),
    ("X2", "wrong", "U", "place"),
    ("X3", "right", None, None),
    ("X4", "wrong", "U", "factor"),
    ("X5", "wrong", "x", "factor"),
    ("X6", "right", None, None),
    ("X7", "wrong", "W", "truncation"),
    ("X8", "right", None, None),
    ("X9", "right", None, None),
    ("X9", "wrong", "z_y", "nan"),
    ("X10", "error", None, None),
    ("X11", "wrong", "z", "shape"),
]


def test_all_are_there():
    assert [case.tag for case in CASES] == [tag for tag, *_ in PAGE]


@pytest.mark.parametrize("n", range(len(PAGE)), ids=[f"{tag}-{verdict}" for tag, verdict, *_ in PAGE])
def test_as_the_page_says(n):
    """And what stands before the first wrong line is right; the case's part of the table is narrow."""
    tag, verdict, line, kind = PAGE[n]
    report = CASES[n].check()
    assert CASES[n].expects(report)
    check_table([CASES[n]], [report], [tag])
    if verdict == "error":
        assert isinstance(report, CallerError)
        assert "(3,)" in str(report)  # both sizes of a product that cannot be made
        assert "(6,)" in str(report)
        return
    assert report.ok == (verdict == "right"), report
    assert report.first == line, report
    if line:
        assert kind in [cause.kind for cause in report[line].causes[:3]], report
        names = [leaf.name for leaf in report]
        before = names[: names.index(line)]
        assert before or tag in ("X5", "X9")  # whose first line it is
        assert all(report[name].verdict == "right" for name in before)


def check_table(cases, reports, tags):
    lines = list(worksheets.table(zip(cases, reports, strict=True)))
    assert max(map(len, lines)) <= 112  # two of the letters are combining, and have no width
    assert [line.split()[0] for line in lines[1:] if line[0] != " "] == tags
    assert not any("UNEXPECTED" in line for line in lines)


def test_table_of_several():
    """Right, wrong and what cannot be run, one below the other; every case's own part is looked at above."""
    shown = [0, 10, 16]
    check_table([CASES[n] for n in shown], [CASES[n].check() for n in shown], [PAGE[n][0] for n in shown])


def test_what_is_not_expected_is_said():
    wrong, right = CASES[10], CASES[3]
    report = wrong.check()
    assert not right.expects(report)
    assert not wrong._replace(line="r").expects(report)
    assert not wrong._replace(kinds=("batch",)).expects(report)
    assert not CASES[16].expects(report)
    assert any("UNEXPECTED" in line for line in worksheets.table([(right, report)]))


def test_settings_of_the_caller_stay_as_they_were():
    with jax.enable_x64(False):
        assert CASES[0].check().ok
        assert not jax.config.jax_enable_x64
