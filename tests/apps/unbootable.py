"""An application that cannot be imported, and tells which directory its server shares."""

from __future__ import annotations

import os

print("shares", os.environ["PROMETHEUS_MULTIPROC_DIR"], flush=True)
raise RuntimeError("no application here")
