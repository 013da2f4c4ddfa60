"""What is predicted, and what follows from it: ``create_task("semantic", labels)``."""
