"""Feature maps or tokens to one vector."""

from pml_extras.pooling.generalized_sum_pooling import GeneralizedSumPooling

__all__ = ["GeneralizedSumPooling"]
