"""Recipes: what comes later becomes numbers as in training, or is refused by name."""

import numpy as np
import pytest

from jaxnets import data
from jaxnets.cli import _labels, _recipes, _sources
from jaxnets.cli._labels import classes_of, numbered, numbers_of_line, whole_labels

RNG = np.random.default_rng(0)
ALL = np.arange(6)
IDX, NPZ, POLARITY = (_sources.Source(kind, ("a", "b")) for kind in ("idx", "npz", "polarity"))


def arrays(net, source, **found):
    return _recipes.learn({name: np.asarray(a) for name, a in found.items()}, ALL, net, source)


def told(recipe, source, **found):
    return recipe.data({name: np.asarray(a) for name, a in found.items()}, np.arange(len(found["y"])), source)


IMAGES, Y = RNG.integers(0, 256, (6, 4, 4)).astype(np.uint8), ALL % 2
PIXELS = arrays("dense", IDX, x=IMAGES, y=Y)
TOKENS = arrays("rnn", NPZ, x=RNG.integers(0, 9, (6, 5)), y=Y, lengths=[5, 4, 3, 2, 1, 5])
STEPS = arrays("rnn", NPZ, x=RNG.normal(size=(6, 5, 2)), y=RNG.integers(0, 2, (6, 5)), lengths=[5, 4, 3, 2, 1, 5])


def replaced(a, at, value):
    a = np.array(a)
    a[at] = value
    return a


