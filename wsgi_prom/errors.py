"""The exceptions that wsgi_prom raises. Each message names the cause, the value and the remedy."""

from __future__ import annotations


class WsgiPromError(Exception):
    """Base class. Raised at the start of a server or by a command, never during a request."""


class SettingError(WsgiPromError, ValueError):
    """A setting has an invalid value, or its value cannot be used on this machine."""


class DirectoryError(WsgiPromError):
    """The shared directory cannot be used safely."""


class FormatError(WsgiPromError):
    """A file in the shared directory is damaged, or of another format version."""
