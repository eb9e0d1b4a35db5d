"""Which addresses of screenshots are read at all, and from which of them anything is fetched."""

import httpx
import pytest

from shared.addresses import is_local
from shared.errors import ConfigurationError, SandboxError
from shared.screenshots import LONGEST_URL, AllowedHosts, checked

LOCAL = AllowedHosts(["http://127.0.0.1:8080"], [])
LYBIC = AllowedHosts(["https://api.lybic.cn"], ["pictures.example.com", ".cdn.example.com:8443", "[fd00::1]"])


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "data:image/png;base64,iVBORw0KGgo=",
        "file:///etc/passwd",
        "ftp://api.lybic.cn/a.png",
        "//api.lybic.cn/a.png",
        "http:api.lybic.cn/a.png",
        "https:///a.png",
        "https://",
        "https://allowed@evil.example/",
        "https://user:password@api.lybic.cn/a.png",
        "https://@api.lybic.cn/a.png",
        "https://api.lybic.cn\\@evil.example/",
        "https://evil.example\\.lybic.cn/",
        "https://evil.example%2f.lybic.cn/",
        "https://api.lybic.cn:80:90/",
        "https://0177.0.0.1/",
        "https://[::1/",
        "https://[::1%25lo]/",
        "https://ａpi.lybic.cn/",
        "httpſ://api.lybic.cn/",
        "https://api.lybic.cn/a b.png",
        "https://api.lybic.cn/a\n.png",
        "https://api.lybic.cn/\x00",
        "https://api.lybic.cn/\ud800",
        " https://api.lybic.cn/a.png",
        "https://api.lybic.cn/" + LONGEST_URL * "a",
        10_000_000 * "a",
        "",
    ],
    ids=lambda url: url[:40],
)
def test_what_is_no_plain_url_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(SandboxError, match="no plain http or https URL") as refused:
        checked(url)
    assert len(refused.value.message) < 200


def test_a_signed_url_stays_as_it_is() -> None:
    signed = "https://a.s3.example.com/x/%E4%BD%A0.webp?X-Amz-Signature=0f&Expires=9&token=a%2Fb+c==#top"
    assert str(checked(signed)) == signed


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        (LOCAL, "http://127.0.0.1:8080/screenshots/1.webp"),
        (LOCAL, "HTTP://127.0.0.1:8080"),
        (LYBIC, "https://api.lybic.cn/1.webp"),
        (LYBIC, "HTTPS://API.Lybic.CN:443/1.webp"),
        (LYBIC, "https://pictures.lybic.cn/1.webp"),
        (LYBIC, "https://pictures.example.com/1.webp"),
        (LYBIC, "https://a.cdn.example.com:8443/1.webp"),
        (LYBIC, "https://a.b.cdn.example.com:8443/1.webp"),
        (LYBIC, "https://[fd00::1]/1.webp"),
        (AllowedHosts(["HTTP://[::1]:8080/base"], []), "http://[::1]:8080/1.webp"),
        (AllowedHosts(["http://127.0.0.1:8080"], ["Pictures:9000"]), "http://pictures:9000/1.webp"),
        (AllowedHosts(["http://127.0.0.1:8080"], ["pictures"]), "http://pictures/1.webp"),
    ],
)
def test_allowed(allowed: AllowedHosts, url: str) -> None:
    allowed.check(checked(url))


