"""The errors that a user of wsgi_prom can meet: each message names what is wrong, the value, and the remedy."""

from __future__ import annotations


class WsgiPromError(Exception):
    """Anything that this package refuses to do. Raised at start or by a command, never into a request."""


class SettingError(WsgiPromError, ValueError):
    """A setting has a value that cannot be used."""


class DirectoryError(WsgiPromError):
    """The shared directory cannot be used, or must not be touched."""


class FormatError(WsgiPromError):
    """A file of a slot does not hold what this package writes."""
