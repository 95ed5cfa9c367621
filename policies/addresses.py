"""Where an address that an operator configured may lead, whatever a name server says of it.

Own networks are allowed: a judge on the same machine or in the same building is the usual case, and only the operator
says which. What no judge ever has is refused: link-local addresses and the others under which clouds hand out their
machines' credentials, and addresses of nobody or of everybody.
"""

import asyncio
import ipaddress
import socket
from urllib.request import getproxies, proxy_bypass

from store.errors import EngineUnavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Metadata services outside the link-local ranges: Alibaba's, Azure's, and Amazon's by IPv6.
METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "fd00:ec2::254")))
#: IPv4 addresses inside IPv6: NAT64 keeps one in the last 32 bits.
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def why_not(address: Address) -> str | None:
    """Why nothing is sent to an address; None where it may be."""
    real = inner(address)
    if real.is_link_local or real in METADATA:
        return "link-local, where clouds keep credentials of the machine"
    if real.is_unspecified or real.is_multicast or real == ipaddress.IPv4Address("255.255.255.255"):
        return "an address of nobody or of everybody"
    return None


def literal(host: str) -> Address | None:
    """The address that a host is written as, also in the old ways (one number, octal, fewer parts)."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


async def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host, each of which something may be sent to.

    Raises:
        EngineUnavailable: it has none, or one of them is refused.
    """
    try:
        rows = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise EngineUnavailable(f"{host}: no such host: {error}", retry_after=0.0) from error
    found = list(dict.fromkeys(str(row[4][0]) for row in rows))
    for one in found:
        why = why_not(ipaddress.ip_address(one.partition("%")[0]))
        if why is not None:
            raise EngineUnavailable(f"{host} is {one}: {why}; nothing is sent there", retry_after=0.0)
    return found


def proxied(scheme: str, host: str) -> bool:
    """Whether the environment says that a proxy is asked instead, which looks names up by itself."""
    known = getproxies()
    return bool(known.get(scheme) or known.get("all")) and not proxy_bypass(host)
