"""The tests of pytorch-metric-learning (pml), run against what replaces its classes."""
