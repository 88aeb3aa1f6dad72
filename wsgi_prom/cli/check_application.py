"""
Findings of `wsgi-prom check` about the application: whether it is one, whether it is measured, and whether its routes are seen.

The application is imported. Flask behind unknown middleware gets a request that ends before Flask calls any of the
application's functions. gunicorn.conf.py is read and not executed.
"""

from __future__ import annotations

import ast
import os
import sys
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

from wsgi_prom import metrics
from wsgi_prom.app_interface import may_be_factory
from wsgi_prom.app_reference import load
from wsgi_prom.cli.output import Finding
from wsgi_prom.client import patch
from wsgi_prom.errors import WsgiPromError
from wsgi_prom.frameworks import detection
from wsgi_prom.merge.names import page_name
from wsgi_prom.request import nesting
from wsgi_prom.request.flask_wrappers import reaches_flask_unchanged
from wsgi_prom.request.routes import REQUEST
from wsgi_prom.request.row_schemas import Schemas
from wsgi_prom.store import directory, environment
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_prom.settings import Settings


def findings(reference: str | None, setting: str, settings: Settings | None) -> Iterator[Finding]:
    """
    Check the application that *reference* names; *setting* is what messages call the reference.

    Without *settings*, the names of its metrics are not checked.
    """
    if reference is None:
        remedy = "run wsgi-prom check MODULE:APP, or set WSGI_PROM_APP"
        yield Finding("application", None, "no application is named", remedy)
        yield from _hook()
        return
    try:
        with _imports_as_in_a_server():
            app = load(reference, setting)
    except WsgiPromError as error:
        yield Finding("application", False, str(error))
    except (Exception, SystemExit) as error:
        message = f"{reference} raises {type(error).__name__} at its import: {error}"
        yield Finding("application", False, message)
    else:
        yield _application(reference, app)
        yield from _hook()
        yield from _routes(app)
        if settings is not None:
            yield from _names(settings)


@contextmanager
def _imports_as_in_a_server() -> Iterator[None]:
    """Let an application be imported as a server does it, and leave no file behind."""
    # The application's metrics stay in this process's memory, whatever PROMETHEUS_MULTIPROC_DIR names.
    current_slot.defer()
    patch.install()
    # A server has made the directory by now. prometheus-flask-exporter needs it at its import.
    named = os.environ.get(environment.VARIABLE)
    if not named or not Path(named).is_dir():
        os.environ[environment.VARIABLE] = str(directory.name_temporary().parent)
    folder = str(Path.cwd())
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, folder)
    try:
        with redirect_stdout(sys.stderr):  # stdout is for the findings
            yield
    finally:
        sys.path.remove(folder)
        sys.dont_write_bytecode = before


def _application(reference: str, app: Any) -> Finding:
    if may_be_factory(app):
        # A class is certainly wrong: its call returns no response.
        ok = False if issubclass(type(app), type) else None
        message = f"{reference} looks like a factory, which is called once and returns the application"
        return Finding("application", ok, message, f"if it is a factory, name its call: {reference}()")
    names = dict.fromkeys(framework.name for framework, _ in detection.applications(app))
    kind = " and ".join(names) or f"no known framework ({type(app).__name__})"
    return Finding("application", True, f"{reference}, {kind}")


def _hook() -> Iterator[Finding]:
    """Look for the hook in gunicorn.conf.py, unless the application, which was imported before, wraps itself."""
    if "wsgi_prom.middleware" in sys.modules:
        return
    try:
        code = ast.unparse(ast.parse(Path("gunicorn.conf.py").read_bytes()))  # without comments
    except FileNotFoundError:
        yield Finding(
            "hook",
            None,
            "this directory has no gunicorn.conf.py that loads it: requests are counted only if the server's command loads it",
            "start gunicorn with -c python:wsgi_prom.hooks.gunicorn; uWSGI needs shared-import = "
            "wsgi_prom.hooks.uwsgi and module = wsgi_prom.wsgi:application",
        )
    except (OSError, SyntaxError, ValueError):  # gunicorn reports it at its start
        return
    else:
        if "wsgi_prom.hooks" not in code:
            yield Finding(
                "hook",
                None,
                "gunicorn.conf.py does not load it: requests are counted only if the application is wrapped by hand",
                "add to gunicorn.conf.py: from wsgi_prom.hooks.gunicorn import *",
            )


