"""An application whose import takes some seconds."""

from __future__ import annotations

import time

from plain import app  # noqa: F401

time.sleep(3)
