"""WebOb, also where warnings are errors: its 1.8 imports cgi, which Python 3.11 and 3.12 deprecate."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from webob import Request, Response
    from webob.acceptparse import create_accept_encoding_header, create_accept_header

__all__ = ("Request", "Response", "create_accept_encoding_header", "create_accept_header")
