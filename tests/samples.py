"""The samples of a page, by name and labels."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Samples = dict[tuple[str, Labels], float]


def parse_samples(text: str) -> Samples:
    """
    Return the samples of an exposition by name and labels; a series that is there twice is an error.
    """
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            # Prometheus 2.42 takes the last of duplicates and says nothing.
            if key in found:
                raise ValueError(f"{sample.name}{sample.labels}: more than once in one scrape")
            found[key] = sample.value
    return found


def labelled(samples: Samples, name: str) -> dict[Labels, float]:
    """
    Return the samples called *name*, by their labels, less those that tell at 0 what may happen to a route.
    """
    return {
        labels: value
        for (found, labels), value in samples.items()
        if found == name and (value or not may_happen(name))
    }


def may_happen(name: str) -> bool:
    """Tell whether a page shows *name* at 0 for each route, so that Prometheus sees the first one."""
    return name.endswith(("http_requests_total", "http_requests_aborted_total"))
