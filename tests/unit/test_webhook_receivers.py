"""Where webhooks go, and where they don't: URLs in all spellings, addresses of every kind."""

from ipaddress import ip_address

import httpx
import pytest

from shared.addresses import is_public, plain_url
from shared.errors import ConfigurationError, EndpointNotAllowed
from shared.receivers import AllowedReceivers

INTERNET = AllowedReceivers([])
ALSO = AllowedReceivers(
    ["localhost", ".hooks.internal", "10.0.0.0/8", "[fd00::1]", "Receiver", "192.168.7.7"]
)

PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.7", "100.64.0.1", "127.0.0.1", "127.8.8.8", "169.254.169.254"),
    *("172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.0.1"),
    *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:0:127.0.0.1", "fd00::1"),
    *("fe80::1", "fe80::1%2", "fec0::1", "ff02::1", "ff0e::1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1"),
    *("64:ff9b:1::8.8.8.8", "100::1", "2001::1", "2001:db8::1", "2001:20::1", "3fff::1", "5f00::1"),
    *("2002:7f00:1::", "2002:808:808::"),
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "192.0.1.1", "2606:4700::1111", "2400:3200::1", "::ffff:8.8.8.8"]
PUBLIC += ["64:ff9b::8.8.8.8"]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_nobodys_on_the_internet(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(EndpointNotAllowed):
        INTERNET.admit("hooks.example.com", [ip_address(address)])


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_on_the_internet(address: str) -> None:
    assert is_public(ip_address(address))
    assert INTERNET.admit("hooks.example.com", [ip_address(address)])


def test_of_several_addresses_only_good_ones_are_left() -> None:
    some = [ip_address(one) for one in ("127.0.0.1", "8.8.8.8", "fd00::2", "10.1.1.1", "::ffff:10.1.1.1")]
    assert INTERNET.admit("a.example", some) == [some[1]]
    assert ALSO.admit("a.example", some) == [some[1], some[3], some[4]]
    assert ALSO.admit("a.hooks.internal", some) == some


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "https://127.0.0.1/",
        "https://127.0.0.1./",
        "https://127.0.0.1:8443/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://017700000001/",
        "https://0/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::]/",
        "https://[0:0:0:0:0:0:0:1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://localhost/",
        "https://LOCALHOST/",
        "https://localhost./",
        "https://a.localhost/",
        "https://intranet/",
        "https://printer.local/",
        "https://metadata.google.internal/",
    ],
)
def test_refused_by_a_message_that_says_what_to_set(url: str) -> None:
    with pytest.raises(EndpointNotAllowed, match="WEBHOOK_ALLOWED_HOSTS") as refused:
        INTERNET.check(plain_url(url))
    assert refused.value.details == {"field": "webhook_url"}


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/a?b=c",
        "HTTPS://Hooks.Example.COM:8443",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
    ],
)
def test_anybody_on_the_internet(url: str) -> None:
    INTERNET.check(plain_url(url))


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://localhost:5000/", True),
        ("http://localhost./", True),
        ("http://a.hooks.internal/", True),
        ("http://10.1.2.3/", True),
        ("http://[::ffff:10.1.2.3]/", True),
        ("https://167837955/", True),  # 10.1.1.3
        ("http://[fd00::1]:80/", True),
        ("http://receiver:8080/", True),
        ("http://192.168.7.7/", True),
        ("https://hooks.example.com/", True),
        ("http://hooks.internal/", False),
        ("http://hooks.example.com/", False),
        ("http://a.localhost/", False),
        ("http://8.8.8.8/", False),
        ("https://[fd00::2]/", False),
        ("https://192.168.7.8/", False),
        ("https://evilhooks.internal/", False),
        ("https://receiver.internal/", False),
    ],
)
def test_whom_the_settings_allow(url: str, allowed: bool) -> None:
    if allowed:
        ALSO.check(plain_url(url))
    else:
        with pytest.raises(EndpointNotAllowed):
            ALSO.check(plain_url(url))


@pytest.mark.parametrize(
    "entry",
    ["https://a.example", "a.example:80", "10.0.0.1/8", "10.0.0.0/33", "*.example.com", ".", "a b"],
)
def test_settings_that_cannot_be_read(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="WEBHOOK_ALLOWED_HOSTS"):
        AllowedReceivers([entry])


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "hooks.example.com",
            "//a.example/",
            "ftp://a.example/",
            "javascript:alert(1)",
            "https://",
            "https:///",
        ),
        *(
            "https://user@a.example/",
            "https://@a.example/",
            "https://a.example@evil.example/",
            "https://a b.example/",
        ),
        *("https://a.example/\r\nHost: b", "https://a.example/\x00", "https://a.example\\@b.example/"),
        *(
            "https://ａ.example/",
            "https://a.example:x/",
            "https://a.example:99999/",
            "https://[::1%25lo]/",
            "https://0177.0.0.1/",
            "https://[::1/",
        ),
        *("https://%31%32%37.0.0.1/", " https://a.example/"),
    ],
)
def test_what_is_no_plain_url(url: str) -> None:
    with pytest.raises(ValueError, match="plain http or https URL"):
        plain_url(url)


def test_a_url_stays_as_it_is() -> None:
    url = "https://a.example:8443/x/%E4%BD%A0?token=a%2Fb+c=="
    assert plain_url(url) == httpx.URL(url)
    assert str(plain_url(url)) == url
