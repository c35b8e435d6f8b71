"""Refuse the network in every Python process the tests start, notebook kernels included; start it faster.

Python imports a module of this name at start-up from wherever PYTHONPATH points; tests/conftest.py
points it here. An audit hook sees each connection and name look-up, whichever library asks, and
cannot be taken off again. Loopback and Unix sockets stay open: kernels talk through them.
"""

import gc
import os
import sys

HOST_EVENTS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
ADDRESS_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


def is_local(host: object) -> bool:
    """No host, an empty host and loopback names or addresses stay on this machine."""
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    return name in {"localhost", "::1", "0.0.0.0", "::"} or name.startswith("127.")


def refuse_network(event: str, args: tuple) -> None:
    """Audit hook: raise before a look-up or a connection leaves this machine."""
    if event in HOST_EVENTS:
        target = args[0]
    elif event in ADDRESS_EVENTS and isinstance(args[1], tuple):  # a Unix address is no tuple
        target = args[1][0]
    else:
        return
    if not is_local(target):
        raise OSError(f"network blocked in tests: {event} to {target!r}")


if os.environ.get("TFT_BLOCK_NETWORK") == "1":
    sys.addaudithook(refuse_network)
    # Importing torch and transformers makes millions of objects, of which none is garbage: looking for
    # some takes a second of five, in each of a hundred processes.
    gc.set_threshold(5000, 10, 10)
    # With this package jsonschema checks international web addresses, of which no notebook has any. Its
    # import builds a grammar for a second; without it all else is as it was.
    sys.modules["rfc3987_syntax"] = None
