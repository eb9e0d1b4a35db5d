"""The API's application as the code makes it, and its OpenAPI document, which the playground is built from.

Run as a program it writes that file anew.
"""

import json
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from flask_openapi import OpenAPI
from pydantic import SecretStr

from api.app import create_app
from api.services import EXTENSION
from local.up import setting_names
from shared.settings import Settings, StorageSettings

FILE = Path(__file__).parent.parent / "playground" / "openapi.json"


def application() -> OpenAPI:
    """The application; the document needs no servers, and no user's settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("/")
        for name in setting_names():
            patch.delenv(name, raising=False)
        key = SecretStr(Fernet.generate_key().decode())
        nowhere = StorageSettings(url=SecretStr("postgresql://127.0.0.1:9/d"), credentials_keys=(key,))
        app = create_app(Settings(storage=nowhere))
    app.extensions[EXTENSION].close()
    return app


if __name__ == "__main__":
    FILE.write_text(json.dumps(application().api_doc, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
