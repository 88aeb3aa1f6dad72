"""The dashboard Application: rate, errors and duration by route, sizes, and exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.panels import Query, chosen, columns, figure, graph, heat_map, page

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

_ROUTES = '@, route=~"$route"'
_RATE = f"rate(http_requests_total{{{_ROUTES}}}[$__rate_interval])"
_FAILED = f'rate(http_requests_total{{{_ROUTES}, status=~"5.."}}[$__rate_interval])'
_BUCKETS = f"rate(http_request_duration_seconds_bucket{{{_ROUTES}}}[$__rate_interval])"


def _mean(metric: str, by: str = "route") -> str:
    total, number = (f"rate({metric}_{suffix}{{{_ROUTES}}}[$__rate_interval])" for suffix in ("sum", "count"))
    return f"sum by ({by}) ({total}) / sum by ({by}) ({number})"


def build() -> Dashboard:
    return page(
        "wsgi-prom-application",
        "Application",
        "How many requests there are, how many fail, and how long they take, by route.",
        {
            "Rate, errors, duration": [
                figure("Requests", "All requests per second.", f"sum({_RATE})", unit="reqps"),
                figure(
                    "Errors",
                    "The share of responses with a status of 5xx.",
                    f"sum({_FAILED}) / sum({_RATE})",
                    unit="percentunit",
                    limits=(0.001, 0.01),
                ),
                figure(
                    "99 % of requests are faster than",
                    "Between the bounds of the histogram, Prometheus guesses.",
                    f"histogram_quantile(0.99, sum by (le) ({_BUCKETS}))",
                    unit="s",
                ),
                figure("In progress", "Requests that are served now.", "sum(http_requests_in_progress{@})"),
                graph(
                    "Requests by route",
                    "Per second. Paths without a route are `unmatched`.",
                    Query(f"sum by (route) ({_RATE})", "{{route}}"),
                    unit="reqps",
                    stacked=True,
                ),
                graph(
                    "Requests by status",
                    "Per second. `101` is a session of a WebSocket.",
                    Query(f"sum by (status) ({_RATE})", "{{status}}"),
                    unit="reqps",
                    stacked=True,
                ),
                graph(
                    "Errors by route",
                    "The share of each route's responses with a status of 5xx, from the first error on.",
                    Query(f"sum by (route) ({_FAILED}) / sum by (route) ({_RATE})", "{{route}}"),
                    unit="percentunit",
                ),
                graph(
                    "99 % are faster than, by route",
                    "To the last byte of the response.",
                    Query(f"histogram_quantile(0.99, sum by (le, route) ({_BUCKETS}))", "{{route}}"),
                    unit="s",
                ),
                graph(
                    "Duration",
                    "Half, nine in ten, and 99 in a hundred of all requests are faster; and the mean.",
                    *(
                        Query(f"histogram_quantile({share}, sum by (le) ({_BUCKETS}))", name)
                        for share, name in ((0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"))
                    ),
                    Query(
                        f"sum(rate(http_request_duration_seconds_sum{{{_ROUTES}}}[$__rate_interval])) "
                        f"/ sum(rate(http_request_duration_seconds_count{{{_ROUTES}}}[$__rate_interval]))",
                        "mean",
                    ),
                    unit="s",
                ),
                heat_map(
                    "Duration",
                    "How many requests took how long. Two bands are two kinds of requests.",
                    f"sum by (le) (increase(http_request_duration_seconds_bucket{{{_ROUTES}}}[$__rate_interval]))",
                ),
                columns(
                    "Routes",
                    "In the time shown.",
                    {
                        "requests": f"sum by (method, route) (increase(http_requests_total{{{_ROUTES}}}[$__range]))",
                        "errors": f'sum by (method, route) (increase(http_requests_total{{{_ROUTES}, status=~"5.."}}[$__range]))',
                        "99 %": f"histogram_quantile(0.99, sum by (le, method, route) (rate(http_request_duration_seconds_bucket{{{_ROUTES}}}[$__range])))",
                        "time spent": f"sum by (method, route) (increase(http_request_duration_seconds_sum{{{_ROUTES}}}[$__range]))",
                    },
                    units={"99 %": "s", "time spent": "s"},
                    sort="time spent",
                ),
            ],
            "Exceptions and aborted responses": [
                columns(
                    "Exceptions",
                    "That the application let through, or that its framework answered as an error, in the time shown. Prometheus does not see the "
                    "first of a kind.",
                    {
                        "number": f"sum by (exception, method, route) (increase(http_request_exceptions_total{{{_ROUTES}}}[$__range]))"
                    },
                    sort="number",
                    width=12,
                ),
                graph(
                    "Aborted responses",
                    "Closed before their end, by a client most often.",
                    Query(
                        f"sum by (route) (increase(http_requests_aborted_total{{{_ROUTES}}}[$__rate_interval]))",
                        "{{route}}",
                    ),
                    bars=True,
                ),
            ],
            "Before and around a request": [
                graph(
                    "In progress",
                    "Requests that are served now.",
                    Query("sum by (instance) (http_requests_in_progress{@})", "{{instance}}"),
                ),
                graph(
                    "Time in the proxy's queue",
                    "From X-Request-Start or X-Queue-Start to the application. Absent without such a header.",
                    *(
                        Query(
                            f"histogram_quantile({share}, sum by (le) (rate(http_request_queue_seconds_bucket{{@}}[$__rate_interval])))",
                            name,
                        )
                        for share, name in ((0.5, "50 %"), (0.99, "99 %"))
                    ),
                    unit="s",
                ),
            ],
            "Sizes": [
                graph(
                    "Mean size of a response",
                    "Bytes of the body that were sent.",
                    Query(_mean("http_response_size_bytes"), "{{route}}"),
                    unit="bytes",
                    width=8,
                ),
                graph(
                    "Mean size of a request",
                    "Bytes of the body that the application read.",
                    Query(_mean("http_request_size_bytes"), "{{route}}"),
                    unit="bytes",
                    width=8,
                ),
                graph(
                    "Bytes",
                    "Bodies per second, in both directions.",
                    Query(f"sum(rate(http_response_size_bytes_sum{{{_ROUTES}}}[$__rate_interval]))", "sent"),
                    Query(f"sum(rate(http_request_size_bytes_sum{{{_ROUTES}}}[$__rate_interval]))", "read"),
                    unit="Bps",
                    width=8,
                ),
            ],
        },
        # Without a route it is empty, under OpenTelemetry's names.
        chosen("route", "Route", "label_values(http_requests_total{@}, route)", everything=".*"),
    )
