"""The parameters of the steps: schema, checking, reading, overrides."""
