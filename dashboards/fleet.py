"""The dashboard Fleet: many instances at once, by the recording rules of `wsgi-prom rules`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.panels import Query, columns, figure, graph, page

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

_JOB = 'job=~"$job"'
_USED = "instance:wsgi_worker_busy_seconds:rate5m{@} / instance:wsgi_worker_capacity:sum{@}"


def _most(title: str, about: str, expression: str, unit: str = "short") -> object:
    return graph(
        title,
        f"{about} The ten instances with the most.",
        Query(f"topk(10, {expression})", "{{job}} {{instance}}"),
        unit=unit,
    )


def build() -> Dashboard:
    return page(
        "wsgi-prom-fleet",
        "Fleet",
        "Many instances at once. It reads the recording rules that `wsgi-prom rules` writes: load them into Prometheus.",
        {
            "All": [
                figure(
                    "Instances",
                    "Exporters that answer.",
                    "count(up{@} == 1 and on (job, instance) wsgi_prom_build_info)",
                ),
                figure("Requests", "Per second.", "sum(instance:http_requests:rate5m{@})", unit="reqps"),
                figure(
                    "Errors",
                    "The share of responses with a status of 5xx.",
                    "sum(instance:http_requests_failed:rate5m{@}) / sum(instance:http_requests:rate5m{@})",
                    unit="percentunit",
                    limits=(0.001, 0.01),
                ),
                figure(
                    "Utilisation",
                    "The share of all workers, threads or greenlets that served requests.",
                    "sum(instance:wsgi_worker_busy_seconds:rate5m{@}) / sum(instance:wsgi_worker_capacity:sum{@})",
                    unit="percentunit",
                    limits=(0.7, 0.9),
                ),
                columns(
                    "Jobs",
                    "Over five minutes.",
                    {
                        "instances": "count by (job) (instance:wsgi_worker_capacity:sum{@})",
                        "requests": f"job:http_requests:rate5m{{{_JOB}}}",
                        "errors": f"job:http_requests_failed:ratio_rate5m{{{_JOB}}}",
                        "99 %": f"job:http_request_duration_seconds:p99_rate5m{{{_JOB}}}",
                        "utilisation": f"job:wsgi_worker_utilisation:ratio_rate5m{{{_JOB}}}",
                    },
                    units={
                        "requests": "reqps",
                        "errors": "percentunit",
                        "99 %": "s",
                        "utilisation": "percentunit",
                    },
                    sort="requests",
                ),
                columns(
                    "Versions",
                    "How many instances run which version of which application.",
                    {"instances": "count by (job, app, version) (wsgi_app_info{@})"},
                    width=12,
                ),
                columns(
                    "Versions of wsgi_prom",
                    "How many instances run which.",
                    {"instances": "count by (job, version) (wsgi_prom_build_info{@})"},
                    width=12,
                ),
            ],
            "Objectives": [
                graph(
                    "Error budget left",
                    "Of 30 days, as a mean over time. Below 0 the objective is missed.",
                    Query(f"job_slo:http_requests_error_budget:remaining30d{{{_JOB}}}", "{{job}}: {{slo}}"),
                    unit="percentunit",
                    least=None,
                    most=1,
                ),
                graph(
                    "Bad requests",
                    "The share in an hour, by objective.",
                    Query(f"job_slo:http_requests_bad:ratio_rate1h{{{_JOB}}}", "{{job}}: {{slo}}"),
                    unit="percentunit",
                ),
            ],
            "Instances": [
                _most("Utilisation", "The share of the workers in use.", _USED, "percentunit"),
                _most("Requests", "Per second.", "instance:http_requests:rate5m{@}", "reqps"),
                _most(
                    "Errors",
                    "Responses with a status of 5xx, per second.",
                    "instance:http_requests_failed:rate5m{@}",
                    "reqps",
                ),
                _most(
                    "99 % are faster than",
                    "Duration.",
                    "instance:http_request_duration_seconds:p99_rate5m{@}",
                    "s",
                ),
                _most(
                    "Connections that wait",
                    "The mean of five minutes.",
                    "instance:wsgi_listen_queue_seconds:rate5m{@}",
                ),
                _most("Connections dropped", "In five minutes.", "instance:wsgi_listen_drops:increase5m{@}"),
                _most("Workers killed", "In an hour.", "instance:wsgi_worker_kills:increase1h{@}"),
                _most(
                    "Memory",
                    "Of all processes.",
                    "instance:process_proportional_memory_bytes:sum{@}",
                    "bytes",
                ),
            ],
        },
    )
