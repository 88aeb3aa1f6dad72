"""The names of signals, as reasons for which workers end."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """Return the name of the signal *number*, such as `SIGKILL`."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a realtime signal: only the first and the last one have names
        return f"signal_{number}"