@pytest.mark.parametrize(
    ("allowed", "url", "host"),
    [
        (LOCAL, "http://127.0.0.1:5432/", "127.0.0.1:5432"),
        (LOCAL, "http://127.0.0.1/", "127.0.0.1"),
        (LOCAL, "http://127.0.0.1:0/", "127.0.0.1:0"),
        (LOCAL, "https://127.0.0.1:8080/", "127.0.0.1:8080"),
        (LOCAL, "http://localhost:8080/", "localhost:8080"),
        (LOCAL, "http://127.0.0.1.:8080/", "127.0.0.1."),
        (LOCAL, "http://2130706433:8080/", "2130706433"),
        (LOCAL, "http://0x7f.1:8080/", "0x7f.1"),
        (LOCAL, "http://127.1:8080/", "127.1"),
        (LOCAL, "http://[::ffff:127.0.0.1]:8080/", "[::ffff:127.0.0.1]"),
        (LOCAL, "http://[::1]:8080/", "[::1]"),
        (LOCAL, "http://169.254.169.254/latest/meta-data", "169.254.169.254"),
        (LOCAL, "http://evil.example#@127.0.0.1:8080/", "evil.example"),
        (LOCAL, "http://evil.example?@127.0.0.1:8080/", "evil.example"),
        (LOCAL, "http://evil.example/@127.0.0.1:8080/", "evil.example"),
        (LOCAL, "http://127.0.0.1.evil.example:8080/", "127.0.0.1.evil.example"),
        (LYBIC, "http://api.lybic.cn/", "http://api.lybic.cn"),
        (LYBIC, "http://pictures.lybic.cn/", "http://pictures.lybic.cn"),
        (LYBIC, "https://api.lybic.cn:8443/", "api.lybic.cn:8443"),
        (LYBIC, "https://api.lybic.cn./", "api.lybic.cn."),
        (LYBIC, "https://lybic.cn/", "lybic.cn"),
        (LYBIC, "https://evil-lybic.cn/", "evil-lybic.cn"),
        (LYBIC, "https://api.lybic.cn.evil.example/", "api.lybic.cn.evil.example"),
        (LYBIC, "http://pictures.example.com/", "http://pictures.example.com"),
        (LYBIC, "https://a.pictures.example.com/", "a.pictures.example.com"),
        (LYBIC, "https://cdn.example.com:8443/", "cdn.example.com:8443"),
        (LYBIC, "https://a.cdn.example.com/", "a.cdn.example.com"),
        (LYBIC, "https://acdn.example.com:8443/", "acdn.example.com:8443"),
        (AllowedHosts(["https://sandboxes.example.com"], []), "https://a.example.com/", "a.example.com"),
    ],
)
def test_refused_by_a_message_that_says_what_to_set(allowed: AllowedHosts, url: str, host: str) -> None:
    with pytest.raises(SandboxError) as refused:
        allowed.check(checked(url))
    assert host in refused.value.message
    assert "SCREENSHOT_ALLOWED_HOSTS" in refused.value.message


def test_a_long_name_does_not_make_a_long_message() -> None:
    with pytest.raises(SandboxError) as refused:
        LOCAL.check(checked(f"http://{5000 * 'a'}/"))
    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    "entry",
    [
        "https://pictures.example.com",
        "pictures.example.com/path",
        "*",
        "*.example.com",
        ".",
        "..example.com",
        "a b",
        "user@host",
        "host:port",
        "[::1",
    ],
)
def test_settings_that_cannot_be_read(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="SCREENSHOT_ALLOWED_HOSTS"):
        AllowedHosts(["https://api.lybic.cn"], [entry])


def test_an_endpoint_that_is_no_url() -> None:
    with pytest.raises(ConfigurationError, match="LYBIC_API_ENDPOINT"):
        AllowedHosts(["http://127.0.0.1:80:90"], [])


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8080/", True),
        ("http://10.0.0.7/", True),
        ("http://[::1]/", True),
        ("http://169.254.169.254/", True),
        ("http://sandbox:8080/", True),
        ("https://pictures.internal/", True),
        ("https://api.lybic.cn/", False),
        ("https://8.8.8.8/", False),
    ],
)
def test_whether_a_remote_model_could_reach_it(url: str, local: bool) -> None:
    assert is_local(httpx.URL(url)) is local


def test_a_page_is_told_the_same() -> None:
    assert LOCAL.sources == ["http://127.0.0.1:8080"]
    assert LYBIC.sources == [
        *("https://api.lybic.cn", "https://*.lybic.cn", "https://pictures.example.com"),
        *("https://*.cdn.example.com:8443", "https://[fd00::1]"),
    ]
