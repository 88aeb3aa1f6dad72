"""
Python imports this at its start where `wsgi-prom run` has put this folder first in PYTHONPATH: the process joins a server's.

1. The sitecustomize that this one hides runs first.
2. Nothing here keeps the program from running: a Python without wsgi_prom goes on without it.
3. Processes that run nothing of the program do not join: multiprocessing's resource tracker and fork server, and our own commands. The
   children of the fork server join when they are forked.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec


def _run_hidden() -> None:
    here = __file__.rpartition("/")[0]  # pathlib would be imported in every program
    spec = PathFinder.find_spec("sitecustomize", [path for path in sys.path if path != here])
    if spec is not None and spec.loader is not None:
        sys.modules["sitecustomize"] = module = module_from_spec(spec)
        spec.loader.exec_module(module)


def _join() -> None:
    # "PID ROLE", of `wsgi-prom run` itself, whose pid the program has that it executes.
    pid, _, role = os.environ.get("_WSGI_PROM_RUN", "").partition(" ")
    if not role:
        return
    try:
        from wsgi_prom.hooks.joined_process import join  # noqa: PLC0415 - some Pythons do not have it

        join(role)
    except ImportError as error:
        # Other Pythons that the program runs, such as the system's, are not meant.
        if pid == str(os.getpid()):
            sys.stderr.write(f"wsgi_prom: {sys.executable} has not joined: {error}\n")
    except Exception as error:
        sys.stderr.write(f"wsgi_prom: this process has not joined: {error}\n")


def _enter() -> None:
    words = sys.orig_argv[1:]
    if any(word.startswith("from multiprocessing.resource_tracker import main") for word in words):
        return
    if any(word.startswith("from multiprocessing.forkserver import main") for word in words):
        os.register_at_fork(after_in_child=_join)
        return
    if words[:2] != ["-m", "wsgi_prom"] and not any(word.endswith("/wsgi-prom") for word in words[:1]):
        _join()


try:
    _run_hidden()
finally:
    _enter()
