"""MLflow: runs, the model registry, lineage, model cards."""
