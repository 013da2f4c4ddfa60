"""The parameters of the steps: schema, checking, reading, overrides."""

from pathlib import Path

FILE = Path("params.yaml")
"""In the working directory, where no other is named."""
