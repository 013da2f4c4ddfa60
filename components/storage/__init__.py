"""Object stores: client, folders, checkpoints."""
