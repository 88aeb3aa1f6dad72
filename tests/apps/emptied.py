"""`plain:app`, whose import removes the directory that the client library's multiprocess mode would use."""

from __future__ import annotations

import os
import shutil

from plain import app

__all__ = ("app",)

shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"])
