"""The six steps, one plain function each."""
