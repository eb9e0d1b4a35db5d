"""Which receivers webhooks are sent to: whoever is on the internet, by https, and whom the settings allow."""

import re
from collections.abc import Iterable
from ipaddress import ip_network

import httpx

from shared.addresses import Address, Network, is_local, is_public, meant, spelled
from shared.errors import ConfigurationError, EndpointNotAllowed

_NAME = re.compile(r"\.?[a-z0-9_-][a-z0-9_.-]*", re.IGNORECASE)


class AllowedReceivers:
    """The receivers that webhooks may be sent to. Raises `ConfigurationError` for entries that can't be read.

    An entry is a name, all below one if it begins with a dot, an address, or a network such as 10.0.0.0/8.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._networks: list[Network] = []
        self._names: list[str] = []
        for entry in entries:
            try:
                self._networks.append(ip_network(entry.strip("[]")))
            except ValueError:
                if "/" in entry or not _NAME.fullmatch(entry):
                    raise ConfigurationError(
                        f"WEBHOOK_ALLOWED_HOSTS: neither name nor network: {entry}"
                    ) from None
                self._names.append(entry.lower())

    def check(self, url: httpx.URL) -> None:
        """Raises `EndpointNotAllowed` if the URL itself shows that nothing may be sent there."""
        host = url.raw_host.decode()
        address = spelled(host)
        if self._is_named(host) or (address and self._is_within(address)):
            return
        if url.scheme != "https":
            raise _refused("must begin with https://")
        if is_local(url):
            raise _refused("leads into a private network")

    def admit(self, host: str, addresses: Iterable[Address]) -> list[Address]:
        """Those of the host's addresses that may be connected to. Raises `EndpointNotAllowed` if none is."""
        named = self._is_named(host)
        admitted = [one for one in addresses if named or self._is_within(one) or is_public(one)]
        if not admitted:
            raise _refused("leads into a private network")
        return admitted

    def _is_named(self, host: str) -> bool:
        host = host.rstrip(".")
        return any(host.endswith(name) if name.startswith(".") else host == name for name in self._names)

    def _is_within(self, address: Address) -> bool:
        return any(meant(address) in network for network in self._networks)


def _refused(problem: str) -> EndpointNotAllowed:
    return EndpointNotAllowed(
        f"webhook_url: {problem}, or its host be allowed by WEBHOOK_ALLOWED_HOSTS", field="webhook_url"
    )
