"""Losses and more for pytorch-metric-learning, each tested against the equation it implements."""

__version__ = "0.1.0"
