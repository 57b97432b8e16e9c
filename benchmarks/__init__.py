"""Experiments behind the published tables; ``python -m benchmarks --help`` says how to run them."""
