"""
One application, two ways to count it: carry out a plan with the client library's own multiprocess mode, or with ours.

A plan is made of a master, which makes metrics and records, and workers, which it forks, orders about and ends. What
runs here is the same for both ways but for the few lines of `Stock` and `Ours`.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import processes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics import MetricWrapperBase
    from prometheus_client.metrics_core import Metric

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

HELP: Final = ("", "One line.", 'Two lines,\nand "quotes".')

Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]


@dataclass(frozen=True)
class Spec:
    """A metric. *made* is where: "before" wsgi_prom is installed, "after", or in each "worker" that uses it."""

    type: str
    labelnames: tuple[str, ...] = ()
    mode: str = ""
    buckets: tuple[float, ...] = ()
    made: str = "after"


@dataclass(frozen=True)
class Record:
    """A call of a method of a metric by a process: 0 is the master, the workers are numbered as they start."""

    process: int
    metric: int
    labelvalues: tuple[str, ...]
    method: str
    amount: float | None = None


@dataclass(frozen=True)
class Start:
    """
    The master forks a worker. It records at once, or with its first `Record`; *unseen* by Python's own fork hooks.
    """

    records: bool = True
    unseen: bool = False


@dataclass(frozen=True)
class End:
    """A worker ends, by itself or by SIGKILL."""

    process: int
    killed: bool = False


@dataclass(frozen=True)
class Scrape:
    """Collect all values."""


@dataclass(frozen=True)
class Plan:
    """
    The steps of a test. *imported* are the master's records while it makes its metrics, those of "before" first.
    *late*: the directory becomes known only after these.
    """

    specs: tuple[Spec, ...]
    imported: tuple[Record, ...]
    actions: tuple[Record | Start | End | Scrape, ...]
    late: bool = False


@dataclass
class Page:
    """What a scrape shows, with each `pid` label replaced by the process's number in the plan."""

    types: dict[str, str] = field(default_factory=dict)
    samples: Samples = field(default_factory=dict)
    duplicates: list[tuple[str, Labels]] = field(default_factory=list)
    # Dead processes whose slot another process has taken over.
    superseded: set[int] = field(default_factory=set)


@dataclass
class Outcome:
    pages: list[Page] = field(default_factory=list)
    # What each process reads back from its own metric after a call.
    readings: list[float] = field(default_factory=list)
    files: int = 0


class Application:
    """The metrics of a process, by their number in the plan; late ones are made at their first use."""

    def __init__(self, specs: tuple[Spec, ...]) -> None:
        self.specs = specs
        self.metrics: dict[int, MetricWrapperBase] = {}

    def make(self, made: str) -> None:
        for number, spec in enumerate(self.specs):
            if spec.made == made:
                self.metrics[number] = self._make(number, spec)

    def record(self, order: Record) -> float:
        metric = self.metrics.get(order.metric)
        if metric is None:
            metric = self.metrics[order.metric] = self._make(order.metric, self.specs[order.metric])
        child: Any = metric.labels(*order.labelvalues) if metric._labelnames else metric
        if order.method != "touch":
            getattr(child, order.method)(*() if order.amount is None else (order.amount,))
        return (child._sum if hasattr(child, "_sum") else child._value).get()

    @staticmethod
    def _make(number: int, spec: Spec) -> MetricWrapperBase:
        import prometheus_client

        options: dict[str, Any] = {"registry": None}
        if spec.mode:
            options["multiprocess_mode"] = spec.mode
        if spec.buckets:
            options["buckets"] = spec.buckets
        factory = getattr(prometheus_client, spec.type.capitalize())
        return factory(f"metric_{number}", HELP[number % len(HELP)], spec.labelnames, **options)


