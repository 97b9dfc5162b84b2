"""Networks whose backward pass is written by hand, proven right against autodiff."""

from jaxnets import dense as dense
from jaxnets import gated as gated
from jaxnets import heads as heads
from jaxnets import rnn as rnn
from jaxnets import textconv as textconv

__version__ = "0.1.0"
