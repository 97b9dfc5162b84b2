"""Readers, words to numbers, splits, the built-in tasks; and every way in which a file can be bad."""

import gzip
import os
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxnets import data

REAL = os.environ.get("JAXNETS_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="JAXNETS_DATA is not set")


def idx(array, kind=0x08):
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def put(folder, content, name="file"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("kind", "dtype"), [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4")])
def test_idx(kind, dtype, zipped, tmp_path):
    array = IMAGES.astype(dtype)
    content = idx(array, kind)
    found = data.read_idx(put(tmp_path, gzip.compress(content) if zipped else content))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


def test_texts(tmp_path):
    polarity = data.read_polarity(put(tmp_path, "bad\n\nworse \n", "neg"), put(tmp_path, b"caf\xe9\r\n", "pos"))
    assert polarity.texts == ["bad", "worse ", "café"]  # the second file is Latin-1
    assert polarity.labels.tolist() == [0, 0, 1]
    assert polarity.classes == ("neg", "pos")
    tsv = data.read_tsv(put(tmp_path, "spam\tWin\ta prize\nham\tHi\n"))
    assert tsv.texts == ["Win\ta prize", "Hi"]
    assert tsv.labels.tolist() == [1, 0]
    assert tsv.classes == ("ham", "spam")
    assert data.read_tsv(put(tmp_path, "Label\tText\nham\tHi\n")).classes == ("ham",)
    assert data.read_tsv(put(tmp_path, "spam\tHo\rham\tHi\r")).texts == ["Ho", "Hi"]
    assert data.read_tsv(put(tmp_path, "class\tof its own\nham\tHi\n")).classes == ("class", "ham")
    jsonl = data.read_jsonl(put(tmp_path, '{"t": "a", "l": 3}\n{"t": "b", "l": "x"}\n'), text="t", label="l")
    assert jsonl == (["a", "b"], *jsonl[1:])
    assert jsonl.classes == ("3", "x")
    assert data.read_jsonl(put(tmp_path, '{"text": "a", "label": true}\n{"text": "b", "label": "True"}\n')).classes == (
        "True",
        "true",
    )


def test_csv(tmp_path):
    text = '|a comment\nage, job, sex\n39, "clerk, senior", f\n?, ?, m\n\n4.5, smith, f\n'
    table = data.read_csv(put(tmp_path, text), comment="|")
    np.testing.assert_array_equal(table["age"], [39, np.nan, 4.5])
    assert table["job"].tolist() == ["clerk, senior", "", "smith"]
    assert data.read_csv(put(tmp_path, "1,a\n2,b"), names=["n", "c"])["n"].tolist() == [1, 2]
    quoted = data.read_csv(put(tmp_path, 'a,b\r\n1,"x\n\n|y"\r\n02,z\r\n'), comment="|", text=["a"])
    assert quoted["b"].tolist() == ["x\n\n|y", "z"]
    assert quoted["a"].tolist() == ["1", "02"]


def test_columns_learn_from_the_training_part_alone():
    table = {"n": np.array([0.0, 2.0, np.nan]), "same": np.ones(3), "c": np.array(["x", "y", ""])}
    columns = data.Columns.of(table, ["c", "n", "same"])
    assert columns.size == 4
    other = {"n": np.array([3.0]), "same": np.array([5.0]), "c": np.array(["y"])}
    np.testing.assert_array_equal(columns.rows(other), np.array([[0, 1, 2, 4]], np.float32))
    np.testing.assert_array_equal(columns.rows(table)[2], np.zeros(4))
    with pytest.raises(ValueError, match="column 'c' must be one of x, y; got 'z'"):
        columns.rows(other | {"c": np.array(["z"])})
    with pytest.raises(ValueError, match="column 'n' must be numbers; got 'many'"):
        columns.rows(other | {"n": np.array(["many"])})
    with pytest.raises(ValueError, match="no column 'm'; there are n, same, c"):
        data.Columns.of(table, ["m"])


def test_columns_of_whole_numbers_and_truth_values():
    table = {"n": np.array([0, 1, 2, 3]), "b": np.array([True, False, True, False])}
    np.testing.assert_allclose(data.Columns.of(table, ["n", "b"]).rows(table).mean(0), 0, atol=1e-7)
    for columns, message in (
        ({"n": np.array([1.0, np.inf])}, "column 'n' must be finite"),
        ({"n": np.array([])}, "column 'n' must have at least one number"),
    ):
        with pytest.raises(ValueError, match=message):
            data.Columns.of(columns, ["n"])
    for names in ([], ["n", "n"]):
        with pytest.raises(ValueError, match="names must be different columns, at least one"):
            data.Columns.of(table, names)


def test_characters_and_stretches(tmp_path):
    numbers, alphabet = data.read_characters(put(tmp_path, "banana"))
    assert alphabet == "abn"
    x, y = data.stretches(numbers, 2)
    assert x.tolist() == [[1, 0], [2, 0]]
    assert y.tolist() == [[0, 2], [0, 2]]
    assert "".join(alphabet[i] for i in data.read_characters(put(tmp_path, "nab"), alphabet)[0]) == "nab"
    with pytest.raises(ValueError, match=r"file: must be text of the 3 characters of the alphabet; got 'z' too"):
        data.read_characters(put(tmp_path, "nabz"), alphabet)
    with pytest.raises(ValueError, match=r"numbers must be more than length, 6, .*; got 6"):
        data.stretches(numbers, 6)


def test_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=IMAGES, y=np.arange(2))
    np.testing.assert_array_equal(data.read_npz(path)["x"], IMAGES)


def pickled(folder):
    path = folder / "pickled.npz"
    np.savez(path, x=np.array([{}], dtype=object))
    return path


BAD = {
    "no such file": (lambda d: data.read_idx(d / "no"), FileNotFoundError, "no: no such file"),
    "a folder": (lambda d: data.read_tsv(d), ValueError, "must be a file; it is a folder"),
    "magic": (lambda d: data.read_idx(put(d, b"\x89PNG\r\n")), ValueError, "must be an IDX file.*; got bytes 89 50 4e 47"),
    "empty": (lambda d: data.read_idx(put(d, b"")), ValueError, "must be an IDX file.*; got bytes none"),
    "truncated": (lambda d: data.read_idx(put(d, idx(IMAGES)[:-1])), ValueError, r"must be 40 bytes for \[2, 3, 4\]; got 39 bytes"),
    "too long": (lambda d: data.read_idx(put(d, idx(IMAGES) + b"x")), ValueError, "must be 40 bytes.*; got 41 bytes"),
    "sizes": (lambda d: data.read_idx(put(d, idx(IMAGES)[:9])), ValueError, "must be 3 sizes; got 9 bytes"),
    "truncated gzip": (lambda d: data.read_idx(put(d, gzip.compress(idx(IMAGES))[:-9])), ValueError, "must be a whole gzip file"),
    "flipped gzip": (lambda d: data.read_idx(put(d, flip(gzip.compress(idx(IMAGES))))), ValueError, "must be a whole gzip file"),
    "binary": (lambda d: data.read_tsv(put(d, "a\tb".encode("utf-16"))), ValueError, "must be text; got zero bytes"),
    "one class": (lambda d: data.read_polarity(put(d, "a")), ValueError, "paths must be two files or more"),
    "no lines": (lambda d: data.read_polarity(put(d, "a"), put(d, " \n", "b")), ValueError, "b: must have at least one line"),
    "an empty label": (lambda d: data.read_tsv(put(d, "ham\tHi\n\tHo")), ValueError, "file, line 2: must be label<TAB>text; got a line without a label"),
    "half a character": (lambda d: data.read_jsonl(put(d, '{"text": "a", "label": "\\ud800"}')), ValueError, "file, line 1: must be a label of whole characters; got half of a surrogate pair"),
    "no tab": (lambda d: data.read_tsv(put(d, "ham\tHi\n\nspam Win")), ValueError, "file, line 3: must be label<TAB>text; got 'spam Win' without a tab"),
    "no rows": (lambda d: data.read_tsv(put(d, "\n\n")), ValueError, "must have at least one row; it has none"),
    "no JSON": (lambda d: data.read_jsonl(put(d, '{"text": "a", "label": 1}\n{')), ValueError, "line 2: must be an object of JSON; got '{'"),
    "no label": (lambda d: data.read_jsonl(put(d, '{"text": "a"}')), ValueError, "line 1: must be an object with 'text' and 'label'"),
    "a name twice": (lambda d: data.read_jsonl(put(d, '{"text": "a", "label": 1, "text": "b"}')), ValueError, "line 1: must be an object of JSON; got .*a name twice, of text, label, text"),
    "no string": (lambda d: data.read_jsonl(put(d, '{"text": 3, "label": 1}')), ValueError, "must be a string under 'text'; got 3"),
    "ragged": (lambda d: data.read_csv(put(d, "a,b\n1,2\n\n1,2,3")), ValueError, r"line 4: must be 2 cells \(a, b\); got 3"),
    "ragged after a quoted line": (lambda d: data.read_csv(put(d, 'a,b\n1,"x\ny"\n2\n')), ValueError, r"line 4: must be 2 cells"),
    "a quote that is not closed": (lambda d: data.read_csv(put(d, 'a,b\n1,"x\n2,y\n')), ValueError, "line 3: must be CSV; got unexpected end"),
    "no such column": (lambda d: data.read_csv(put(d, "a,b\n1,2"), text=["c"]), ValueError, "must be a table with the column 'c'; got a, b"),
    "an NPY file": (lambda d: data.read_npz(npy(d)), ValueError, "must be an NPZ file"),
    "sizes beyond all": (lambda d: data.read_idx(put(d, bytes([0, 0, 8, 2]) + b"\xff" * 8)), ValueError, "must be 18446744065119617037 bytes"),
    "deep JSON": (lambda d: data.read_jsonl(put(d, "[" * 100_000)), ValueError, "line 1: must be an object of JSON"),
    "header alone": (lambda d: data.read_csv(put(d, "a,b\n")), ValueError, "must have at least one row"),
    "twice": (lambda d: data.read_csv(put(d, "a,a\n1,2")), ValueError, "must be columns of different names; got a, a"),
    "no NPZ": (lambda d: data.read_npz(put(d, "hello")), ValueError, "must be an NPZ file of plain arrays"),
    "truncated NPZ": (lambda d: data.read_npz(put(d, npz()[:-30])), ValueError, "must be an NPZ file of plain arrays"),
    "pickle": (lambda d: data.read_npz(pickled(d)), ValueError, "must be an NPZ file of plain arrays"),
    "an empty text": (lambda d: data.read_characters(put(d, "")), ValueError, "must have at least one character"),
}  # fmt: skip


def flip(content):
    return content[:15] + bytes([content[15] ^ 16]) + content[16:]


def npy(folder):
    np.save(folder / "a.npy", IMAGES)
    return folder / "a.npy"


def npz():
    import io

    file = io.BytesIO()
    np.savez(file, x=IMAGES)
    return file.getvalue()


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call(tmp_path)


# Words, buckets, splits.


def test_vocabulary():
    texts = [data.words(t) for t in ("The cat, the dog.", "A cat!")]
    vocabulary = data.Vocabulary.of(texts, least=2)
    assert vocabulary.words == ("cat", "the")
    assert vocabulary.size == 3
    assert vocabulary.numbers(data.words("the bird")).tolist() == [2, 0]
    assert data.Vocabulary.of(texts, most=1).words == ("cat",)


def test_buckets_lose_nothing():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, 9, n) for n in (3, 0, 7, 2, 2, 9, 1)]
    found = data.buckets(sequences, np.arange(7), count=3)
    seen = {}
    for bucket in found:
        assert bucket["x"].shape[1] == max(bucket["lengths"].max(), 1)
        for x, y, length in zip(*bucket.values(), strict=True):
            assert not x[length:].any()
            seen[int(y)] = x[:length].tolist()
    assert seen == {i: s.tolist() for i, s in enumerate(sequences)}
    (cut,) = data.buckets(sequences, np.arange(7), longest=4)
    assert cut["x"].shape == (7, 4)
    assert cut["lengths"].max() == 4
    with pytest.raises(ValueError, match="got 2 for 7"):
        data.buckets(sequences, np.arange(2))
    with pytest.raises(ValueError, match="count must be at least 1; got 0"):
        data.buckets(sequences, np.arange(7), count=0)
    with pytest.raises(ValueError, match="must share dtype and width"):
        data.buckets([np.array([1]), np.array([0.5])], np.arange(2))
    assert data.buckets([np.array([]), np.array([3])], np.arange(2))[0]["x"].dtype == int


