"""The queue: the Celery application and the one message that it carries, a job's id.

A message is only a hint that a job may be claimed. It holds no text and no credentials; losing or
doubling it is harmless, since the claim is a conditional UPDATE and the sweepers look for forgotten jobs.
"""

import logging
from uuid import UUID

from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from shared.breaker import Breaker
from shared.settings import RedisSettings

log = logging.getLogger(__name__)

RUN_JOB = "guiagent.run_job"
QUEUE = "guiagent"
DEFAULT_PRIORITY = 5


def make_celery(settings: RedisSettings) -> Celery:
    """The Celery application, for publishing (API) and consuming (workers)."""
    app = Celery("guiagent", broker=settings.url.get_secret_value(), set_as_current=False)
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
    """Publishes messages. Failing to is logged, never raised: the sweepers find the job."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._breaker = Breaker()

    def dispatch(self, job_id: UUID, priority: int = DEFAULT_PRIORITY) -> None:
        """Tells the workers that the job may be claimed."""
        if self._breaker.is_open:
            return
        try:
            self._app.send_task(RUN_JOB, args=(str(job_id),), priority=priority, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            self._breaker.trip()
            log.warning("job %s not dispatched: %s", job_id, type(error).__name__)
