"""The environment of a program: the caller's, without settings that would change the program's behaviour."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT: Final = Path(__file__).resolve().parent.parent
# The executables of the environment that runs this, whether or not it is activated.
BIN: Final = Path(sys.executable).parent

# Settings of the package, of both servers, and of Flask, whose debug mode passes exceptions on to the server.
_FOREIGN: Final = re.compile(r"prometheus_multiproc_dir$|(_?WSGI_PROM|UWSGI|GUNICORN|FLASK)_", re.IGNORECASE)


def environment(
    env: Mapping[str, str | None], *, module_folders: Iterable[Path], runtime: Path
) -> dict[str, str]:
    """
    Return the environment of a program: this process's, less the settings above, then *env*, where None removes.

    *module_folders* and the checkout come first in PYTHONPATH.
    """
    inherited = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
    path = [*map(str, module_folders), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # `make coverage`: for exporters, see tests/measured.
    measuring = os.environ.get("COVERAGE_PROCESS_CONFIG")
    if measuring:
        path.insert(0, str(ROOT / "tests" / "measured"))
    ours: dict[str, str | None] = {
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        # Servers that run as root or www-data leave no byte code of theirs in the checkout.
        "PYTHONDONTWRITEBYTECODE": "1",
        # gunicorn creates its control socket there; in the home directory all servers would share one.
        "XDG_RUNTIME_DIR": str(runtime),
        "WSGI_PROM_BIND": "127.0.0.1:0",
    }
    merged = {**inherited, **ours, "LC_COVERAGE": measuring, **env}
    return {name: value for name, value in merged.items() if value is not None}
