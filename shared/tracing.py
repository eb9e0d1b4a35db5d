"""OpenTelemetry traces, from the HTTP request to each call of a step; off unless a collector is named.

While they are off nothing of OpenTelemetry is imported, and a span costs a function call. A span holds ids,
numbers and names of ours: no text of a client, a model or a sandbox, no address, no message of an error.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from shared.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

Attributes = Mapping[str, str | int]

_OFF = nullcontext()
_tracer: "Tracer | None" = None


def configure(settings: TracingSettings, *, service: str) -> None:
    """Has this process send its spans to the collector, if there is one; `service` is what they are from."""
    global _tracer  # noqa: PLW0603 - spans are made wherever something is called
    if settings.endpoint is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning(
            "no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed "
            "(pip install 'lybic-guiagent[tracing]')"
        )
        return
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = OTLPSpanExporter(f"{settings.endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("lybic-guiagent")


def enabled() -> bool:
    """Whether spans are made."""
    return _tracer is not None


def span(
    name: str, attributes: Attributes | None = None, *, parent: str | None = None, apart: bool = False
) -> AbstractContextManager[None]:
    """Makes the block a span: within the current one, or within `parent`, a W3C `traceparent`.

    `apart` begins a trace of its own, which is linked to the current span.
    """
    return _OFF if _tracer is None else _span(_tracer, name, attributes, parent, apart=apart)


def annotate(attributes: Attributes) -> None:
    """Adds to the current span."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(attributes)


def traceparent() -> str | None:
    """The current span as W3C has it in a header, for spans of other processes to be within it."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def _span(
    tracer: "Tracer", name: str, attributes: Attributes | None, parent: str | None, *, apart: bool
) -> Iterator[None]:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, StatusCode, get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    within = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    with tracer.start_as_current_span(
        name,
        Context() if apart else within,
        attributes=attributes,
        links=[Link(get_current_span().get_span_context())] if apart else None,
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield
        except BaseException as error:
            made.set_status(StatusCode.ERROR, type(error).__name__)  # its message may say too much
            raise
