"""Segmentation models, losses, metrics and dataset layouts of the literature."""
