"""Turn the JSON of uWSGI's stats server into metric families, by the table of `uwsgi_metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prometheus_client.metrics_core import Metric

from wsgi_prom.server import uwsgi_metrics as table
from wsgi_prom.server.column import Column
from wsgi_prom.server.uwsgi_metrics import UP, identity, number, objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_prom.server.uwsgi_metrics import Object, Section

    Labelled = list[tuple[tuple[str, ...], Object]]

# Under gevent a worker has a thousand cores, with seven series each. uwsgi_exporter shows cores on request alone.
MOST_CORES: Final = 64


def families(stats: dict[str, Any] | None) -> list[Metric]:
    """
    Return the metrics of *stats*, the stats server's JSON. Of None, an answer that could not be read, `uwsgi_up` 0 alone.
    """
    up = Metric(UP.name, UP.help, UP.type)
    up.add_sample(UP.name, {}, float(stats is not None))
    return [
        up,
        *(family for section, found in _sections(stats or {}) for family in _families(section, found)),
    ]


def _sections(stats: Object) -> Iterator[tuple[Section, Labelled]]:
    workers: Labelled = _identified((), stats, "workers", least=1)
    apps = [app for labels, worker in workers for app in _identified(labels, worker, "apps")]
    cores = [_identified(labels, worker, "cores") for labels, worker in workers]
    yield table.SERVER, [((), stats)]
    yield table.SOCKETS, _named(stats, "sockets", "name", "proto")
    yield table.WORKERS, workers
    yield (
        table.APPS,
        [((*labels, _text(app, "mountpoint"), _text(app, "chdir")), app) for labels, app in apps],
    )
    yield table.CORES, [core for of_worker in cores if len(of_worker) <= MOST_CORES for core in of_worker]
    yield table.CACHES, _named(stats, "caches", "name")
    yield table.SPOOLERS, _numbered(stats, "spoolers", lambda spooler: _text(spooler, "dir"))
    yield table.DAEMONS, _numbered(stats, "daemons", lambda daemon: _program(_text(daemon, "cmd")))
    yield table.CRONS, _numbered(stats, "crons", lambda cron: _program(_text(cron, "command")))
    yield table.LOCKS, _locks(stats)


def _families(section: Section, found: Labelled) -> Iterator[Metric]:
    # The first of several with the same labels: of a socket that several processes bind, all but one say 0.
    first: dict[tuple[str, ...], Object] = {}
    for of_one, one in found:
        first.setdefault(of_one, one)
    labels = [dict(zip(section.labels, of_one, strict=True)) for of_one in first]
    for name, kind, text, read in section.figures:
        if isinstance(read, str):
            values = [number(one.get(read)) for one in first.values()]
        else:
            values = [read(one) for one in first.values()]
        if values.count(None) < len(values):
            # The library writes the type of a counter under the name that ends in _total, and wants it without.
            metric = name.removesuffix("_total") if kind == "counter" else name
            yield Column(metric, text, "unknown" if kind == "untyped" else kind, name, labels, values)


def _identified(labels: tuple[str, ...], found: Object, name: str, *, least: int = 0) -> Labelled:
    """Return the objects in *found* whose id is *least* or more, by *labels* and that id."""
    ids = [(identity(one), one) for one in objects(found, name)]
    return [((*labels, str(number)), one) for number, one in ids if number is not None and number >= least]


def _named(stats: Object, name: str, *labels: str) -> Labelled:
    return [(tuple(_text(one, label) for label in labels), one) for one in objects(stats, name)]


def _text(found: Object, name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else ""


def _numbered(stats: Object, name: str, label: Callable[[Object], str]) -> Labelled:
    """Return objects that have no id of their own, by their place: it is the same as long as the master runs."""
    return [((str(place), label(one)), one) for place, one in enumerate(objects(stats, name))]


def _program(command: str) -> str:
    """Return the name of the program alone: arguments and variables may hold passwords."""
    first = command.split(maxsplit=1)[0] if command.strip() else ""
    return "" if "=" in first else first.rpartition("/")[2]


def _locks(stats: Object) -> Labelled:
    # [{"user 0": pid or 0}, ...]; the processes of a spooler have a lock each, with the same name.
    held: dict[str, int] = {}
    for name, pid in (item for lock in objects(stats, "locks") for item in lock.items()):
        if number(pid) is not None:
            held[name] = held.get(name, 0) + (pid > 0)
    return [((name,), {"held": count}) for name, count in held.items()]
