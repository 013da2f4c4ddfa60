"""Tasks: how outputs become results, and how results are measured: ``create_task("semantic", labels)``."""