class Stock:
    """The client library's multiprocess mode, as its documentation says."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pids: list[int] = []

    def install(self) -> None:
        pass

    know = install

    def started(self, pid: int) -> None:
        self._pids.append(pid)

    def ended(self, process: int) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(self._pids[process])

    def slot(self) -> None:
        return None

    def scrape(self, owners: dict[int, Any]) -> Page:
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector

        collector = MultiProcessCollector(CollectorRegistry(), path=str(self._path))
        return _page(collector.collect(), {str(pid): number for number, pid in enumerate(self._pids)})


class Ours:
    """wsgi_prom: installed, a slot for each process, and one collector for all scrapes."""

    def __init__(self, path: Path) -> None:
        from wsgi_prom.merge.collector import Collector

        self._path = path
        self._collector = Collector(path)
        self._deferred = False

    def install(self) -> None:
        from wsgi_prom.client import patch

        patch.install()

    def defer(self) -> None:
        from wsgi_prom.store.current_slot import current_slot

        current_slot.defer()
        self._deferred = True

    def know(self) -> None:
        from wsgi_prom.store.current_slot import current_slot

        if self._deferred:
            current_slot.attach(self._path)

    def started(self, pid: int) -> None:
        pass

    ended = started

    def slot(self) -> int | None:
        from wsgi_prom.store.current_slot import current_slot
        from wsgi_prom.store.slots import SharedSlot

        if not current_slot.fork_guard[0]:
            return None
        assert isinstance(current_slot.slot, SharedSlot), "recorded, and holds no slot"
        return current_slot.slot.number

    def scrape(self, owners: dict[int, Any]) -> Page:
        from prometheus_client.parser import text_string_to_metric_families

        from wsgi_prom.exporter.exposition import render

        families = self._collector.collect()
        assert () == self._collector.report.unreadable
        # In the order of claiming, so that the last owner of a slot remains.
        latest = {str(slot): process for process, slot in owners.items()}
        page = _page(families.to_metrics(), latest)
        page.superseded = set(owners) - set(latest.values())
        written = _page(text_string_to_metric_families(render(families)), latest)
        assert page.samples == written.samples
        # The text leaves a family out that has no samples.
        assert written.types.items() <= page.types.items()
        return page


def carry_out(way: str, plan: Plan) -> Outcome:
    """Be the master of *plan*. *way* is "stock" or "ours"."""
    with tempfile.TemporaryDirectory(prefix="referee-") as folder, ExitStack() as ends:
        counted: Stock | Ours = Stock(Path(folder)) if way == "stock" else Ours(Path(folder))
        if way == "stock" or not plan.late:
            os.environ[VARIABLE] = folder
        else:
            counted.defer()
        # Every process has this to record, so that it has a file and a slot when it is to have one.
        first = Record(0, len(plan.specs), (), "inc")
        application = Application((*plan.specs, Spec("counter", made="after")))
        outcome = Outcome()
        for made in ("before", "after"):
            application.make(made)
            outcome.readings += [
                application.record(order) for order in plan.imported if plan.specs[order.metric].made == made
            ]
            counted.install()
        counted.know()
        application.record(first)
        counted.started(os.getpid())
        owners = {0: counted.slot()}
        workers: list[processes.Child] = []

        def obey(order: Record) -> tuple[float, Any]:
            return application.record(order), counted.slot()

        for action in plan.actions:
            if isinstance(action, Start):
                fork = processes.fork_unseen if action.unseen else os.fork
                workers.append(ends.enter_context(processes.Child(obey, fork)))
                counted.started(workers[-1].pid)
                if action.records:
                    owners[len(workers)] = workers[-1].call(first)[1]
            elif isinstance(action, End):
                worker = workers[action.process - 1]
                (worker.kill if action.killed else worker.stop)()
                counted.ended(action.process)
            elif isinstance(action, Scrape):
                outcome.pages.append(counted.scrape(owners))
            elif action.process == 0:
                outcome.readings.append(application.record(action))
            else:
                worker = workers[action.process - 1]
                if action.process not in owners and action.method == "touch":
                    # To the library, making a child is recording; to us it is not.
                    worker.call(first)
                reading, slot = worker.call(action)
                outcome.readings.append(reading)
                owners.setdefault(action.process, slot)
        outcome.files = len(list(Path(folder).glob("*.values")))
        return outcome


def serve(way: str, fd: int) -> None:
    """Carry out plans for ever, each in a fork of this process, which itself has only imported modules."""
    import prometheus_client.multiprocess

    assert (VARIABLE in os.environ) == (
        prometheus_client.values.ValueClass is not prometheus_client.values.MutexValue
    )
    if way == "ours":
        # Imports are what costs; each plan is a fork of this process.
        for module in ("exporter.exposition", "client.patch", "merge.collector"):
            importlib.import_module(f"wsgi_prom.{module}")

    connection = Connection(fd)
    while True:
        try:
            plan = connection.recv()
        except EOFError:
            sys.exit(0)
        try:
            connection.send((True, processes.in_child(carry_out, way, plan)))
        except BaseException:
            connection.send((False, traceback.format_exc()))


def _page(metrics: Iterable[Metric], processes_by_pid: dict[str, int]) -> Page:
    page = Page()
    for metric in metrics:
        page.types[metric.name] = metric.type
        for sample in metric.samples:
            labels = dict(sample.labels)
            if "pid" in labels:
                labels["pid"] = str(processes_by_pid.get(labels["pid"], f"unknown process {labels['pid']}"))
            key = (sample.name, tuple(sorted(labels.items())))
            if key in page.samples:
                page.duplicates.append(key)
            page.samples[key] = sample.value
    return page
