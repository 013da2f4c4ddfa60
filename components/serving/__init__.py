"""A model behind HTTP: what ``components.serve`` puts together. No file here knows MLflow; ``app`` alone knows FastAPI."""