REFUSED = {
    "as many labels": (PIXELS, IDX, {"x": IMAGES, "y": Y[:5]}, "must be as many of each, at least one; got 6 of x, 5 of y"),
    "floats for bytes": (PIXELS, IDX, {"x": IMAGES / 255, "y": Y}, "x must be bytes, 0 to 255, as in training; got float64"),
    "bytes for floats": (arrays("dense", NPZ, x=IMAGES / 255, y=Y), IDX, {"x": IMAGES, "y": Y}, "no bytes, as in training; got uint8"),
    "a token that is no row": (TOKENS, NPZ, {"x": replaced(np.zeros((6, 5), int), (3, 1), 99), "y": Y}, r"x must be from 0 to \d; got 99 at \[3, 1\]"),
    "a token beyond int32": (TOKENS, NPZ, {"x": replaced(np.zeros((6, 5), int), (0, 0), 2**32 + 1), "y": Y}, "got 4294967297 at"),
    "tokens of floats": (TOKENS, NPZ, {"x": np.full((6, 5), 1.5), "y": Y}, "x must be whole numbers, as in training; got float64"),
    "lengths": (TOKENS, NPZ, {"x": np.zeros((6, 5), int), "y": Y, "lengths": [5, 5, 6, 5, 5, 5]}, "lengths must be from 0 to 5, the steps of x; got 6 of example 2"),
    "NaN": (STEPS, NPZ, {"x": replaced(np.zeros((6, 5, 2)), (2, 0, 1), np.nan), "y": np.zeros((6, 5), int)}, r"x must be finite, in float32 too; got nan at \[2, 0, 1\]"),
    "beyond float32": (STEPS, NPZ, {"x": replaced(np.zeros((6, 5, 2)), (2, 0, 1), 1e39), "y": np.zeros((6, 5), int)}, r"got 1e\+39 at \[2, 0, 1\]"),
    "a target an example": (STEPS, NPZ, {"x": np.zeros((6, 5, 2)), "y": Y}, r"y must be \[n, steps\], as in training; got \[6\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_do_not_fit_are_refused(name):
    recipe, source, found, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        told(recipe, source, **found)


def test_a_cell_is_a_number_here_as_in_a_file():
    """`1_000` and `inf`, which Python reads as numbers, are none in either."""
    table = {"pay": np.array([1.0, 2, 3, 4, 5, 6]), "who": np.array(["a", "b"] * 3)}
    source = _sources.Source("csv", ("t.csv",), x=("pay",), y="who")
    recipe = _recipes.learn(table, ALL, "dense", source)
    assert recipe.inputs(["1e1", '""'])["x"].shape == (2, 1)
    for cell in ("1_000", "inf", "nine"):
        with pytest.raises(ValueError, match=f"column 'pay' must be numbers; got '{cell}'"):
            recipe.inputs(["1", cell])


def test_what_lies_beyond_a_length_is_never_read():
    x, lengths = np.zeros((6, 5, 2)), np.array([2, 5, 5, 5, 5, 5])
    x[0, 2:] = np.nan
    assert told(STEPS, NPZ, x=x, y=np.zeros((6, 5), int), lengths=lengths)["lengths"].tolist() == lengths.tolist()
    tokens = np.where(np.arange(5) < lengths[:, None], 1, -7)
    assert told(TOKENS, NPZ, x=tokens, y=Y, lengths=lengths)["x"].shape == (6, 5)


def test_a_token_of_the_part_held_out_is_a_row_too():
    x = np.zeros((6, 5), int)
    x[5] = 30
    assert _recipes.learn({"x": x, "y": Y}, np.arange(4), "rnn", NPZ).picked == 31


def test_bytes_are_read_as_bytes_of_other_files_too():
    assert told(PIXELS, IDX, x=IMAGES, y=Y)["x"].max() <= 1
    np.testing.assert_array_equal(told(PIXELS, NPZ, x=IMAGES, y=Y)["x"], told(PIXELS, IDX, x=IMAGES, y=Y)["x"])


def test_polarity_goes_by_names_where_they_match():
    found = data.Texts(["bad", "good"] * 3, np.array([0, 1] * 3, np.int32), ("neg", "pos"))
    recipe = _recipes.learn(found, ALL, "textconv", POLARITY)

    def targets(classes, labels):
        swapped = found._replace(classes=classes, labels=np.array(labels, np.int32))
        buckets = recipe.data(swapped, ALL, POLARITY)
        return np.concatenate([b["y"] for b in (buckets if isinstance(buckets, list) else [buckets])]).tolist()

    assert targets(("pos", "neg"), [1, 0] * 3) == targets(("neg", "pos"), [0, 1] * 3)
    assert targets(("a", "b"), [0, 1] * 3) == targets(("neg", "pos"), [0, 1] * 3)  # of other names, in the same order


def test_labels_are_what_stands_in_the_file(tmp_path):
    names = whole_labels(np.array(["01", "1", "1.0", "-0", str(2**60 + 1), "1e20", "²"]), "here")
    assert names.tolist() == ["01", "1", "1", "0", str(2**60 + 1), "1e20", "²"]
    assert classes_of(np.array(["10", "9", "01", "1"]), "here") == ("01", "1", "9", "10")
    assert classes_of(np.array(["²", "1"]), "here") == ("1", "²")
    assert numbered(names, ("01", "1", "0", "1e20", "²", str(2**60 + 1)), "here").tolist() == [0, 1, 1, 2, 5, 3, 4]
    with pytest.raises(ValueError, match=r"a word or a whole number; got 0\.5"):
        whole_labels(np.array(["1", "0.5"]), "here")
    with pytest.raises(ValueError, match=r"a word or a whole number; got 1e\+20"):
        whole_labels(np.array([1e20]), "here")
    (tmp_path / "a.csv").write_text("x,y\n1,01\n2,1\n")
    assert data.read_csv(tmp_path / "a.csv", text=["y"])["y"].tolist() == ["01", "1"]
    with pytest.raises(ValueError, match="must be a table with the column 'z'; got x, y"):
        data.read_csv(tmp_path / "a.csv", text=["z"])


def test_a_line_of_numbers_beyond_float32_is_refused():
    with pytest.raises(ValueError, match="expected numbers"):
        numbers_of_line("1, 1e39")


def test_a_constant_column_is_not_scaled_by_its_rounding():
    table = {"a": np.full(1000, 37.4)}
    columns = data.Columns.of(table, ["a"])
    assert abs(columns.rows({"a": np.array([37.5])})[0, 0]) < 0.11
    with pytest.raises(ValueError, match=r"column 'a' must be within float32; got 1e\+300"):
        columns.rows({"a": np.array([1e300])})


def test_one_long_cell_does_not_make_all_as_long(tmp_path):
    """What NumPy's strings would take: 100,000 characters for each of 12,000 rows."""
    rows = "".join(f"{i},x{i}\n" for i in range(12_000))
    (tmp_path / "long.csv").write_text(f"n,note\n{rows}1,{'y' * 100_000}\n")
    table = data.read_csv(tmp_path / "long.csv")
    assert table["n"].dtype == np.float64
    assert table["note"].nbytes < 2**20
    assert len(table["note"][-1]) == 100_000
    assert _sources.digest(table) == _sources.digest(data.read_csv(tmp_path / "long.csv"))


def test_of_a_long_text_the_end_tells_what_comes_next():
    recipe = _recipes.learn("abcd" * 500, np.arange(2000), "rnn", _sources.Source("characters", ("t.txt",)))
    long, end = recipe.inputs(["x" + "abcd" * 100]), recipe.inputs(["abcd" * 100])
    assert long["lengths"].tolist() == [400]
    assert (long["x"][0, :400] == end["x"][0, :400]).all()


def test_files_are_classes_by_their_names(capsys):
    def texts(*files):
        return data.Texts(["a", "b"] * 3, np.arange(6) % 2, files)

    def labels(*files):
        (found,) = recipe.data(texts(*files), ALL, POLARITY)
        return [int(y) for y in found["y"][np.argsort(found["x"][:, 0], kind="stable")]]

    recipe = _recipes.learn(texts("neg.txt", "pos.txt"), ALL, "textconv", POLARITY)
    assert labels("neg.txt", "pos.txt") == labels("neg", "pos") == [0, 0, 0, 1, 1, 1]
    assert labels("pos.txt", "neg.old") == [1, 1, 1, 0, 0, 0]
    assert capsys.readouterr().err == ""
    assert labels("first", "second") == [0, 0, 0, 1, 1, 1]
    assert (
        capsys.readouterr().err == "jaxnets: classes by the order of the files: first as neg.txt, second as pos.txt\n"
    )
    with pytest.raises(
        ValueError, match=r"must be files that are called as the classes are .*; got pos.txt, later.txt"
    ):
        labels("pos.txt", "later.txt")


def test_labels_keep_zero_characters():
    found = data.Texts(["a"] * 6, ALL % 3, ("a", "a\0", "b"))
    assert classes_of(_labels.labels_of(found), "here") == ("a", "a\0", "b")
    assert numbered(_labels.labels_of(found), found.classes, "here").tolist() == [0, 1, 2, 0, 1, 2]


def test_lines_of_numbers_are_numbers():
    for line in ('1,"2"', "1,true", "1,null", "1e999"):
        with pytest.raises(ValueError, match="expected numbers between commas"):
            numbers_of_line(line)
