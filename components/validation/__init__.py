"""Facts about samples, checks, Great Expectations and data docs."""
