"""Readers of real formats, words to numbers, splits; and four tasks that need no file.

Readers give NumPy arrays and lists. What cannot be read is a `ValueError` or `FileNotFoundError` that names file and
line, what was expected and what came. Importing `jaxnets` alone does not import this.
"""

from jaxnets.data._columns import Columns as Columns
from jaxnets.data._files import read_characters as read_characters
from jaxnets.data._files import read_csv as read_csv
from jaxnets.data._files import read_idx as read_idx
from jaxnets.data._files import read_jsonl as read_jsonl
from jaxnets.data._files import read_npz as read_npz
from jaxnets.data._files import read_polarity as read_polarity
from jaxnets.data._files import read_tsv as read_tsv
from jaxnets.data._splits import folds as folds
from jaxnets.data._splits import split as split
from jaxnets.data._splits import take as take
from jaxnets.data._tasks import cancer as cancer
from jaxnets.data._tasks import digits as digits
from jaxnets.data._tasks import docs as docs
from jaxnets.data._text import Texts as Texts
from jaxnets.data._text import Vocabulary as Vocabulary
from jaxnets.data._text import buckets as buckets
from jaxnets.data._text import stretches as stretches
from jaxnets.data._text import words as words