def _routes(app: Any) -> Iterator[Finding]:
    found = list(detection.applications(app))
    for framework, item in found:
        yield _flask(app, item) if framework.name == "Flask" else _adapter(framework, item)
    if not found:
        # A function may hide the application of any framework that is imported.
        remedies = [f"if it is {framework.name}'s, {framework.remedy}" for framework in detection.unadapted()]
        message = "only those that the application gives to wsgi_prom.set_route(environ, template) are seen"
        yield Finding("routes", None, message, "; ".join(remedies))


def _names(settings: Settings) -> Iterator[Finding]:
    """Look for metrics of the application, which was imported, that have the names of those of requests."""
    # A keyword of the application's own middleware wins, and the hook's measures nothing beside it.
    measuring = nesting.all_explicit() or [settings]
    schemas = [schema for each in measuring for schema in Schemas(each).all]
    names = {page_name(metric.name, metric.type) for schema in schemas for metric in schema.metrics}
    if taken := sorted(names & patch.names_in_registry()):
        yield Finding("metrics", False, metrics.TAKEN.format(", ".join(taken)), metrics.TAKEN_REMEDY)


def _flask(app: Any, flask_app: Any) -> Finding:
    seen = _is_measured(app, flask_app)
    if seen:
        return Finding("routes", True, "Flask's are seen without an adapter")
    if seen is None:
        message = "Flask's are seen if middleware hands on its environ; the check's GET / did not reach Flask"
        return Finding("routes", None, message)
    message = "all are 'unmatched': a middleware around Flask calls it with an environ of its own making"
    remedy = "app.wsgi_app = PrometheusMiddleware(app.wsgi_app), before that middleware is added"
    return Finding("routes", False, message, remedy)


def _adapter(framework: detection.Framework, item: Any) -> Finding:
    name = framework.name
    if framework.adapted is None:
        return Finding("routes", True, f"{name}'s are seen without an adapter")
    try:
        adapted = framework.adapted(item)
    except Exception as error:  # an untested version of the framework may have other attributes
        message = f"the check cannot tell whether {name} has its adapter: {type(error).__name__}: {error}"
        return Finding("routes", None, message, framework.remedy)
    if adapted:
        return Finding("routes", True, f"{name}'s are seen by its adapter")
    message = f"all are 'unmatched': {name} needs an adapter, which tells the route of a request"
    return Finding("routes", False, message, framework.remedy)


class _ReachedError(BaseException):
    """Ends a request in Flask's first signal. Not an Exception: no error handler takes it."""


def _is_measured(app: Any, flask_app: Any) -> bool | None:
    """
    Tell whether a request to *app* reaches *flask_app* with the environ that is measured; None if it does not reach it.

    Sends no request if all middleware around Flask is known to hand on its environ. Otherwise middleware, and any other
    application that answers /, is called as for any request. Flask opens the session, matches the path, and calls only the
    functions that it has for a request's end.
    """
    flask = sys.modules["flask"]
    if reaches_flask_unchanged(app, flask.Flask):
        return True
    found: list[bool] = []

    def reached(_sender: Any, **_: Any) -> None:
        found.append(flask.request.environ.get(REQUEST) is not None)
        raise _ReachedError

    environ: dict[str, Any] = {"PATH_INFO": "/", "SCRIPT_NAME": ""}
    setup_testing_defaults(environ)
    environ[REQUEST] = SimpleNamespace(
        original_path="/", environ=environ, note_exception=lambda _exception: None
    )
    flask.request_started.connect(reached, sender=flask_app, weak=False)
    try:
        # An error of the middleware's is not what is checked.
        with suppress(_ReachedError, Exception), redirect_stdout(sys.stderr):
            app(environ, lambda *_: lambda _data: None)
    finally:
        flask.request_started.disconnect(reached, sender=flask_app)
    return found[0] if found else None
