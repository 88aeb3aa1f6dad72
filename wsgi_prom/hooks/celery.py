"""
The hook of Celery: `import wsgi_prom.hooks.celery` in the application's module, or `celery worker --include
wsgi_prom.hooks.celery`.

1. A worker and beat join the processes of the server (joined_process.py) when they start; every other process that imports this
   module is left as it is, such as a web worker that sends tasks.
2. The process that runs a task counts it before it tells the worker's main process of its end, so that a child of the pool that
   is recycled then (max_tasks_per_child) has counted it. What such a child cannot count, since it was killed, the main process
   does.
3. A task that is called without a queue (apply, task_always_eager) is a part of its caller, and not counted.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, Final

from celery import signals, states
from celery.exceptions import Reject, TimeLimitExceeded

from wsgi_prom.client.asking_thread import asking_thread
from wsgi_prom.hooks.joined_process import join
from wsgi_prom.hooks.task_metrics import TaskMetrics
from wsgi_prom.metrics import LONGEST_LABEL, OTHER

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("wsgi_prom")

# None in a process that is no worker of Celery.
_metrics: TaskMetrics | None = None
_failed: Final[set[str]] = set()
# The ids of tasks whose hard time limit on_failure has told of.
_late: Final[deque[str]] = deque(maxlen=100)


def _receiver(*sent: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Connect a function to Celery's signals *sent*. An error of ours is logged once, and reaches neither Celery nor a task."""

    def connect(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def call(*arguments: Any, **named: Any) -> None:
            try:
                function(*arguments, **named)
            except Exception as error:
                if function.__name__ not in _failed:
                    _failed.add(function.__name__)
                    log.error("tasks are not all counted: %s: %s", type(error).__name__, error)

        for each in sent:
            each.connect(call, weak=False, dispatch_uid=f"wsgi_prom.{function.__name__}")
        return call

    return connect


# The latter is too late for celeryd_init if --include has loaded this module, and comes in a child that was not forked.
@_receiver(signals.celeryd_init, signals.worker_init, signals.worker_process_init)
def _join_worker(**_: Any) -> None:
    global _metrics
    join(role="celery")
    _metrics = _metrics or TaskMetrics()


@_receiver(signals.worker_before_create_process)
def _leave_collectors_to_children(**_: Any) -> None:
    asking_thread.leave_to_children()


@_receiver(signals.beat_init)
def _join_beat(**_: Any) -> None:
    join(role="beat")


@_receiver(signals.task_prerun)
def _begin(task: Any, task_id: str, **_: Any) -> None:
    if _metrics is not None and not task.request.is_eager:
        _metrics.begin(task_id, _name(task))


@_receiver(signals.task_postrun)
def _end(task: Any, task_id: str, state: str | None = None, **_: Any) -> None:
    if _metrics is not None and not task.request.is_eager:
        # Without a state it raises what ends the process (SystemExit): the main process counts that.
        _metrics.end(task_id, _name(task), state)


@_receiver(signals.task_failure)
def _fail(sender: Any, task_id: str, exception: BaseException, traceback: Any = None, **_: Any) -> None:
    if _metrics is None or sender.request.is_eager or isinstance(exception, Reject):
        return  # the last is a state of its own
    if isinstance(exception, TimeLimitExceeded) and _is_told_again(task_id, traceback):
        return
    _metrics.count_exception(_name(sender), exception)
    if not _metrics.runs(task_id):
        # In the main process: the child was killed, or took too long.
        _metrics.count(_name(sender), states.FAILURE)


def _is_told_again(task_id: str, traceback: Any) -> bool:
    """
    Return whether the failure of a task by its hard time limit was counted already.

    Celery 5.7 sends it from on_failure with a text as *traceback*, but not of a task that is requeued or runs in a greenlet,
    and right afterwards from on_timeout (worker/request.py). Earlier versions send the first alone.
    """
    if isinstance(traceback, str):
        _late.append(task_id)
        return False
    if task_id in _late:
        _late.remove(task_id)
        return True
    return False


@_receiver(signals.task_retry)
def _retry(sender: Any, request: Any, **_: Any) -> None:
    # In the main process: the child was killed, and the task is sent again. That of a task that runs here, `_end` counts.
    if _metrics is not None and not request.is_eager and not _metrics.runs(request.id):
        _metrics.count(_name(sender), states.RETRY)


@_receiver(signals.task_revoked)
def _revoke(sender: Any, **_: Any) -> None:
    if _metrics is not None:
        _metrics.count(_name(sender), states.REVOKED)


@_receiver(signals.task_unknown)
def _refuse(**_: Any) -> None:
    # The name of an unknown task is a client's text. Celery takes the task as failed.
    if _metrics is not None:
        _metrics.count(OTHER, states.FAILURE)


@cache
def _label(name: str) -> str:
    return name[:LONGEST_LABEL]


def _name(task: Any) -> str:
    return _label(task.name) if task.name in task.app.tasks else OTHER
