"""How gunicorn serves the API: greenlets, since most connections are streams that wait."""
# ruff: noqa: E402 - nothing may be imported before it is patched

from gevent import monkey

monkey.patch_all()

import atexit
import errno
import gc
import os
import resource
import shutil
import socket
import sys
from contextlib import suppress
from tempfile import mkdtemp
from typing import Any

# The processes count in files here, for any of them to tell the sum: prometheus_client looks for it when it
# is imported. Always a new one, or a successor by SIGUSR2 would share it.
COUNTS = os.environ["PROMETHEUS_MULTIPROC_DIR"] = mkdtemp(prefix="guiagent-metrics-")
ARBITER = os.getpid()

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker as AnyWorker
from gunicorn.workers.ggevent import GeventWorker
from prometheus_client.multiprocess import mark_process_dead
from pydantic import ValidationError

from api.auth import refuse_open_door
from shared.errors import ConfigurationError
from shared.settings import Settings

MOST_CONNECTIONS = 4000
FEWEST_CONNECTIONS = 100
OTHER_FILES = 500  # connections to PostgreSQL, Redis and Lybic, name look-ups, modules
SEND_BUFFER_BYTES = 64 * 1024
"""The kernel would let it grow to 4 MB for each client that does not read; this is plenty for events."""
# What a send to a client answers that is gone, cut off, or too slow: its affair, and no error of ours.
CLIENT_LEFT = {errno.ETIMEDOUT, errno.ECONNABORTED, errno.EHOSTUNREACH, errno.ENETUNREACH}


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        told = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        sys.exit(f"The settings can't be used: {'; '.join(told)}")


def _connections() -> int:
    """How many clients one process takes on: as many as it may open files for, which it asks for here."""
    wanted = MOST_CONNECTIONS + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # often 1024, and far more
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(FEWEST_CONNECTIONS, wanted - OTHER_FILES)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Worker(GeventWorker):
    """Serves each client with patience, but not for ever."""

    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> Any:
        """Cuts the connection once the client has neither sent nor taken anything for `SSE_SEND_SECONDS`."""
        _limit(sock)
        try:
            return super().handle_request(listener_name, req, sock, addr)  # type: ignore[no-untyped-call]
        except OSError as error:
            if isinstance(error, TimeoutError) or error.errno in CLIENT_LEFT:
                self.log.debug("client cut off: %s", error)
                raise StopIteration from None  # has the connection closed
            raise
        finally:
            sock.settimeout(None)  # for the next request gunicorn waits by a clock of its own


def _limit(sock: socket.socket) -> None:
    # Without a time-out a send to a client that does not read would block its greenlet for ever.
    sock.settimeout(settings.api.send_seconds)
    with suppress(OSError):  # it may be gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if sys.platform == "linux":
            # For a client that vanished without a word: small frames find room in the kernel's buffer, and
            # the kernel would try to deliver them for a quarter of an hour.
            milliseconds = int(settings.api.send_seconds * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def on_starting(server: Arbiter) -> None:
    """Does not start where everybody could come in, or nobody."""
    hosts = [address[0] for address in server.cfg.address if isinstance(address, tuple)]
    try:
        refuse_open_door(settings, hosts)
    except ConfigurationError as error:
        sys.exit(error.message)


def post_worker_init(_: GeventWorker) -> None:
    """Takes what was loaded until now out of the garbage collector's sight.

    It stays for ever, and each full collection would look at all of it, while every client waits.
    """
    gc.collect()
    gc.freeze()


def child_exit(_: Arbiter, worker: AnyWorker) -> None:
    """Forgets how many clients a process had that is gone; what it counted remains."""
    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


@atexit.register
def _remove_counts() -> None:
    if os.getpid() == ARBITER:  # its children run this as well
        shutil.rmtree(COUNTS, ignore_errors=True)


settings = _settings()

bind = _address(settings.api.host, settings.api.port)
workers = settings.api.processes
worker_class = Worker
worker_connections = _connections()
timeout = 60
graceful_timeout = 3  # open streams can be resumed anywhere
keepalive = 5
limit_request_line = 4094
limit_request_fields = 100
limit_request_field_size = 8190
loglevel = "error"
control_socket_disable = True  # it would make a folder in the home of whoever starts the API
