"""The queue: the Celery application and the one message that it carries, a job's id.

A message is only a hint that a job may be claimed. It holds no text and no credentials; losing or
doubling it is harmless, since the claim is a conditional UPDATE and the sweepers look for forgotten jobs.
"""

import logging
from collections import deque
from collections.abc import Sequence
from functools import partialmethod
from threading import Event, Lock, Thread
from uuid import UUID

from celery import Celery
from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.entity import Queue

from shared.breaker import Breaker
from shared.settings import RedisSettings

log = logging.getLogger(__name__)

RUN_JOB = "guiagent.run_job"
QUEUE = "guiagent"
DEFAULT_PRIORITY = 5
MOST_WAITING = 10_000
"""Messages that wait to be published while Redis is slow; the oldest are left to the sweepers."""
MOST_AT_ONCE = 20
"""Requests that came meanwhile are next, and not after a batch of a thousand."""
CLOSE_SECONDS = 5.0
CONNECT_AGAIN_SECONDS = 2


class SteadyConnection(Connection):
    """How a worker that lost Redis looks for it: every two seconds. kombu's pauses grow to half a minute."""

    ensure_connection = partialmethod(Connection.ensure_connection, interval_max=CONNECT_AGAIN_SECONDS)


class SteadyAMQP(AMQP):
    """Celery's way to name another class of connections."""

    Connection = SteadyConnection


def make_celery(settings: RedisSettings) -> Celery:
    """The Celery application, for publishing (API) and consuming (workers)."""
    app = Celery("guiagent", broker=settings.url.get_secret_value(), set_as_current=False, amqp=SteadyAMQP)
    app.conf.update(
        task_default_queue=QUEUE,
        # No acknowledgements: late ones run a job twice on a connection blip and three times when it outlives
        # the visibility time-out; with early ones a worker ends when kombu gives back, over a connection that
        # Redis took down with it, what was just being acknowledged. The lease does what acks can't.
        task_queues=[Queue(QUEUE, no_ack=True)],
        task_default_priority=DEFAULT_PRIORITY,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        worker_soft_shutdown_timeout=0,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_send_sent_event=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_acquire_timeout=5,
        broker_transport_options={
            # A frozen Redis would otherwise hold a submit for half a minute.
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "health_check_interval": 25,
            # A publisher tries to connect twice and at once, not for six seconds.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0,
            "queue_order_strategy": "priority",
            "priority_steps": list(range(10)),
        },
    )
    return app


class Dispatcher:
    """Publishes messages, in the background: whoever submits a job does not wait for Redis.

    What is asked for while some are on their way goes with the next ones, in one round trip. Failing to is
    logged, never raised: the sweepers find the jobs, as they do if this process dies before they are told.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._breaker = Breaker()
        self._waiting: deque[tuple[UUID, int]] = deque(maxlen=MOST_WAITING)
        self._asked = Event()
        self._closed = False
        self._lock = Lock()
        self._thread: Thread | None = None

    def dispatch(self, job_id: UUID, priority: int = DEFAULT_PRIORITY) -> None:
        """Tells the workers soon that the job may be claimed."""
        if self._breaker.is_open:
            return
        self._waiting.append((job_id, priority))
        self._asked.set()
        if self._thread is None:
            self._start()

    def close(self) -> None:
        """Publishes what waits, and ends the thread."""
        self._closed = True
        self._asked.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _start(self) -> None:
        # In the process that serves, not in the one that it was forked from.
        with self._lock:
            if self._thread is None:
                self._thread = Thread(target=self._run, name="dispatcher", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while self._waiting or not self._closed:
            self._asked.wait()
            self._asked.clear()  # before looking: whoever asks from now on is seen, or sets it again
            while self._waiting:
                few = min(len(self._waiting), MOST_AT_ONCE)
                self._publish([self._waiting.popleft() for _ in range(few)])

    def _publish(self, messages: Sequence[tuple[UUID, int]]) -> None:
        try:
            with self._app.producer_or_acquire() as producer, producer.batch():
                # Nothing to declare: a message goes by its queue's name, and Redis makes the list.
                sent = {"producer": producer, "retry": False, "declare": []}
                for job_id, priority in messages:
                    self._app.send_task(RUN_JOB, args=(str(job_id),), priority=priority, **sent)
        except Exception as error:  # noqa: BLE001 - nothing may end the thread
            self._breaker.trip()
            lost = len(messages) + len(self._waiting)
            self._waiting.clear()  # it would be tried in vain, too
            log.warning("%s job(s) not dispatched: %s", lost, type(error).__name__)
