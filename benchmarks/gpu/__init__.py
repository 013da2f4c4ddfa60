"""Measurements on a GPU, with ``segmodels`` alone: ``python -m benchmarks.gpu``."""
