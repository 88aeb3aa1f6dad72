"""`plain:app`, whose import removes the directory that the client library's multiprocess mode would use."""

from __future__ import annotations

import os
import shutil

from plain import app

__all__ = ("app",)

# The exporter may write there meanwhile.
while os.path.exists(os.environ["PROMETHEUS_MULTIPROC_DIR"]):  # noqa: PTH110
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
