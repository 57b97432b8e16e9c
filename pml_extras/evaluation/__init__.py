"""How good embeddings are at retrieval."""

from pml_extras.evaluation.retrieval import RetrievalAccuracyCalculator

__all__ = ["RetrievalAccuracyCalculator"]
