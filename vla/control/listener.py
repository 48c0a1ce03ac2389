"""Sockets to serve on: loopback, unless a token keeps strangers out."""

import ipaddress
import socket


def bind(host: str, port: int, token: str | None) -> socket.socket:
    """Reserve an address and return its socket, which does not listen yet; port 0 takes a free one.

    Raises ValueError where the network could reach it without a token, OSError where it is not to be had.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise OSError(f"host {host!r} is no address of this machine: {error.strerror}") from error
    if not ipaddress.ip_address(str(address[0])).is_loopback and not token:
        raise ValueError(
            f"on {address[0]} anyone in the network could move the robot: set a token in VLA_TOKEN, or host=127.0.0.1"
        )
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot serve on {host}:{port} ({error.strerror}); give another port=, 0 takes any") from error
    return listener
