"""The playground as the API serves it: one page for all views, assets that never change, nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api import playground
from shared.settings import ApiSettings, Settings
from tests.application import FILE, application
from tests.integration.conftest import Serve

VIEWS = ("/", "/new", "/sandboxes", "/tasks/0b4f7c1e-5a0f-4d0e-9a55-4a8d9a5b3c11")


def get(client: FlaskClient, path: str, **more: Any) -> TestResponse:
    return client.get(path, buffered=True, **more)  # files are closed at once


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a build leaves behind, with a file beside it that is nobody's business."""
    folder = tmp_path / "static"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "favicon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "assets" / "index-abc123.js").write_text("let page;")
    (tmp_path / "secret").write_text("secret")
    monkeypatch.setattr(playground, "BUILT", folder)
    return folder


@pytest.mark.parametrize("path", VIEWS)
def test_every_view_is_the_page_with_a_strict_policy(client: FlaskClient, built: Path, path: str) -> None:
    answer = get(client, path)
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert "<title>page" in answer.text
    policy = dict(one.split(" ", 1) for one in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: http://127.0.0.1:9"
    assert answer.headers["Cache-Control"] == "no-cache"
    again = get(client, path, headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_assets_are_kept_for_ever(client: FlaskClient, built: Path) -> None:
    script = get(client, "/assets/index-abc123.js")
    assert (script.status_code, script.mimetype) == (200, "text/javascript")
    assert {"immutable", "max-age=31536000"} <= set(script.headers["Cache-Control"].split(", "))
    assert get(client, "/favicon.svg").mimetype == "image/svg+xml"


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../secret",
        "/assets/%2e%2e/%2e%2e/secret",
        "/assets//etc/passwd",
        "/assets/",
        "/index.html",
    ],
)
def test_nothing_else_is_served(client: FlaskClient, built: Path, path: str) -> None:
    answer = get(client, path)
    assert answer.status_code == 404
    assert answer.json["error"]["code"] == "not_found"


def test_where_it_is_not_built_a_sentence_says_how(
    client: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playground, "BUILT", tmp_path / "nowhere")
    answer = get(client, "/")
    assert (answer.status_code, answer.mimetype) == (404, "text/html")
    assert "make playground" in answer.text
    assert get(client, "/assets/index.js").status_code == 404
    assert get(client, "/api/health").status_code == 200


def test_the_page_itself_asks_for_no_key(serve: Serve, settings: Settings, built: Path) -> None:
    client = serve(settings.model_copy(update={"api": ApiSettings(keys="required")}))
    for path in (*VIEWS, "/assets/index-abc123.js", "/favicon.svg"):
        assert get(client, path).status_code == 200, path
    assert get(client, "/api/agent/info").status_code == 401


def test_what_it_is_built_from_describes_this_api() -> None:
    assert json.loads(FILE.read_text()) == application().api_doc, "make docs-api writes it anew"
