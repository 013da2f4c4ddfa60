"""Errors that a caller can act on, apart from errors that are bugs."""


class InputError(ValueError):
    """Wrong parameters or data: retrying does not help, changing the input does.

    The message is one sentence that names the thing, the value got, what was expected and what to do next.
    The command line prints it without a traceback and exits with code 2.
    """


class TransientError(RuntimeError):
    """Something outside failed for now (network, object store, server): retrying may help. Exit code 75."""
