"""The parameters of the steps: schema, reading, overrides."""
