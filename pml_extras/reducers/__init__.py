"""Reducers: many losses to one number, for pytorch-metric-learning's losses."""

from pml_extras.reducers.batch_size import BatchSizeReducer

__all__ = ["BatchSizeReducer"]
