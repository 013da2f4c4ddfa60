"""For clusters only: components, executor output, changed, notify."""
