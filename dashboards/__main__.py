"""
Write the data of wsgi_prom/dashboards/: `make dashboards`. With --check, name what is out of date and exit with 1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from wsgi_prom.dashboards import objectives, rules
from wsgi_prom.settings import Settings

DATA: Final = Path(rules.__file__).parent


def main(*options: str) -> int:
    """Write the files that are out of date; with --check, name them and return 1."""
    texts = {"rules.yaml": rules.text(objectives.read(objectives.DEFAULTS, Settings().buckets))}
    stale = [DATA / name for name, text in texts.items() if (DATA / name).read_text() != text]
    for path in stale:
        if "--check" in options:
            sys.stderr.write(f"{path} is out of date: run make dashboards\n")
        else:
            path.write_text(texts[path.name])
    return int("--check" in options and bool(stale))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
