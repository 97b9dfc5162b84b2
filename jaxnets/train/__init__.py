"""Training: any loss of arrays, any optimizer of optax; an epoch is one jitted loop over shuffled minibatches.

`fit` trains, watches a validation set, stops in time, keeps checkpoints and goes on from them; `scores` judges,
`predictions` predicts, by batches. Importing `jaxnets` alone does not import this.
"""

from jaxnets.train._checkpoint import load as load
from jaxnets.train._checkpoint import save as save
from jaxnets.train._fit import fit as fit
from jaxnets.train._loop import Progress as Progress
from jaxnets.train._plan import Pieces as Pieces
from jaxnets.train._processes import Lost as Lost
from jaxnets.train._run import Diverged as Diverged
from jaxnets.train._run import Fitted as Fitted
from jaxnets.train._scores import auc as auc
from jaxnets.train._scores import predictions as predictions
from jaxnets.train._scores import scores as scores
from jaxnets.train._steps import TrainState as TrainState
from jaxnets.train._validation import Validation as Validation
