"""The API's own description: the OpenAPI document, and a page to try it, with nothing from elsewhere."""

from importlib.resources import files
from typing import Any, cast

import flask_openapi_swagger
from flask import Blueprint, Response, current_app, render_template_string
from flask_openapi import OpenAPI
from flask_openapi_swagger.templates import swagger_html_string

ASSETS = files(flask_openapi_swagger) / "templates" / "swagger"
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'"
)

# The page asks for its assets below `swagger/`, beside itself.
routes = Blueprint("docs", __name__, url_prefix="/api", static_folder=str(ASSETS), static_url_path="/swagger")


@routes.get("/openapi.json")
def document() -> dict[str, Any]:
    """The OpenAPI document, made from the models that validate."""
    return cast(OpenAPI, current_app).api_doc


@routes.get("/docs")
def page() -> Response:
    """The interactive page."""
    config = {"validatorUrl": None}  # or it would show the verdict of a site elsewhere
    html = render_template_string(
        swagger_html_string, doc_url="openapi.json", swagger_config=config, oauth_config=None
    )
    response = Response(html)
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    return response
