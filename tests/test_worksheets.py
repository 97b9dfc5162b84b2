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


@pytest.fixture(scope="module")
def found():
    return {}


@pytest.mark.parametrize("n", range(len(PAGE)), ids=[f"{tag}-{verdict}" for tag, verdict, *_ in PAGE])
def test_as_the_page_says(n, found):
    _, verdict, line, kind = PAGE[n]
    found[n] = report = CASES[n].check()
    assert CASES[n].expects(report)
    if verdict == "error":
        assert isinstance(report, CallerError)
        return
    assert report.ok == (verdict == "right"), report
    assert report.first == line, report
    if line:
        assert kind in [cause.kind for cause in report[line].causes[:3]], report


def test_lines_before_the_first_wrong_one_are_right(found):
    for n in (7, 9, 12, 17):  # X2, X4, X7, X11
        report = found.get(n) or CASES[n].check()
        names = [leaf.name for leaf in report]
        before = names[: names.index(report.first)]
        assert before
        assert all(report[name].verdict == "right" for name in before)


def test_a_product_that_cannot_be_made_names_both_sizes():
    error = CASES[16].check()
    assert "(3,)" in str(error)
    assert "(6,)" in str(error)


def test_what_is_not_expected_is_said():
    wrong, right = CASES[10], CASES[3]
    report = wrong.check()
    assert not right.expects(report)
    assert not wrong._replace(line="r").expects(report)
    assert not wrong._replace(kinds=("batch",)).expects(report)
    assert not CASES[16].expects(report)
    assert any("UNEXPECTED" in line for line in worksheets.table([(right, report)]))


def test_table_is_narrow(found):
    shown = [0, 5, 7, 9, 10, 15, 16, 17]  # right, wrong in every way, and what cannot be run
    lines = list(worksheets.table([(CASES[n], found.get(n) or CASES[n].check()) for n in shown]))
    assert max(map(len, lines)) <= 112  # two of the letters are combining, and have no width
    assert [line.split()[0] for line in lines[1:] if line[0] != " "] == [PAGE[n][0] for n in shown]
    assert not any("UNEXPECTED" in line for line in lines)


def test_settings_of_the_caller_stay_as_they_were():
    with jax.enable_x64(False):
        assert CASES[0].check().ok
        assert not jax.config.jax_enable_x64
