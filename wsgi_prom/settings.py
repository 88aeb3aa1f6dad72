"""
All settings: their defaults, and how they are read from the environment and from keywords.

1. Every setting is an environment variable `WSGI_PROM_<NAME>`. Those of the middleware are also keywords of
   `PrometheusMiddleware`.
2. A keyword wins over the variable. An empty variable counts as unset.
3. A comment at a field gives the reason of its default. `make docs` generates the tables of docs/settings.md from the fields.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom import setting_values
from wsgi_prom.discovery_settings import DiscoverySettings
from wsgi_prom.errors import SettingError
from wsgi_prom.metrics import APP_INFO, CPU, FIRST_BYTE, NAMES, OPTIONAL
from wsgi_prom.setting_field import setting as _setting
from wsgi_prom.setting_values import Address
from wsgi_prom.warning import warn_once

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsgi_prom.setting_values import Exclusion, LabelValue, Network

PREFIX: Final = "WSGI_PROM_"
# "PID ROLE", in the environment of a program that `wsgi-prom run` executes as the process PID. Nobody sets it.
RUN: Final = "_WSGI_PROM_RUN"

# Kubernetes sets these variables in every container for a Service called wsgi-prom or wsgi-prom-*: NAME_SERVICE_HOST,
# NAME_SERVICE_PORT[_PORTNAME] and NAME_PORT[_9464_TCP[_ADDR|_PORT|_PROTO]] (its documentation, "Environment variables").
_SERVICE_LINK: Final = re.compile(
    r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://")

# The settings that restrict who may read the metrics. The middleware applies them to metrics_path.
_ACCESS: Final = ("allow", "token_file", "web_config")


@dataclass(frozen=True)
class Settings(DiscoverySettings):
    """All settings, checked. Make it with `Settings.read`."""

    app: str | None = _setting(
        "Application", None, setting_values.reference,
        "MODULE:CALLABLE, such as myapp:app, or MODULE:FACTORY(LITERALS), such as myapp:create_app()",
        "the application that `wsgi_prom.wsgi:application` measures: `module:callable` or `module:factory()`; `module` alone is `module:application`",
        keyword=False,
    )  # fmt: skip
    # By default that of the distribution, which an application that was deployed as a folder has not.
    app_version: str | None = _setting(
        "Application", None, setting_values.version, "a text in one line of up to 128 characters",
        f"the version in `{APP_INFO[0]}`; by default that of the installed distribution", keyword=False,
    )  # fmt: skip
    # Off: it shows the metrics to every client of the application.
    metrics_path: str | None = _setting(
        "Application", None, setting_values.path, "an absolute path, such as /metrics",
        "a path at which the application serves the metrics too", shown="off",
    )  # fmt: skip
    # For two applications in one Prometheus job.
    prefix: str = _setting(
        "Application", "", setting_values.prefix, "the beginning of a metric name, such as shop_",
        "the beginning of the name of each request metric, such as `shop_`",
    )  # fmt: skip
    # What Prometheus' own practices recommend, and the dashboards show.
    names: str = _setting(
        "Application", "prometheus", setting_values.names,
        f"{' or '.join(NAMES)} (the name by which processes meet is WSGI_PROM_NAME)",
        "what the request metrics and their labels are called: `prometheus` as in [metrics.md](metrics.md), `otel` as in "
        "OpenTelemetry's conventions ([opentelemetry.md](opentelemetry.md))", shown="prometheus",
    )  # fmt: skip
    disable: frozenset[str] = _setting(
        "Application", frozenset(), setting_values.metrics, f"a list of {', '.join(sorted(OPTIONAL))}",
        "names of metrics to leave out: those with a star in [metrics.md](metrics.md)",
    )  # fmt: skip
    # The client library's own default, which fits requests from 5 ms to 10 s.
    buckets: tuple[float, ...] = _setting(
        "Application", (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
        setting_values.buckets, "upper bounds in seconds, in rising order, such as 0.1,0.5,2.5",
        "upper bounds of the duration histogram, in seconds", shown="5 ms to 10 s",
    )  # fmt: skip
    # Coarser, with higher bounds: a queue is empty most of the time, and holds requests for seconds when it is not.
    queue_buckets: tuple[float, ...] = _setting(
        "Application", (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0),
        setting_values.buckets, "upper bounds in seconds, in rising order, such as 0.1,0.5,2.5",
        "upper bounds of the histogram of the time in the proxy's queue, in seconds", shown="1 ms to 60 s",
    )  # fmt: skip
    # Off: it differs from the duration only for streams, and costs another histogram for each route.
    first_byte: bool = _setting(
        "Application", False, setting_values.switch, "on or off",
        f"record `{FIRST_BYTE[0]}` too", shown="off",
    )  # fmt: skip
    # Off: it asks the kernel twice for each request, and takes the slow path.
    cpu: bool = _setting(
        "Application", False, setting_values.switch, "on or off",
        f"record `{CPU[0]}` too", shown="off",
    )  # fmt: skip
    # Off: it is of use only where traces are kept, and a request of a sampled trace takes the slow path.
    exemplars: bool = _setting(
        "Application", False, setting_values.switch, "on or off",
        "add the trace of a request to its duration, as an exemplar ([exemplars.md](exemplars.md))", shown="off",
    )  # fmt: skip
    # Off: it multiplies the most expensive metric, and the counter's status answers most questions.
    status_class: bool = _setting(
        "Application", False, setting_values.switch, "on or off",
        "add a label `status_class` (`2xx`) to the duration", shown="off",
    )  # fmt: skip
    labels: tuple[tuple[str, LabelValue], ...] = _setting(
        "Application", (), setting_values.labels,
        "a list of NAME=VALUE, with names that Prometheus allows and that are not ours",
        "labels to add, `name=value`; a keyword may also give callables, which get the environ",
    )  # fmt: skip
    exclude: Exclusion | None = _setting(
        "Application", None, setting_values.exclusion,
        "a list of regular expressions for whole paths, separated by blanks",
        "regular expressions of whole paths not to measure; a keyword may also give a callable, which gets the environ",
    )  # fmt: skip
    # Applications whose labels are templates have fewer combinations of route, method and status.
    label_limit: int = _setting(
        "Application", 1000, setting_values.positive, "a number of label sets, 1 or more",
        "label sets that a metric may have in all processes; more become `OTHER`, first only in labels of callables", shown="1000",
    )  # fmt: skip
    # As fresh as a scrape every 15 s can tell; a query of a database every five seconds is no load.
    collect_seconds: float = _setting(
        "Application", 5.0, setting_values.seconds, "a number of seconds, 1 to 3600",
        "how often custom collectors and functions of gauges are asked, in seconds ([collectors.md](collectors.md))",
        shown="5", keyword=False,
    )  # fmt: skip
    # Loopback: other machines can read the metrics only where somebody asks for it. 9464 is the port of OpenTelemetry's
    # Prometheus exporter: an existing scrape configuration need not change.
    bind: Address | None = _setting(
        "Exporter", Address("127.0.0.1", 9464), setting_values.address,
        "HOST:PORT, [IPV6]:PORT, unix:/PATH, or off",
        "where the exporter listens: `HOST:PORT`, `[IPV6]:PORT`, `unix:/PATH`, or `off`",
        shown="`127.0.0.1:9464`", keyword=False,
    )  # fmt: skip
    # None: each start of a server makes a directory of its own, which nobody else finds.
    name: str | None = _setting(
        "Exporter", None, setting_values.name, "a name of up to 64 letters, digits, - and _, such as shop",
        "the name by which processes that [join](processes.md) meet the server of the same user: instead of `PROMETHEUS_MULTIPROC_DIR`, "
        "which wins",
        keyword=False,
    )  # fmt: skip
    # Only the exporter's own user can connect by default.
    socket_mode: int = _setting(
        "Exporter", 0o600, setting_values.mode, "the mode of the socket, three octal digits such as 660",
        "the mode of the socket at `unix:/PATH`", shown="600", keyword=False,
    )  # fmt: skip
    # As often as statsd sums up its counts.
    push_seconds: float = _setting(
        "Exporter", 10.0, setting_values.seconds, "a number of seconds, 1 to 3600",
        "how often `wsgi-prom push` sends a reading, in seconds ([push.md](push.md))", shown="10", keyword=False,
    )  # fmt: skip
    allow: tuple[Network, ...] = _setting(
        "Access", (), setting_values.networks, "a list of addresses and networks, such as 10.0.0.0/8,::1",
        "addresses and networks that may connect, such as `10.0.0.0/8,::1`", shown="everybody",
    )  # fmt: skip
    # Secrets are in files: a file can be replaced while the server runs, and child processes do not inherit it.
    token_file: str | None = _setting(
        "Access", None, setting_values.file, "the absolute path of a file", "a file with a bearer token"
    )  # fmt: skip
    # The format that Prometheus' exporters share, so that one file serves them all.
    web_config: str | None = _setting(
        "Access", None, setting_values.file, "the absolute path of a file",
        "a file in the web configuration format of Prometheus' exporters: TLS, client certificates, users and passwords",
    )  # fmt: skip

    @classmethod
    def of_middleware(cls, keywords: Mapping[str, Any]) -> Settings:
        """
        Read the environment and *keywords*, those of `PrometheusMiddleware`. A keyword wins.

        Raises SettingError, also for a keyword that has no effect on the middleware.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        known = [name for name, field in fields.items() if field.metadata["keyword"]]
        for name, value in keywords.items():
            if name in known:
                continue
            if name in fields:
                remedy = f"It belongs to the server or the exporter: set {PREFIX}{name.upper()} in the server's environment."
            else:
                near = _nearest(name, known)
                remedy = f"Did you mean {near}?" if near else f"The keywords are {', '.join(known)}."
            raise SettingError(f"{name}={value!r} is not a keyword of PrometheusMiddleware. {remedy}")
        settings = cls.read(**keywords)
        for name in _ACCESS:
            if keywords.get(name) is not None and settings.metrics_path is None:
                raise SettingError(
                    f"{name}={keywords[name]!r} has no effect in PrometheusMiddleware without metrics_path. Give "
                    f"metrics_path too, or set {PREFIX}{name.upper()} in the server's environment, for the exporter."
                )
        return settings

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None, **keywords: Any) -> Settings:
        """
        Read *environ*, by default this process's environment, and *keywords*, which win.

        Raises SettingError, which names the setting, its value and the valid values, also for an unknown keyword. Logs a
        warning for an unknown variable, once in a process and its children; below `wsgi-prom run`, that command alone does.
        """
        environ = os.environ if environ is None else environ
        if RUN not in environ:
            for message in unknown_variables(environ).values():
                warn_once(message)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        values = {
            name: _parse(field, PREFIX + name.upper(), environ[PREFIX + name.upper()])
            for name, field in fields.items()
            if environ.get(PREFIX + name.upper())
        }
        for name, value in keywords.items():
            if name not in fields:
                raise SettingError(
                    f"{name}={value!r} is not a setting of wsgi_prom. The settings are {', '.join(fields)}."
                )
            if value is not None:
                values[name] = _parse(fields[name], name, value)
        settings = cls(**values)
        settings.check_targets(settings.bind)
        return settings


