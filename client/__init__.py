"""The Python client of a Lybic GUI Agent server, and the command line.

    from client import Client

    with Client() as client:
        for event in client.run("Open notepad and type Hello World"):
            print(event.message)

Names are loaded when they are first used: commands that speak no HTTP start without httpx.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.calls import Authentication, ModelChoice, TaskOptions, TaskRequest
    from client.clients import AsyncClient, Client
    from client.errors import (
        ApiError,
        BadAnswer,
        ClientError,
        Conflict,
        ConnectionFailed,
        Forbidden,
        InvalidRequest,
        InvalidSetting,
        NotFound,
        SandboxFailed,
        TooManyRequests,
        Unauthorized,
        Unavailable,
        WaitTimeout,
    )
    from client.manual import LybicAgentClient, ProductionLybicClient
    from client.models import (
        ActiveTask,
        Cancelled,
        Delivery,
        Event,
        Health,
        Info,
        ListedSandbox,
        Readiness,
        Resumed,
        Sandbox,
        Step,
        TakenOver,
        Task,
    )

__all__ = [
    "ActiveTask",
    "ApiError",
    "AsyncClient",
    "Authentication",
    "BadAnswer",
    "Cancelled",
    "Client",
    "ClientError",
    "Conflict",
    "ConnectionFailed",
    "Delivery",
    "Event",
    "Forbidden",
    "Health",
    "Info",
    "InvalidRequest",
    "InvalidSetting",
    "ListedSandbox",
    "LybicAgentClient",
    "ModelChoice",
    "NotFound",
    "ProductionLybicClient",
    "Readiness",
    "Resumed",
    "Sandbox",
    "SandboxFailed",
    "Step",
    "TakenOver",
    "Task",
    "TaskOptions",
    "TaskRequest",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "WaitTimeout",
]

_MODULES = ("errors", "models", "calls", "clients", "manual")


def __getattr__(name: str) -> object:
    for module in _MODULES if name in __all__ else ():
        loaded = import_module(f"client.{module}")
        if hasattr(loaded, name):
            return getattr(loaded, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
