"""Unknown variables with our prefix: a server starts, and logs once which of them are not read."""

from __future__ import annotations

import re

import live
import pytest
import servers

# Of the Service wsgi-prom, of a mistake, and of a compose file that gives no value.
VARIABLES = {
    "WSGI_PROM_SERVICE_HOST": "10.0.0.9",
    "WSGI_PROM_SERVICE_PORT": "9464",
    "WSGI_PROM_PORT": "tcp://10.0.0.9:9464",
    "WSGI_PROM_PORT_9464_TCP_ADDR": "10.0.0.9",
    "WSGI_PROM_BUKETS": "1,2",
    "WSGI_PROM_PREFIX": "",
}


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_server_starts_and_warns_once(name: str) -> None:
    """The master warns of a misspelt variable; its workers, their middleware and the exporter do not repeat it."""
    with servers.start(name, workers=2, **VARIABLES) as server:
        live.drive(server.url, ["/"] * 10)
        assert {("/", "200"): 10} == servers.requests_counted(server.samples())
        told = re.findall(r"WSGI_PROM_\w+", server.log())
    assert ["WSGI_PROM_BUKETS", "WSGI_PROM_BUCKETS"] == told
