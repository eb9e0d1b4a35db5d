"""Addresses on the web: what is a plain URL, and what of it leads into a private network."""

import re
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from socket import inet_aton

import httpx

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LARGEST_PORT = 65535

# The characters of RFC 3986, in the authority only those of hosts and ports: no credentials, no backslash.
_URL = re.compile(r"https?://[\w.:\[\]-]+([/?#][\w.~:/?#\[\]@!$&'()*+,;=%-]*)?", re.ASCII | re.IGNORECASE)

# What `is_global` takes for public, in one version of Python or another.
_SPECIAL = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
    IPv6Network("2001::/23"),  # Teredo among them
    IPv6Network("2002::/16"),  # 6to4: any IPv4 address, behind somebody else's relay
    IPv6Network("3fff::/20"),
)
_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


def plain_url(text: str) -> httpx.URL:
    """A URL of the web without credentials, parsed as it will be asked for. Raises `ValueError`."""
    with suppress(httpx.InvalidURL):
        if _URL.fullmatch(text) and ((url := httpx.URL(text)).port or 0) <= LARGEST_PORT:
            return url
    raise ValueError("must be a plain http or https URL")


def spelled(host: str) -> Address | None:
    """The address that a host spells, in all the ways in which a resolver reads one: `127.1` is 127.0.0.1."""
    host = host.rstrip(".")
    with suppress(ValueError):
        return ip_address(host)
    with suppress(OSError):
        return IPv4Address(inet_aton(host))
    return None


def meant(address: Address) -> Address:
    """The IPv4 address within an IPv6 one that stands for it; else the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(address.packed[-4:])
    return address


def is_public(address: Address) -> bool:
    """Whether the address is one host's on the internet, as far as can be told by looking at it."""
    address = meant(address)
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    special = address.is_multicast or any(address in network for network in _SPECIAL)
    return address.is_global and not special


def is_local(url: httpx.URL) -> bool:
    """Whether the URL's host shows that it can only be reached from near it."""
    host = url.raw_host.decode()
    address = spelled(host)
    if address is not None:
        return not is_public(address)
    name = host.rstrip(".")
    return "." not in name or name.endswith((".local", ".internal", ".localhost"))
