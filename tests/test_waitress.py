"""What the exporter relies on in waitress beyond its documented interface: a new version is judged by this test."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import resource
import socket
import threading

import pytest
from waitress import buffers, channel, parser, server, task, utilities
from waitress.adjustments import Adjustments

from wsgi_prom.exporter.access import Access
from wsgi_prom.exporter.http.server import LIMITS, make_server
from wsgi_prom.settings import Settings

# Methods that we override or call, with their parameters. Each must be there and take these, by these names.
METHODS = [
    (channel.HTTPChannel, "__init__", "self, server, sock, addr, adj, map"),
    (channel.HTTPChannel, "readable", "self"),
    (channel.HTTPChannel, "writable", "self"),
    (channel.HTTPChannel, "handle_read", "self"),
    (channel.HTTPChannel, "handle_write", "self"),
    (channel.HTTPChannel, "handle_expt", "self"),
    (channel.HTTPChannel, "handle_close", "self"),
    (channel.HTTPChannel, "received", "self, data"),
    (channel.HTTPChannel, "send", "self, data, do_close"),
    (channel.HTTPChannel, "write_soon", "self, data"),
    (parser.HTTPRequestParser, "__init__", "self, adj"),
    (parser.HTTPRequestParser, "received", "self, data"),
    (parser.HTTPRequestParser, "parse_header", "self, header_plus"),
    (task.WSGITask, "get_environment", "self"),
    (server.BaseWSGIServer, "handle_accept", "self"),
    (server.BaseWSGIServer, "maintenance", "self, now"),
    (server.BaseWSGIServer, "run", "self"),
    (server.BaseWSGIServer, "close", "self"),
    (server.BaseWSGIServer, "del_channel", "self, map"),
    (task.ThreadedTaskDispatcher, "set_thread_count", "self, count"),
    (task.ThreadedTaskDispatcher, "shutdown", "self, cancel_pending, timeout"),
    (buffers.ReadOnlyFileBasedBuffer, "__init__", "self, file, block_size"),
    (utilities.BadRequest, "__init__", "self, body"),
    (server, "create_server", "application, map, _start, _sock, _dispatcher"),
]

# Attributes of the objects that a connection consists of.
SERVER = {"channel_class", "active_channels", "accepting", "task_dispatcher", "trigger", "socket", "_map"}
CHANNEL = {"parser_class", "task_class", "socket", "adj", "request", "requests", "total_outbufs_len", "sendbuf_len",
           "last_activity", "creation_time", "server"}  # fmt: skip
PARSER = {"body_rcv", "header_plus", "headers", "error", "completed", "expect_continue"}


@pytest.mark.parametrize(
    ("owner", "name", "parameters"), METHODS, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_method_takes_what_the_exporter_gives_it(owner: object, name: str, parameters: str) -> None:
    """A method that is overridden or called is there, and has these parameters."""
    method = getattr(owner, name, None)
    assert method is not None, f"waitress has no {owner.__name__}.{name}: see wsgi_prom/exporter/http"  # type: ignore[attr-defined]
    found = list(inspect.signature(method).parameters)
    assert parameters.split(", ") == found[: len(parameters.split(", "))]


def missing(thing: object, names: set[str]) -> list[str]:
    return sorted(name for name in names if not hasattr(thing, name))


def test_server_channel_and_parser_have_their_attributes() -> None:
    """The server that we make, a connection of it and its request have the attributes that our subclasses use."""
    with socket.socket() as listening, socket.socket() as client:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        made = make_server(lambda *_: [], listening.dup(), Access(Settings()))  # type: ignore[arg-type]
        client.connect(listening.getsockname())
        made.handle_accept()
        (connection,) = made.active_channels.values()
        request = parser.HTTPRequestParser(made.adj)
        assert [] == missing(made, SERVER)
        assert [] == missing(made.trigger, {"pull_trigger"})
        assert [] == missing(connection, CHANNEL)
        assert [] == missing(request, PARSER)
        connection.handle_close()
        assert None is connection.socket
        assert {} == dict(made.active_channels)
        made.task_dispatcher.shutdown()
        made.close()


def test_a_server_that_cannot_be_made_leaves_no_thread() -> None:
    """An error, here of a closed socket, is raised before any thread runs."""
    listening = socket.socket()
    listening.close()
    before = threading.active_count()
    with pytest.raises(OSError):
        make_server(lambda *_: [], listening, Access(Settings()))  # type: ignore[arg-type]
    assert before == threading.active_count()


@pytest.mark.parametrize("free", [0, 1, 2])
def test_a_server_that_gets_too_few_descriptors_keeps_none(free: int) -> None:
    """Waitress needs three for its trigger, and by itself would leave two of them open for ever if it gets two."""

    def used() -> list[str]:
        return os.listdir("/proc/self/fd")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as listening, contextlib.ExitStack() as others:
        listening.bind(("127.0.0.1", 0))
        access = Access(Settings())
        first = make_server(lambda *_: [], listening.dup(), access)  # type: ignore[arg-type]
        first.task_dispatcher.shutdown()
        first.close()
        kept = [others.enter_context(listening.dup()) for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, used())) + 1, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    others.enter_context(listening.dup())
            for spare in kept[:free]:
                spare.close()
            with pytest.raises(OSError, match="Too many open files"):
                make_server(lambda *_: [], listening, access)  # type: ignore[arg-type]
            left = 0
            with contextlib.suppress(OSError):
                while True:
                    others.enter_context(listening.dup())
                    left += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert free == left


def test_the_parser_calls_what_the_exporter_overrides() -> None:
    """The head of a request goes through parse_header in one piece; a ParsingError of it is an answer to the client."""

    heads = []

    class Refusing(parser.HTTPRequestParser):
        def parse_header(self, header_plus: bytes) -> None:
            heads.append(header_plus)
            raise parser.ParsingError("refused")

    request = Refusing(Adjustments())
    request.received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert [b"GET / HTTP/1.1\r\nHost: x"] == [head.strip() for head in heads]
    assert (True, utilities.BadRequest) == (request.completed, type(request.error))


def test_a_file_is_sent_from_where_it_is() -> None:
    """wsgi.file_wrapper makes a buffer that has the file, for which the channel looks."""
    file = io.BytesIO(b"page")
    assert file is buffers.ReadOnlyFileBasedBuffer(file).file


def test_the_options_are_known() -> None:
    """Each limit that the exporter sets is an option of waitress, and so is the scheme."""
    known = {name for name, _ in Adjustments._params}
    assert set() == {"sockets", "url_scheme", *LIMITS} - known


def test_activity_begins_with_the_connection() -> None:
    """A channel that has heard nothing yet shows equal times, by which a shutdown knows it."""
    ours, other = socket.socketpair()
    made = type("Server", (), {"active_channels": {}})()
    with ours, other:
        fresh = channel.HTTPChannel(made, ours, "", Adjustments(), map={})
        assert fresh.last_activity == fresh.creation_time
        for buffer in fresh.outbufs:
            buffer.close()
