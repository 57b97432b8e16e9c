"""What a method does at test time."""

from pml_extras.inference.reciprocal_neighbours import reciprocal_batches
from pml_extras.inference.refinement import refine_with_neighbours

__all__ = ["reciprocal_batches", "refine_with_neighbours"]
