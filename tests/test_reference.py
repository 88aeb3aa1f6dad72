"""References to applications: a module, a callable, a factory's call, and what is no WSGI application."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import live
import pytest
import servers

from wsgi_prom.app_interface import takes_two
from wsgi_prom.app_reference import load
from wsgi_prom.errors import SettingError
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


class Wsgi:
    def __init__(self, *given: Any, **named: Any) -> None:
        self.given = given, named

    def __call__(self, environ: Any, start_response: Any) -> None: ...

    def method(self, environ: Any, start_response: Any = None) -> None: ...

    def one(self, scope: Any) -> None: ...

    def three(self, scope: Any, receive: Any, send: Any) -> None: ...

    def three_at_most(self, scope: Any, receive: Any, send: Any = None) -> None: ...


class Asgi:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


async def coroutine(environ: Any, start_response: Any) -> None: ...


@functools.wraps(Wsgi.__call__)
def anything(*args: Any) -> None: ...


class Proxy:
    """A proxy like Werkzeug's LocalProxy, which makes its application when any attribute but its class is looked up."""

    __call__ = property(lambda _: pytest.fail("the application was made"))

    def __getattr__(self, name: str) -> Any:
        pytest.fail(f"the application was made for its {name}")


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        *((app, True) for app in (Wsgi(), Wsgi().method, lambda environ, start_response: [])),
        *(
            (app, False)
            for app in (
                Asgi(),
                functools.partial(coroutine),
                Wsgi().one,
                Wsgi().three,
                coroutine,
                None,
                "app",
            )
        ),
        *((app, None) for app in (Wsgi, anything, Wsgi().three_at_most)),
    ],
)
def test_an_application_is_one_of_wsgi_by_its_arguments(app: object, expected: bool | None) -> None:
    """A WSGI application takes two arguments and is no coroutine; an object without a signature is accepted."""
    assert takes_two(app) is expected


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module `made` that has an application, factories and what is neither."""
    made = ModuleType("made")
    made.app, made.asgi, made.Wsgi, made.number = Wsgi(), Asgi(), Wsgi, 7
    made.application = Wsgi("application")
    made.create = lambda name="shop": Wsgi(name)
    made.nothing = lambda: None
    made.failing = lambda: int(None)
    made.factory = ModuleType("factory")
    made.factory.create = made.create
    monkeypatch.setitem(sys.modules, "made", made)
    return made


@pytest.mark.parametrize(
    ("reference", "given"),
    [
        ("made:app", ((), {})),
        ("made", (("application",), {})),
        ("made:create()", (("shop",), {})),
        ("made:create('x')", (("x",), {})),
        ("made:factory.create(name=('a', 1))", ((("a", 1),), {})),
        ("made:Wsgi(1, *(2, 3))", None),
        ("made:Wsgi(-1, [None], flag=True)", ((-1, [None]), {"flag": True})),
    ],
)
def test_an_application_or_a_factorys_call(reference: str, given: object, module: ModuleType) -> None:
    """A reference names an application, a factory's call with literals, or a module alone, as for gunicorn and uWSGI."""
    if given is None:
        with pytest.raises(SettingError, match="is not MODULE:CALLABLE"):
            Settings.read({"WSGI_PROM_APP": reference})
        return
    app = load(Settings.read({"WSGI_PROM_APP": reference}).app)
    assert given == app.given


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        (
            "made:create",
            "made:create'.*does not take environ and start_response.*name its call: made:create()",
        ),
        ("made:asgi", "made:asgi': is an ASGI application"),
        ("made:create(1, 2)", "takes from 0 to 1 positional arguments but 2 were given"),
        ("made:nothing()", "the result of nothing does not take environ and start_response"),
        ("made:number", "cannot be called"),
        ("made:number()", "cannot be called"),
        ("made:create(name)", "neither MODULE:CALLABLE nor"),
        ("made:create(**{})", "neither MODULE:CALLABLE nor"),
        ("made:create()()", "neither MODULE:CALLABLE nor"),
        ("made:create(", "neither MODULE:CALLABLE nor"),
    ],
)
def test_what_names_no_application_is_told(reference: str, told: str, module: ModuleType) -> None:
    """The error has the reference, what is wrong with it, and for a factory the call to write."""
    with pytest.raises(SettingError, match=told):
        load(reference)


def test_what_a_factory_raises_is_its_own(module: ModuleType) -> None:
    """An exception in a factory passes unchanged, even a TypeError."""
    with pytest.raises(TypeError, match=r"int\(\)"):
        load("made:failing()")


def test_a_factory_in_wsgi_prom_app_is_called_by_uwsgi() -> None:
    """The application that a factory in WSGI_PROM_APP returns is counted under uWSGI."""
    with live.uwsgi(app="twice:made()", workers=1) as server:
        live.drive(server.url, ["/"] * 5)
        assert {("/", "200"): 5} == servers.requests_counted(server.samples())
