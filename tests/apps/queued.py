"""An application of Celery whose tasks end in each way; run by `celery -A queued worker`."""

from __future__ import annotations

import os
import signal
import time

from celery import Celery
from celery.exceptions import Ignore, Reject
from prometheus_client import REGISTRY, Counter
from prometheus_client.core import GaugeMetricFamily

app = Celery("queued", broker=os.environ.get("BROKER"), backend=os.environ.get("BROKER"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_default_queue=os.environ.get("QUEUE", "celery"),
    beat_schedule={"often": {"task": "queued.add", "schedule": 1000.0, "args": (1,)}},
    beat_schedule_filename=os.environ.get("SCHEDULE", "schedule"),
)
# The application's own, made before the worker joins.
ADDED = Counter("queued_added_total", "What was added.", registry=None)


class Asked:
    """A collector that tells in which process it is asked."""

    multiprocess_mode = "livesum"

    def collect(self) -> list[GaugeMetricFamily]:
        family = GaugeMetricFamily("queued_asked", "Processes that ask.", labels=["process"])
        family.add_metric([str(os.getpid())], 1)
        return [family]


REGISTRY.register(Asked())

if "UNHOOKED" not in os.environ:
    import wsgi_prom.hooks.celery  # noqa: F401


@app.task
def add(number: int) -> int:
    ADDED.inc(number)
    return number


@app.task
def fail() -> None:
    raise ValueError("as it should")


@app.task(bind=True, max_retries=2, default_retry_delay=0)
def again(self) -> None:
    if self.request.retries < 2:
        raise self.retry()


@app.task(acks_late=True)
def reject() -> None:
    raise Reject("no")


@app.task
def ignore() -> None:
    raise Ignore


@app.task
def lose() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, retry_on_worker_lost=True, default_retry_delay=0)
def restart(self) -> None:
    if self.request.retries == 0:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(time_limit=1)
def hang() -> None:
    time.sleep(60)


@app.task(bind=True, time_limit=1, acks_late=True, acks_on_timeout=False)
def requeue(self) -> None:
    if not self.request.delivery_info["redelivered"]:
        time.sleep(60)


@app.task
def eager() -> None:
    add.apply(args=(1,))


@app.task
def wait(seconds: float) -> None:
    time.sleep(seconds)
