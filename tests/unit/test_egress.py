"""The egress guard's table of addresses, and the words for every error of the HTTP client."""

import ipaddress
import socket
from collections.abc import Iterator

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from sinks import FailureKind, Misconfigured, SinkError
from sinks._egress import EgressGuard, GuardedResolver
from sinks._http import FAILURES, failure

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "192.167.1.1",
    "223.255.1.1",
]
PUBLIC += ["2606:4700:4700::1111", "2a00:1450:4001::200e", "::ffff:8.8.8.8", "64:ff9b::808:808"]

REFUSED = [
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "unspecified"),
    ("10.0.0.1", "private"),
    ("100.64.0.1", "shared"),
    ("100.100.100.200", "metadata"),
    ("100.127.255.255", "shared"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("168.63.129.16", "metadata"),
    ("169.254.0.1", "link-local"),
    ("169.254.169.254", "metadata"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.192", "metadata"),
    ("192.0.2.1", "documentation"),
    ("192.168.1.1", "private"),
    ("198.18.0.1", "benchmarks"),
    ("203.0.113.9", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::7f00:1", "reserved"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:169.254.169.254", "metadata"),
    ("::ffff:0:127.0.0.1", "reserved"),
    ("64:ff9b::7f00:1", "loopback"),
    ("64:ff9b::a9fe:a9fe", "metadata"),
    ("64:ff9b:1::a00:1", "translation"),
    ("100::1", "reserved"),
    ("2001::1", "Teredo"),
    ("2001:10::1", "reserved"),
    ("2001:db8::1", "documentation"),
    ("2002:7f00:1::", "6to4"),
    ("3fff::1", "documentation"),
    ("4000::1", "reserved"),
    ("fc00::1", "private"),
    ("fd00:ec2::254", "metadata"),
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local"),
    ("fec0::1", "private"),
    ("ff02::1", "multicast"),
    ("10.0.0", "no IP address"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_admits_what_everyone_can_reach(address: str) -> None:
    """An address of the public internet is admitted, in IPv4 and in what translates to it."""
    EgressGuard().check("hooks.example.com", address)


@pytest.mark.parametrize(("address", "reason"), REFUSED)
def test_refuses_what_only_this_machine_or_network_can_reach(address: str, reason: str) -> None:
    """An address that is not public is refused, in words that name host, address, reason and setting."""
    with pytest.raises(Misconfigured) as caught:
        EgressGuard().check("hooks.example.com", address)

    assert caught.value.kind is FailureKind.FORBIDDEN_ADDRESS
    assert all(part in caught.value.detail for part in ("hooks.example.com", address, reason, "SLUICE_EGRESS_ALLOW"))


@given(st.ip_addresses())
def test_never_admits_what_python_calls_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """What the standard library knows as private, loopback, link-local, multicast or unspecified is never admitted."""
    special = (address.is_private, address.is_loopback, address.is_link_local, address.is_multicast)
    if (any(special) or address.is_unspecified) and getattr(address, "ipv4_mapped", None) is None:
        with pytest.raises(Misconfigured):
            EgressGuard().check("host", str(address))


@pytest.mark.parametrize(
    ("allow", "host", "address", "admitted"),
    [
        ("127.0.0.0/8", "anything", "127.0.0.1", True),
        ("127.0.0.0/8", "anything", "::ffff:127.0.0.1", True),
        ("127.0.0.0/8", "anything", "::1", False),
        ("127.0.0.0/8", "anything", "10.0.0.1", False),
        ("10.0.0.5", "anything", "10.0.0.5", True),
        ("10.0.0.5", "anything", "10.0.0.6", False),
        ("10.1.2.3/8", "anything", "10.9.9.9", True),
        ("fd00::/8", "anything", "fd12::1", True),
        ("169.254.169.254/32", "anything", "169.254.169.254", True),
        ("hooks.internal", "hooks.internal", "10.0.0.1", True),
        ("hooks.internal", "HOOKS.internal.", "10.0.0.1", True),
        ("hooks.internal", "evil-hooks.internal", "10.0.0.1", False),
        ("hooks.internal", "hooks.internal.example.com", "10.0.0.1", False),
        ("*.internal", "a.b.internal", "10.0.0.1", True),
        ("*.internal", "internal", "10.0.0.1", False),
        ("*.INTERNAL", "a.internal", "10.0.0.1", True),
        ("10.*", "10.0.0.1", "10.0.0.1", True),
    ],
)
def test_allows_by_network_and_by_host(allow: str, host: str, address: str, admitted: bool) -> None:
    """A CIDR admits addresses under every name, a pattern admits a name at every address."""
    guard = EgressGuard([allow])
    if admitted:
        guard.check(host, address)
    else:
        with pytest.raises(Misconfigured):
            guard.check(host, address)


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "http://a", "a b", "", "host:80", "10.0.0.0/"])
def test_an_entry_that_is_neither_is_an_error(entry: str) -> None:
    """An entry that is neither a CIDR nor a host pattern is refused, and named."""
    with pytest.raises(ValueError, match="neither a CIDR") as caught:
        EgressGuard([entry])

    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize(
    ("host", "refused"), [("127.0.0.1", True), ("[::1]", True), ("::1", True), ("8.8.8.8", False), ("localhost", False)]
)
def test_checks_hosts_that_are_addresses(host: str, refused: bool) -> None:
    """A host that is an address is judged as it stands; a name waits for the resolver."""
    if refused:
        with pytest.raises(Misconfigured):
            EgressGuard().check_literal(host)
    else:
        EgressGuard().check_literal(host)


class Fixed(AbstractResolver):
    """A resolver with one answer."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


async def test_passes_on_only_admitted_addresses() -> None:
    """Of a name with a public and a private address only the public one is dialled."""
    resolver = GuardedResolver(EgressGuard(), Fixed("10.0.0.1", "8.8.8.8"))

    assert [result["host"] for result in await resolver.resolve("both.example.com", 80)] == ["8.8.8.8"]


async def test_refuses_a_name_with_forbidden_addresses_only() -> None:
    """A name that resolves to nothing admitted is refused with its first address."""
    resolver = GuardedResolver(EgressGuard(), Fixed("10.0.0.1", "::1"))
    with pytest.raises(Misconfigured, match=r"inside\.example\.com resolves to 10\.0\.0\.1, which is refused"):
        await resolver.resolve("inside.example.com", 80)


def errors_of_the_client(base: type[BaseException] = aiohttp.ClientError) -> Iterator[type[BaseException]]:
    """Every error class of aiohttp's client."""
    yield base
    for child in base.__subclasses__():
        if child.__module__.startswith("aiohttp"):
            yield from errors_of_the_client(child)


@pytest.mark.parametrize("error", sorted(set(errors_of_the_client()), key=str), ids=lambda error: error.__name__)
def test_every_error_of_the_client_has_a_word(error: type[BaseException]) -> None:
    """No error of aiohttp's is left to a wider class by accident; one that a new version adds fails here."""
    assert error in FAILURES


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (aiohttp.InvalidURL("http://h/?token=secret"), FailureKind.REJECTED, "the address is not valid"),
        (aiohttp.ServerDisconnectedError("secret"), FailureKind.UNREACHABLE, "closed before an answer"),
        (aiohttp.SocketTimeoutError("secret"), FailureKind.TIMEOUT, "no answer in time"),
        (aiohttp.ClientPayloadError("secret"), FailureKind.UNREACHABLE, "broke off"),
        (ConnectionResetError(104, "Connection reset by peer"), FailureKind.UNREACHABLE, "(Connection reset by peer)"),
        (TimeoutError(), FailureKind.TIMEOUT, "no answer in time"),
    ],
)
def test_says_what_failed_and_no_secret(error: BaseException, kind: FailureKind, text: str) -> None:
    """The text has the far end, our words and the system's; never the client's own, which quotes addresses."""
    result = failure(error, "https://crm.example.com:443")

    assert isinstance(result, SinkError)
    assert result.kind is kind
    assert result.detail.startswith("https://crm.example.com:443: ")
    assert text in result.detail
    assert "secret" not in result.detail
