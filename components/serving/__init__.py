"""A model behind HTTP: what ``components.commands.serve`` puts together. No file here knows MLflow; ``app`` alone knows
FastAPI.
"""
