"""Tasks that need no file and no network: they come with installed packages."""

import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from typing import Any

import numpy as np

from jaxnets.data._text import Texts, words

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_BETRAYING = re.compile(r"jax|jnp|xla|lax|numpy|\bnp\b|ndarray|ufunc|pytree|traced?|jit|vmap|pmap|array_like")


def digits() -> dict[str, np.ndarray]:
    """scikit-learn's handwritten digits: `x [1797, 8, 8]` in [0, 1], rows of pixels as steps, and `y [1797]`, ten
    classes."""
    found = _sklearn_datasets().load_digits()
    return {"x": (found.images / 16).astype(np.float32), "y": found.target.astype(np.int32)}


def cancer() -> dict[str, np.ndarray]:
    """scikit-learn's breast cancer data: the ten means as `x [569, 10]`, the other twenty figures as `eta [569, 20]`,
    not scaled; `y [569]`, 1 benign."""
    found = _sklearn_datasets().load_breast_cancer()
    figures = found.data.astype(np.float32)
    return {"x": figures[:, :10], "eta": figures[:, 10:], "y": found.target.astype(np.int32)}


def docs(least: int = 5, longest: int = 40) -> Texts:
    """Sentences of the docstrings of the installed NumPy and JAX: which of the two is it from? Lower-cased words
    between spaces; what gives it away, such as the libraries' names, is taken out; sentences of `least` to `longest`
    words, each once, as many of either, in an order that depends on nothing but the versions."""
    if sys.flags.optimize > 1:
        raise ValueError("docs: this task is made of docstrings, which Python drops with -OO")
    found = [_sentences(package, least, longest) for package in ("numpy", "jax")]
    common = found[0] & found[1]
    of_each = [sorted(sentences - common) for sentences in found]
    n = min(map(len, of_each))
    chosen = [np.random.default_rng(0).permutation(len(sentences))[:n] for sentences in of_each]
    texts = [of_each[label][i] for label in (0, 1) for i in chosen[label]]
    return Texts(texts, np.repeat(np.arange(2, dtype=np.int32), n), ("numpy", "jax"))


def _sklearn_datasets() -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError("this task needs scikit-learn: pip install 'jaxnets[cli]'") from error
    return datasets


def _sentences(package: str, least: int, longest: int) -> set[str]:
    found = set()
    for text in _docstrings(package):
        prose = [part for part in re.split(r"\n\s*\n", text) if not re.search(r">>>|^\s*[-=]{3,}|::\s*$", part, re.M)]
        for sentence in (s for part in prose for s in _SENTENCE.split(" ".join(part.split()))):
            kept = [word for word in words(sentence) if word.isalpha() and not _BETRAYING.search(word)]
            if least <= len(kept) <= longest:
                found.add(" ".join(kept))
    return found


def _docstrings(package: str) -> set[str]:
    """Of the public functions and classes of a package's public modules, so far as these can be imported."""
    found = set()
    root = importlib.import_module(package)
    names = [m.name for m in pkgutil.iter_modules(root.__path__) if not m.name.startswith("_") and m.name != "conftest"]
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                module = importlib.import_module(f"{package}.{name}")
                members = [getattr(module, n) for n in dir(module) if not n.startswith("_")]
            except (ImportError, AttributeError, RuntimeError):  # optional parts of the package, not there
                continue
        for member in members:
            if callable(member) and (getattr(member, "__module__", "") or "").startswith(package):
                found.add(inspect.getdoc(member) or "")
    return found
