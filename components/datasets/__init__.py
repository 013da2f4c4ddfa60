"""Where data comes from: sources, DVC repositories, downloads."""
