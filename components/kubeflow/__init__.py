"""What only a cluster has: components, executor output, changed, notify."""
