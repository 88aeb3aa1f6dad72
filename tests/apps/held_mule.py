"""A mule of uWSGI that uses the metric of `held`, which the master has imported."""

from __future__ import annotations

import time

import held

held.BEATS.labels("mule").inc()
time.sleep(3600)
