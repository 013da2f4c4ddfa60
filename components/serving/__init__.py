"""A model behind HTTP; ``components.commands.serve`` puts the parts together. No file here knows MLflow. ``app`` and
``errors`` alone know FastAPI.
"""
