"""What is made at its first use is made once, whoever comes at the same time."""

import os
import subprocess
import sys

from cryptography.fernet import Fernet

from local.demo import isolated

FIRST_USE = """
from gevent import monkey

monkey.patch_all()

import sys

from gevent.pool import Pool
from pydantic import SecretStr

from api.services import Services
from shared.settings import Settings, StorageSettings

key = SecretStr(sys.argv[1])
nowhere = StorageSettings(url=SecretStr("postgresql://127.0.0.1:9/d"), credentials_keys=(key,))
services = Services(Settings(storage=nowhere))
portals = Pool(10).map(lambda _: services.portal, range(10))
assert len(set(map(id, portals))) == 1
services.close()
"""


def test_requests_that_need_the_portal_first_share_it() -> None:
    key = Fernet.generate_key().decode()
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE, key],
        env=isolated(os.environ),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
