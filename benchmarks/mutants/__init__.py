"""Mistakes as people make them: right backward functions, and what becomes of each by one changed piece of source.

A `Subject` is a loss with its gradients written by hand, a `Derivation` one whose lines are returned too; a `Mutant`
changes one piece of its backward function and says what a checker should answer. Shapes are small, no two sizes alike
where the mathematics allows it. `python -m benchmarks.mutants.verify` proves that the right ones are right and the
wrong ones wrong.
"""

from benchmarks.mutants import (
    attention,
    cnn,
    dense,
    embedding,
    gated,
    gru,
    heads,
    kinks,
    lstm,
    norms,
    plain,
    rnn,
    saturated,
    small,
    textconv,
    wide,
)
from benchmarks.mutants.core import KINDS as KINDS
from benchmarks.mutants.core import Derivation as Derivation
from benchmarks.mutants.core import Mutant as Mutant
from benchmarks.mutants.core import Subject as Subject
from benchmarks.mutants.core import make as make

_gradients = [gru, lstm, rnn, norms, attention, embedding, small, kinks, cnn, saturated, wide, plain]
_lines = [heads, textconv, rnn, gated, dense, lstm, norms]
SUBJECTS: list[Subject] = [subject for file in _gradients for subject in file.SUBJECTS]
DERIVATIONS: list[Derivation] = [derivation for file in _lines for derivation in file.DERIVATIONS]
MUTANTS: list[Mutant] = [
    mutant
    for file in dict.fromkeys(_gradients + _lines)
    for mutant in file.MUTANTS  # a file may hold both
]
