"""Where a search may look: ranges of settings under the names that records give them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """One setting's range; both ends belong to it.

    Args:
        low: smallest value.
        high: largest value.
        source: who looked there; "ours" where nobody said so.
        log: equal chances for equal ratios; then ``low`` > 0.
        whole: integers alone.

    Raises:
        ValueError: the ends are no finite numbers in this order, or a logarithm has none.
    """

    low: float
    high: float
    source: str
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(
                f"low, high: expected two finite numbers in this order; got {self.low} and "
                f"{self.high}."
            )
        if self.log and not self.low > 0:
            raise ValueError(f"low: expected more than 0 for a logarithm; got {self.low}.")

    def __str__(self) -> str:
        kind = ", logarithmic" * self.log + ", whole" * self.whole
        return f"{self.low:g} to {self.high:g}{kind} ({self.source})"


Space = Mapping[str, Range]

TRUNK_LR = Range(
    1e-5, 1e-2, "ours: the rates that were tried by hand and a decade around", log=True
)
PROXY_BASE_LR = Range(
    1e-8,
    1e-2,
    "A Metric Learning Reality Check: 1e-6 to 1 for a loss's own parameters, whose base rate is a "
    "hundredth of that",
    log=True,
)
RATE: Space = {"budget.trunk_lr": TRUNK_LR}
RATES: Space = {**RATE, "budget.proxy_base_lr": PROXY_BASE_LR}
"""Of a loss without and with parameters that have a rate of their own."""
