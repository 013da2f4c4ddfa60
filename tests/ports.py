"""Ports for servers that tests start."""

import socket
from random import SystemRandom

LOWEST, HIGHEST = 10_000, 32_000
"""Below those that the kernel gives to outgoing connections and to port 0 (32768 to 60999 on Linux): one of these could
be taken between its choice and the server's start.
"""


def free_port() -> int:
    """A TCP port of 127.0.0.1 at which nothing listens."""
    while True:
        port = SystemRandom().randint(LOWEST, HIGHEST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
