"""Commands of `wsgi-prom` that only print or write files, called in this process: to start another takes longer than they do."""

from __future__ import annotations

import io
import subprocess
from contextlib import redirect_stderr, redirect_stdout

import pytest

from wsgi_prom.cli import main


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command of *words* with the settings of *environ*, and return its exit status and what it prints."""
    printed, told = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(told):
        for name, value in environ.items():
            patch.setenv(name, value)
        status = main(words)
        printed.flush()
    return subprocess.CompletedProcess(words, status, printed.buffer.getvalue().decode(), told.getvalue())  # type: ignore[attr-defined]
