"""How a step runs: retries, processes, whole outputs, digests, progress."""
