"""Feature maps or tokens to one vector."""

from pml_extras.pooling.generalized_sum_pooling import GeneralizedSumPooling
from pml_extras.pooling.replace_pooling import replace_pooling

__all__ = ["GeneralizedSumPooling", "replace_pooling"]
