"""
Measure the coverage of an exporter, then import the real package.

`make coverage` alone puts this folder into PYTHONPATH: an exporter starts without `site`, which starts coverage elsewhere,
and gets few variables of its server's, a locale's among them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_path = list(sys.path)
sys.path.remove(str(Path(__file__).parent.parent))
del sys.modules["wsgi_prom"]
if "COVERAGE_PROCESS_CONFIG" not in os.environ:
    os.environ["COVERAGE_PROCESS_CONFIG"] = os.environ["LC_COVERAGE"]
    import coverage

    coverage.process_startup()
import wsgi_prom  # noqa: E402, F401 - the real one takes the place of this module

# An exporter that this process starts has the same path.
sys.path[:] = _path