def known_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of *environ* that are settings, unparsed."""
    return {variable: environ[variable] for variable in _variables() if variable in environ}


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """
    Return the variables of *environ* that have our prefix and are not settings, each with a message that suggests a setting.

    Leaves out the variables that Kubernetes sets for a Service. No message contains a value, which may be a secret.
    """
    known = _variables()
    unknown = [
        variable
        for variable, value in environ.items()
        if variable.startswith(PREFIX) and variable not in known and not _is_service_link(variable, value)
    ]
    return {variable: _suggestion(variable, known) for variable in unknown}


def _variables() -> list[str]:
    return [PREFIX + field.name.upper() for field in dataclasses.fields(Settings)]


def _is_service_link(variable: str, value: str) -> bool:
    name = variable.removeprefix(PREFIX)
    # The value decides: WSGI_PROM_PORT=9464 comes from a user who means WSGI_PROM_BIND.
    url = (name == "PORT" or name.endswith("_PORT")) and _SERVICE_URL.match(value)
    return bool(url or _SERVICE_LINK.fullmatch(name))


def _suggestion(variable: str, known: list[str]) -> str:
    # Without the common prefix, which makes any two names similar.
    names = [name.removeprefix(PREFIX) for name in known]
    near = _nearest(variable.removeprefix(PREFIX).upper(), names)
    meant = f"Did you mean {PREFIX}{near}?" if near else f"The settings are {', '.join(known)}."
    return f"{variable} is not a setting of wsgi_prom and is ignored. {meant}"


def _nearest(name: str, names: list[str]) -> str | None:
    import difflib  # noqa: PLC0415 - takes 1.5 ms, for a message only

    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def _parse(field: dataclasses.Field[Any], name: str, value: Any) -> Any:
    try:
        return field.metadata["parse"](value)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
        # A password in a URL is no value either, and reaches no log.
        shown = re.sub(r"//.*@", "//***@", value) if isinstance(value, str) else value
        raise SettingError(f"{name}={shown!r} is not {field.metadata['right']}.") from None
