"""
Which application a worker serves, of which version, on which Python and framework: told by each worker for itself.

1. During a reload workers of two versions serve, and both are shown; the figure of a worker ends with it.
2. The exporter does not import the application, and the distribution on disk may be newer than what the worker has imported.
3. A value that is not known is an empty label, which to Prometheus is none.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
from contextlib import suppress
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from prometheus_client import Gauge

from wsgi_prom import metrics
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from importlib.metadata import Distribution

log = logging.getLogger("wsgi_prom")

# Each is a distribution too.
_FRAMEWORKS: Final = ("flask", "django", "pyramid", "falcon", "bottle")

_application = ""


def name(application: str) -> None:
    """Say which application this process's workers serve, as its server names it, such as `myapp:app`."""
    global _application
    _application = application


def tell() -> None:
    """
    Show the application of this worker, which has loaded it, as long as the worker lives. Once in each worker. Never raises.
    """
    try:
        labels = ("app", "version", "python", "framework")
        gauge = Gauge(*metrics.APP_INFO, labels, multiprocess_mode="livemax", registry=None)
        version = Settings.read().app_version or version_of(_application.partition(":")[0])
        gauge.labels(_application, version, platform.python_version(), _framework()).set(1)
    except Exception as error:
        log.warning("no %s (%s: %s)", metrics.APP_INFO[0], type(error).__name__, error)


def version_of(module: str) -> str:
    """Return the version of the installed distribution that the imported *module* is of, an empty text if there is none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return ""
    path, projects = Path(file), {}
    for distribution in _distributions(module.partition(".")[0]):
        # First by the folder: to read the lists of files of 70 distributions would be 1 MB.
        root = Path(str(distribution.locate_file("")))
        if path.is_relative_to(root) and _holds(distribution, path.relative_to(root)):
            return distribution.version
        project = _project(distribution)
        if project is not None and path.resolve().is_relative_to(project):
            projects[len(project.parts)] = distribution.version
    # Where one project lies within another, the innermost.
    return projects[max(projects)] if projects else ""


def _distributions(likely: str) -> Iterator[Distribution]:
    """
    Yield the distributions that are installed, first the one called *likely*: each of the others takes a look at its files.
    """
    first: Iterable[Distribution] = ()
    with suppress(metadata.PackageNotFoundError):
        first = (metadata.distribution(likely),)
    yield from chain(first, metadata.distributions())


def _holds(distribution: Distribution, file: Path) -> bool:
    """Return whether *file*, relative to the folder of *distribution*, is one of its files."""
    record = distribution.read_text("RECORD")
    if record is None:  # Debian removes it
        return file.parts[0].removesuffix(".py") in (distribution.read_text("top_level.txt") or "").split()
    return f"\n{file.as_posix()}," in f"\n{record}"


def _project(distribution: Distribution) -> Path | None:
    """Return the folder that *distribution* was installed from if it is used from there (pip install -e), None if it is not."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlsplit(origin["url"]).path))


def _framework() -> str:
    """Return the framework that is imported with its version, such as `flask/3.1.3`; an empty text for none, or for several."""
    imported = [framework for framework in _FRAMEWORKS if framework in sys.modules]
    if len(imported) != 1:
        return ""
    try:
        # As programs are named in HTTP's headers (RFC 9110, 10.2.4).
        return f"{imported[0]}/{metadata.version(imported[0])}"
    except metadata.PackageNotFoundError:
        return imported[0]
