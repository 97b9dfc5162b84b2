"""Is a derivative written by hand right; if not, which line is wrong, and why?

`check.gradient(f, by_hand, args)` compares gradients of a scalar function, `check.derivation(forward, backward, args)`
a derivation line by line, `check.rules(f, args)` every `custom_vjp` and `custom_jvp` rule that a function meets. Each
returns a `Report`. It works on anyone's functions, in JAX or NumPy.
"""

from jaxnets.check._derivation import derivation as derivation
from jaxnets.check._derivation import mark as mark
from jaxnets.check._gradient import gradient as gradient
from jaxnets.check._report import AgreementError as AgreementError
from jaxnets.check._report import CallerError as CallerError
from jaxnets.check._report import Cause as Cause
from jaxnets.check._report import Leaf as Leaf
from jaxnets.check._report import Report as Report
from jaxnets.check._rules import rules as rules
