"""
The egress guard: which addresses a connection may be made to (design, section 7).

Owners of instances choose where events go, so the address that a name resolves to is judged, at the moment it is
dialled, and only judged addresses are dialled. What is not reachable by everyone on the internet is refused unless
the operator allows it.
"""

import re
import socket
from collections.abc import Sequence
from fnmatch import translate
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from sinks._errors import FailureKind, Misconfigured

SETTING = "SLUICE_EGRESS_ALLOW"

_REFUSED = tuple(
    (ip_network(network), reason)
    for network, reason in (
        # Metadata services first, since some stand inside the wider blocks below.
        ("169.254.169.254/32", "a cloud's metadata service"),
        ("168.63.129.16/32", "a cloud's metadata service"),
        ("100.100.100.200/32", "a cloud's metadata service"),
        ("192.0.0.192/32", "a cloud's metadata service"),
        ("fd00:ec2::/32", "a cloud's metadata service"),
        # IANA's special-purpose registries (RFC 6890).
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a carrier (RFC 6598)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("64:ff9b:1::/48", "a local translation of IPv4"),
        ("2001::/32", "a Teredo tunnel"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "for documentation"),
        ("2002::/16", "a 6to4 tunnel"),
        ("3fff::/20", "for documentation"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
    )
)
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_PASSED = 8192


class EgressGuard:
    """
    Judges addresses. `allow` has CIDRs and host patterns (`*.internal.example.com`).

    A CIDR admits its addresses under whatever name; a pattern admits a host whatever it resolves to. Raises ValueError
    for an entry that is neither.
    """

    def __init__(self, allow: Sequence[str] = ()) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._hosts: list[re.Pattern[str]] = []
        self._passed: set[str] = set()
        """Hosts that `check_literal` let pass; what is allowed never changes in a guard's life."""
        for entry in allow:
            network = _network(entry)
            if network is not None:
                self._networks.append(network)
            elif re.fullmatch(r"[\w.*?-]+", entry):
                self._hosts.append(re.compile(translate(entry.lower())))
            else:
                raise ValueError(f"{entry!r} is neither a CIDR (10.0.0.0/8) nor a host pattern (*.example.com)")

    def check(self, host: str, address: str) -> None:
        """Returns if `host` may be dialled at `address`, else raises Misconfigured."""
        reason = self._refusal(host, address)
        if reason is not None:
            raise self._error(host, address, reason)

    def check_literal(self, host: str) -> None:
        """The same for a host that is an address itself and so is never resolved; other hosts pass."""
        if host in self._passed:
            return
        if _is_literal(host):
            self.check(host, host.strip("[]"))
        if len(self._passed) >= _PASSED:
            self._passed.clear()
        self._passed.add(host)

    def select(self, host: str, addresses: Sequence[str]) -> list[str]:
        """Those of a host's addresses that may be dialled; raises Misconfigured when none is left."""
        kept = []
        refused = None
        for address in addresses:
            reason = self._refusal(host, address)
            if reason is None:
                kept.append(address)
            elif refused is None:
                refused = self._error(host, address, reason)
        if refused is not None and not kept:
            raise refused
        return kept

    def _refusal(self, host: str, address: str) -> str | None:
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            return "no IP address"
        effective = _embedded(parsed) or parsed
        reason = _reason(effective)
        if reason is None:
            return None
        if any(effective in network or parsed in network for network in self._networks):
            return None
        name = host.rstrip(".").lower()
        if any(pattern.match(name) for pattern in self._hosts):
            return None
        return reason

    def _error(self, host: str, address: str, reason: str) -> Misconfigured:
        at = "" if host.strip("[]") == address else f" resolves to {address}, which"
        return Misconfigured(
            FailureKind.FORBIDDEN_ADDRESS,
            f"{host}{at} is refused ({reason}); an operator can allow it in {SETTING}, by CIDR or host pattern",
        )


class GuardedResolver(AbstractResolver):
    """Resolves names for aiohttp, and passes on only what the guard admits."""

    def __init__(self, guard: EgressGuard, inner: AbstractResolver | None = None) -> None:
        self._guard = guard
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The admitted addresses; raises OSError where there is none, Misconfigured where none is admitted."""
        try:
            results = await self._inner.resolve(host, port, family)
        except UnicodeError as error:
            # The standard library says so of labels that are empty or too long, before it asks anyone.
            raise socket.gaierror(socket.EAI_NONAME, "not a valid host name") from error
        admitted = set(self._guard.select(host, [result["host"] for result in results]))
        return [result for result in results if result["host"] in admitted]

    async def close(self) -> None:
        """Lets go of what resolving holds."""
        await self._inner.close()


def _network(entry: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(entry, strict=False)
    except ValueError:
        return None


def _is_literal(host: str) -> bool:
    try:
        ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def _embedded(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a packet to this IPv6 address ends at: mapped (RFC 4291), or translated (RFC 6052)."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _reason(address: IPv4Address | IPv6Address) -> str | None:
    """Why not everyone on the internet means the same by this address, or None."""
    for network, reason in _REFUSED:
        if address in network:
            return reason
    # The rest of IPv6 is not given out (RFC 4291, 2.4), the retired forms that embed IPv4 among it.
    if isinstance(address, IPv6Address) and address not in _GLOBAL_IPV6:
        return "reserved"
    return None
