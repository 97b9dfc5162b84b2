"""Texts to numbers: words, vocabulary, padding by buckets; and a long text cut into stretches."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]", re.UNICODE)
UNKNOWN = 0  # the number of every word that the vocabulary does not have


class Texts(NamedTuple):
    """Texts with labels."""

    texts: list[str]
    labels: np.ndarray  # [n] int32, numbers of classes
    classes: tuple[str, ...]  # their names


def words(text: str) -> list[str]:
    """Lower-cased words, numbers and signs, in their order.

    >>> words("Don't panic: 42 towels.")
    ["don't", 'panic', ':', '42', 'towels', '.']
    """
    return _WORD.findall(text.lower())


class Vocabulary(NamedTuple):
    """Which word has which number; 0 is a word that is not known."""

    words: tuple[str, ...]  # the word of number i + 1 is words[i]

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]], least: int = 1, most: int | None = None) -> "Vocabulary":
        """The words that come at least `least` times in these texts (the training part's), the commonest first.

        >>> Vocabulary.of([["b", "a"], ["b"]]).numbers(["a", "b", "c"])
        array([2, 1, 0], dtype=int32)
        """
        counts = Counter(word for text in texts for word in text)
        ranked = sorted((word for word, n in counts.items() if n >= least), key=lambda word: (-counts[word], word))
        return cls(tuple(ranked[:most]))

    @property
    def size(self) -> int:
        """Rows that a table of word vectors needs."""
        return len(self.words) + 1

    def numbers(self, text: Sequence[str]) -> np.ndarray:
        """Numbers of a text's words, int32."""
        return self.encoder()(text)

    def encoder(self) -> Callable[[Sequence[str]], np.ndarray]:
        """`numbers`, for many texts."""
        number = {word: i for i, word in enumerate(self.words, 1)}
        return lambda text: np.array([number.get(word, UNKNOWN) for word in text], np.int32)


def buckets(
    sequences: Sequence[np.ndarray], y: np.ndarray, count: int = 1, longest: int | None = None
) -> list[dict[str, np.ndarray]]:
    """Sequences of whole numbers `[length]`, or of rows `[length, …]`, with their targets -> at most `count` buckets of
    about equally many, each `{"x", "y", "lengths"}`, padded with zeros to the longest of the bucket: as `train.fit`
    takes them. What is beyond `longest` is cut off. (With their places as `y`, it is known who went where.)

    >>> [b["x"].shape for b in buckets([np.arange(n) for n in (1, 5, 2, 6)], np.zeros(4), count=2)]
    [(2, 2), (2, 6)]
    """
    if len(sequences) != len(y) or not len(y):
        raise ValueError(f"buckets: y must have a target a sequence, at least one; got {len(y)} for {len(sequences)}")
    for name, value in (("count", count), ("longest", 1 if longest is None else longest)):
        if value < 1:
            raise ValueError(f"buckets: {name} must be at least 1; got {value}")
    sequences = [np.asarray(s) for s in sequences]
    kinds = {(s.dtype, s.shape[1:]) for s in sequences if len(s)} or {(np.dtype(np.int32), ())}
    if len(kinds) > 1:
        raise ValueError(f"buckets: sequences must share dtype and width; got {sorted(map(str, kinds))}")
    ((dtype, width),) = kinds
    lengths = np.minimum([len(s) for s in sequences], longest or np.iinfo(np.int32).max).astype(np.int32)
    found = []
    for index in np.array_split(np.argsort(lengths, kind="stable"), min(count, len(y))):
        x = np.zeros((len(index), max(int(lengths[index].max()), 1), *width), dtype)
        for row, i in enumerate(index):
            x[row, : lengths[i]] = sequences[i][: lengths[i]]
        found.append({"x": x, "y": np.asarray(y)[index], "lengths": lengths[index]})
    return found


def stretches(numbers: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """A long text of numbers -> inputs `x [n, length]` and targets `y [n, length]`, each the number after its input.
    What does not fill a stretch is left out.

    >>> stretches(np.arange(8), 3)
    (array([[0, 1, 2],
           [3, 4, 5]]), array([[1, 2, 3],
           [4, 5, 6]]))
    """
    n = (len(numbers) - 1) // length if length > 0 else 0
    if n < 1:
        raise ValueError(
            f"stretches: numbers must be more than length, {length}, which must be at least 1; got {len(numbers)}"
        )
    return numbers[: n * length].reshape(n, length), numbers[1 : n * length + 1].reshape(n, length)
