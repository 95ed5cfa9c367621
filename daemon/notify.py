"""Telling systemd how the service is: the protocol of sd_notify(3), one datagram a message."""

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)

READY, STOPPING = "READY=1", "STOPPING=1"


def notify(message: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send a message to whoever started the service and listens. Returns whether anybody does.

    A service manager that went away is no reason to stop answering people: that is logged and nothing more.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # Linux's abstract sockets have no name in the file system
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.sendall(message.encode())
    except OSError as error:
        log.warning("systemd is not told %s: %s", message, error)
        return False
    return True
