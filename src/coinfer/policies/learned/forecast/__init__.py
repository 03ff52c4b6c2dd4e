"""A forecast of demand for the rule that remembers it (`policies.heuristics.demand`).

The rule takes the demand of the last seconds for that of the next. A network that has seen how demand moves tells more:
from what servers would have saved the requests of every network, faded over short and long times, to what they will
save. It needs no decisions to learn from, as nobody's decisions change what is asked for.
"""

from collections.abc import Callable

import numpy as np

Forecast = Callable[[np.ndarray], np.ndarray]
"""From `Memory.faded` of B worlds, [B, S, X] float32, to what takes the place of `Memory.saved`, [B, X]."""
