"""What surrounds the losses while a network is trained."""

from pml_extras.training.diagnostics import Diagnostics
from pml_extras.training.grad_cache import GradCache, cached_embeddings

__all__ = ["Diagnostics", "GradCache", "cached_embeddings"]
