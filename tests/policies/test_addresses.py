"""What is sent to an external judge goes to no address that hands out credentials, whatever a name leads to."""

import asyncio
import ipaddress
import socket
from typing import Any

import pytest

from policies.addresses import literal, resolve, why_not
from policies.remote import RemoteModel, RemoteReply, checked_url
from store.errors import ConfigError, EngineUnavailable
from store.records import Message
from tests.endpoint import completion, endpoint

REFUSED = [
    "169.254.169.254",
    "169.254.0.1",
    "fe80::1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
]
ALLOWED = [
    "127.0.0.1",
    "::1",
    "10.1.2.3",
    "192.168.0.9",
    "172.16.0.1",
    "fd12::1",
    "8.8.8.8",
    "2001:4860::8888",
]


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_no_judge_has_are_refused(address: str) -> None:
    assert why_not(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ConfigError, match="judge.external.url"):
        checked_url(f"http://{host}:80/v1")


@pytest.mark.parametrize("address", ALLOWED)
def test_own_networks_are_the_operator_s_to_choose(address: str) -> None:
    assert why_not(ipaddress.ip_address(address)) is None
    host = f"[{address}]" if ":" in address else address
    assert checked_url(f"https://{host}/v1/") == f"https://{host}/v1"


@pytest.mark.parametrize("host", ["2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "169.254.43518"])
def test_old_ways_to_write_an_address_are_read(host: str) -> None:
    assert str(literal(host)) == "169.254.169.254"
    with pytest.raises(ConfigError):
        checked_url(f"http://{host}/v1")


def test_names_are_no_addresses() -> None:
    assert literal("judge.example.com") is None and literal("") is None


def named(monkeypatch: pytest.MonkeyPatch, *rounds: list[str]) -> list[str]:
    """A name server that says something else each time; returns what it was asked."""
    asked: list[str] = []
    left = list(rounds)

    async def getaddrinfo(_: Any, host: str, port: int, **__: Any) -> list[Any]:
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("found", [["169.254.169.254"], ["10.0.0.1", "fe80::1%eth0"]])
def test_a_name_that_leads_there_is_not_followed(monkeypatch: pytest.MonkeyPatch, found: list[str]) -> None:
    named(monkeypatch, found)
    with pytest.raises(EngineUnavailable, match="nothing is sent there"):
        asyncio.run(resolve("judge.example.com", 443))


def ask(url: str) -> RemoteReply:
    model = RemoteModel(url, "m", key="sk-secret", timeout_s=5.0, retries=0)
    return asyncio.run(model.complete([Message("user", "How good?")], max_tokens=4))


def test_what_was_looked_at_is_what_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> tuple[RemoteReply, list[str]]:
        async with endpoint(lambda _: completion("4", {})) as server:
            port = server.url.rpartition(":")[2].partition("/")[0]
            # A second look would lead elsewhere; the first gives an address that nobody listens on, then the judge's.
            named(monkeypatch, ["127.0.0.9", "127.0.0.1"], ["169.254.169.254"])
            model = RemoteModel(f"http://judge.example.com:{port}/v1", "m", timeout_s=5.0, retries=0)
            reply = await model.complete([Message("user", "How good?")], max_tokens=4)
            return reply, [head.lower() for head in server.heads]

    reply, (head,) = asyncio.run(main())
    assert reply.text == "4" and "host: judge.example.com:" in head


def test_a_judge_whose_name_changes_hands_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = named(monkeypatch, ["169.254.169.254"])
    with pytest.raises(EngineUnavailable, match=r"judge.example.com is 169\.254\.169\.254"):
        ask("http://judge.example.com/v1")
    assert asked == ["judge.example.com"]