def test_splits():
    train, test = data.split(100, 0.3, seed=4)
    assert sorted([*train, *test]) == list(range(100))
    assert len(test) == 30
    np.testing.assert_array_equal(test, data.split(100, 0.3, seed=4)[1])
    tests = [fold[1] for fold in data.folds(10, 3)]
    assert sorted(np.concatenate(tests)) == list(range(10))
    for train, test in data.folds(10, 3):
        assert sorted([*train, *test]) == list(range(10))
    with pytest.raises(ValueError, match="held_out must leave both parts"):
        data.split(10, 0.01)
    with pytest.raises(ValueError, match="k must be within 2 … 3"):
        data.folds(3, 4)
    assert data.take({"a": [5, 6, 7]}, np.array([2, 0]))["a"].tolist() == [7, 5]


# What comes with installed packages.


def test_digits_and_cancer():
    digits, cancer = data.digits(), data.cancer()
    assert digits["x"].shape == (1797, 8, 8)
    assert (digits["x"].min(), digits["x"].max()) == (0, 1)
    assert set(digits["y"]) == set(range(10))
    assert cancer["x"].shape == (569, 10)
    assert cancer["eta"].shape == (569, 20)
    assert cancer["y"].sum() == 357


def test_docs():
    texts = data.docs()
    assert texts.classes == ("numpy", "jax")
    assert len(texts.texts) == len(set(texts.texts)) > 1000
    assert (texts.labels == 1).mean() == 0.5
    assert not any("numpy" in text or "jax" in text for text in texts.texts)
    assert data.docs().texts == texts.texts


def test_docs_without_docstrings(monkeypatch):
    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=2))
    with pytest.raises(ValueError, match="docs: this task is made of docstrings, which Python drops"):
        data.docs()


# Real files.


@needs_data
@pytest.mark.parametrize(("name", "shape"), [("train-images", (60000, 28, 28)), ("t10k-labels", (10000,))])
def test_mnist(name, shape):
    (path,) = Path(REAL, "mnist").glob(f"{name}*")
    assert data.read_idx(path).shape == shape


@needs_data
def test_real_texts():
    mr = data.read_polarity(*sorted(Path(REAL, "mr").glob("*.neg")), *sorted(Path(REAL, "mr").glob("*.pos")))
    assert np.bincount(mr.labels).tolist() == [5331, 5331]
