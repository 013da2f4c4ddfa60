"""Systems of the literature, one file each, and their registry."""
