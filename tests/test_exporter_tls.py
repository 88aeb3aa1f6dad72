"""TLS and client certificates: handshakes that never end, certificates that change, and a real Prometheus through it."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import exporters
import live
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsgi_prom.exporter.http import certificate

if TYPE_CHECKING:
    from pathlib import Path

SERIES = 12000


class Pair(NamedTuple):
    cert: Path
    key: Path


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


def authority(folder: Path, name: str) -> Pair:
    """Make a certificate that signs itself, and others."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", pair.key,
            "-out", pair.cert, "-days", 30, "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")  # fmt: skip
    pair.key.chmod(0o600)
    return pair


def signed(folder: Path, name: str, by: Pair, san: str = "", *, days: int = 30) -> Pair:
    """Make a certificate that *by* has signed, with the names *san*; it ends in so many days."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", pair.key, "-out",
            folder / f"{name}.csr", "-subj", f"/CN={name}", *(("-addext", f"subjectAltName={san}") if san else ()))  # fmt: skip
    openssl("x509", "-req", "-in", folder / f"{name}.csr", "-CA", by.cert, "-CAkey", by.key, "-CAcreateserial", "-out",
            pair.cert, "-days", days, "-copy_extensions", "copy")  # fmt: skip
    return pair


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def own(files: Path) -> Pair:
    return authority(files, "exporter")


@pytest.fixture(scope="module")
def clients(files: Path) -> Pair:
    return authority(files, "clients")


@pytest.fixture(scope="module")
def directory(files: Path) -> Path:
    exporters.fill(files / "shared", SERIES)
    return files / "shared"


def tls(own: Pair, more: str = "", name: str = "web.yml") -> str:
    """Return the path of a web configuration with *own*, by relative names, and *more* lines of its section."""
    path = own.cert.with_name(name)
    path.write_text(f"tls_server_config:\n  cert_file: {own.cert.name}\n  key_file: {own.key.name}\n{more}")
    return str(path)


def get(url: str, trusted: Pair, certificate: Pair | None = None, **headers: str) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=trusted.cert)
    if certificate is not None:
        context.load_cert_chain(*certificate)
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), context=context, timeout=60
        ) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def url(server: live.LiveServer) -> str:
    return server.wait_for_log(exporters.LISTENING)[1]


def test_a_large_page_through_tls(directory: Path, own: Pair) -> None:
    """A page of 1 MB arrives whole, to several clients at once; who does not speak TLS is not answered."""
    with exporters.serve(directory, WSGI_PROM_WEB_CONFIG=tls(own)) as server:
        assert url(server).startswith("https://127.0.0.1:")
        with ThreadPoolExecutor(8) as pool:
            pages = list(pool.map(lambda _: get(url(server), own), range(24)))
        assert {200} == {status for status, _ in pages}
        assert {SERIES} == {page.count(b"\nfilled_total{") for _, page in pages}
        assert b"" == exporters.raw(server, exporters.GET)
        assert [] == exporters.complaints(server)


def test_silent_handshakes_keep_nobody_waiting(directory: Path, own: Pair) -> None:
    """500 clients who connect and say nothing, half of a handshake or nonsense: a scrape is answered among them."""
    with exporters.serve(directory, WSGI_PROM_WEB_CONFIG=tls(own)) as server:
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        with (
            exporters.crowd(server, 200),
            exporters.crowd(server, 200, hello),
            exporters.crowd(server, 100, b"x" * 99),
        ):
            assert 200 == get(url(server), own)[0]
        with exporters.connect(server) as slow:
            assert exporters.until_closed(slow) == b""  # after the time for a request's head
        assert [] == exporters.complaints(server)


def test_readers_who_do_not_read_tls(directory: Path, own: Pair) -> None:
    """300 clients ask for 1 MB and stop reading: 20 KB of memory for OpenSSL's sake each, not a page."""
    with exporters.serve(directory, WSGI_PROM_WEB_CONFIG=tls(own)) as server:
        get(url(server), own)
        before = exporters.memory(server)
        context = ssl.create_default_context(cafile=own.cert)
        with contextlib.ExitStack() as stack:
            readers = [
                stack.enter_context(
                    context.wrap_socket(exporters.connect(server, window=4096), server_hostname="127.0.0.1")
                )
                for _ in range(300)
            ]
            for reader in readers:
                reader.sendall(exporters.GET)
            assert 200 == get(url(server), own)[0]
            assert exporters.memory(server) - before < 100 * 1024 * 1024
            rest = b""
            while len(rest) < 1024 * 1024 and (part := readers[0].recv(65536)):
                rest += part
            assert len(rest) >= 1024 * 1024
        assert [] == exporters.complaints(server)


def test_requests_one_after_the_other(directory: Path, own: Pair) -> None:
    """A connection is kept, and requests in pieces or in large records are understood."""
    context = ssl.create_default_context(cafile=own.cert)
    with exporters.serve(directory, WSGI_PROM_WEB_CONFIG=tls(own)) as server:
        with context.wrap_socket(exporters.connect(server), server_hostname="127.0.0.1") as client:
            for filler in (0, 10, 9000, 16000):
                request = b"GET /-/healthy HTTP/1.1\r\nX-Filler: " + b"x" * filler + b"\r\n\r\n"
                client.sendall(request[:30])
                client.sendall(request[30:])
                answer = b""
                while not answer.endswith(b"healthy\n"):
                    answer += client.recv(4096)
                assert answer.startswith(b"HTTP/1.1 200")


def test_client_certificates(directory: Path, own: Pair, clients: Pair, files: Path) -> None:
    """Only who shows a certificate of the clients' authority is let in; no TLS before 1.2 is spoken."""
    good, stranger = signed(files, "good", clients), authority(files, "stranger")
    more = f"  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {clients.cert.name}\n"
    with exporters.serve(directory, WSGI_PROM_WEB_CONFIG=tls(own, more, "clients.yml")) as server:
        assert 200 == get(url(server), own, good)[0]
        for certificate in (None, stranger):
            with pytest.raises(OSError, match=r"alert|EOF|reset|Broken|Remote|closed"):
                get(url(server), own, certificate)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with exporters.connect(server) as plain, pytest.raises(OSError):
            old.wrap_socket(plain)
        assert 200 == get(url(server), own, good)[0]
        assert [] == exporters.complaints(server)


def test_a_certificate_is_replaced_while_it_runs(directory: Path, own: Pair, tmp_path: Path) -> None:
    """The next connection gets the new certificate. If it cannot be used, the exporter keeps the former one."""
    used = Pair(tmp_path / "cert", tmp_path / "key")
    for path, copy in zip(own, used, strict=True):
        shutil.copy(path, copy)
    other = authority(tmp_path, "other")
    with exporters.serve(directory, WSGI_PROM_WEB_CONFIG=tls(used)) as server:
        assert 200 == get(url(server), own)[0]
        shutil.copy(other.cert, used.cert)  # and not yet its key
        assert 200 == get(url(server), own)[0]
        assert "Until then, wsgi_prom uses the last good version." in server.log()
        shutil.copy(other.key, used.key)
        assert 200 == get(url(server), other)[0]
        with pytest.raises(OSError, match="certificate verify failed"):
            get(url(server), own)


def end_of(cert: Path) -> float:
    """Return when the certificate expires, as openssl tells."""
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate", "-in", cert], capture_output=True, text=True, check=True
    )
    return ssl.cert_time_to_seconds(shown.stdout.strip().removeprefix("notAfter="))


def expiry_shown(server: live.LiveServer, trusted: Pair) -> list[float]:
    samples = live.parse_samples(get(url(server), trusted)[1].decode())
    return list(live.labelled(samples, "wsgi_prom_certificate_expiry_timestamp_seconds").values())


def test_the_expiry_is_that_of_the_certificate_that_is_served(
    own: Pair, clients: Pair, tmp_path: Path
) -> None:
    """Of the first one in the file; of the next one from when it is served, which it is not before its key is there."""
    used = Pair(tmp_path / "cert", tmp_path / "key")
    other = signed(tmp_path, "other", clients, "IP:127.0.0.1", days=400)
    shutil.copy(own.key, used.key)
    used.cert.write_text("A comment.\n" + own.cert.read_text() + other.cert.read_text())
    exporters.fill(tmp_path / "shared", 1)
    with exporters.serve(tmp_path / "shared", WSGI_PROM_WEB_CONFIG=tls(used)) as server:
        assert [end_of(own.cert)] == expiry_shown(server, own)
        shutil.copy(other.cert, used.cert)
        assert [end_of(own.cert)] == expiry_shown(server, own)
        shutil.copy(other.key, used.key)
        assert [end_of(other.cert)] == expiry_shown(server, clients)
    assert end_of(own.cert) != end_of(other.cert)


@pytest.mark.parametrize("days", [1, 8000, 20000, 2000000])
def test_certificates_that_outlive_us(clients: Pair, tmp_path: Path, days: int) -> None:
    """Before and after 2050, when the form of the time changes; of version 1, since they have no names."""
    made = signed(tmp_path, "made", clients, days=days)
    assert end_of(made.cert) == certificate.expiry(made.cert.read_bytes())


@settings(max_examples=200)
@given(place=st.integers(0, 600), value=st.integers(0, 255))
def test_no_damage_of_a_certificate_raises(own: Pair, place: int, value: int) -> None:
    """A byte that differs anywhere gives another time or none."""
    der = bytearray(ssl.PEM_cert_to_DER_cert(own.cert.read_text()))
    der[place % len(der)] = value
    for end in (len(der), place):
        found = certificate.expiry(ssl.DER_cert_to_PEM_cert(bytes(der[:end])).encode())
        assert found is None or isinstance(found, float)


def test_clients_of_some_names(directory: Path, own: Pair, clients: Pair, files: Path) -> None:
    """With client_allowed_sans, a client's certificate must have one of the names too."""
    named, unnamed = (
        signed(files, name, clients, san) for name, san in (("a", "DNS:prom,IP:::1"), ("b", "DNS:other"))
    )
    more = (
        "  client_auth_type: VerifyClientCertIfGiven\n"
        f"  client_ca_file: {clients.cert.name}\n  client_allowed_sans: [prometheus, '::1']\n"
    )
    with exporters.serve(directory, WSGI_PROM_WEB_CONFIG=tls(own, more, "sans.yml")) as server:
        assert 200 == get(url(server), own, named)[0]
        for certificate in (None, unnamed, signed(files, "c", clients)):
            with pytest.raises(OSError, match=r"alert|EOF|reset|Broken|Remote|closed"):
                get(url(server), own, certificate)
        assert [] == exporters.complaints(server)


def test_versions_and_ciphers(directory: Path, own: Pair, files: Path) -> None:
    """The suites and versions of the file are spoken, and no others."""
    more = "  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n"
    with exporters.serve(directory, WSGI_PROM_WEB_CONFIG=tls(own, more, "ciphers.yml")) as server:
        context = ssl.create_default_context(cafile=own.cert)
        with context.wrap_socket(exporters.connect(server), server_hostname="127.0.0.1") as client:
            assert ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLSv1.2") == client.cipher()[:2]  # type: ignore[index]
        context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
        with exporters.connect(server) as plain, pytest.raises(ssl.SSLError, match="handshake failure"):
            context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_prometheus_through_tls_with_a_certificate_and_a_password(
    own: Pair, clients: Pair, files: Path, tmp_path: Path
) -> None:
    """A real Prometheus, configured as the documentation has it, has the target up and the figures."""
    good = signed(files, "prometheus", clients)
    htpasswd = ["htpasswd", "-inBC", "10", "prom"]
    line = subprocess.run(
        htpasswd, input="right", capture_output=True, text=True, check=True, timeout=60
    ).stdout
    more = (
        f"  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {clients.cert.name}\n"
        f"basic_auth_users:\n  {line.strip().replace(':', ': ')}\n"
    )
    (tmp_path / "password").write_text("right")
    exporters.fill(tmp_path / "shared", 5)
    env = {"WSGI_PROM_WEB_CONFIG": tls(own, more, "prometheus.yml"), "WSGI_PROM_ALLOW": "127.0.0.0/8"}
    with exporters.serve(tmp_path / "shared", **env) as server, live.hold_port() as held:
        assert 401 == get(url(server), own, good)[0]
        job = {
            "job_name": "app",
            "scheme": "https",
            "tls_config": {"ca_file": str(own.cert), "cert_file": str(good.cert), "key_file": str(good.key)},
            "basic_auth": {"username": "prom", "password_file": str(tmp_path / "password")},
            "static_configs": [{"targets": ["{}:{}".format(*exporters.address(server))]}],
        }
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))
        subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], check=True, timeout=60)
        address = f"127.0.0.1:{held.getsockname()[1]}"
        command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--web.listen-address={address}",
                   f"--storage.tsdb.path={tmp_path / 'data'}"]  # fmt: skip
        with live.LiveServer(
            command, ready=(r"ready to receive web requests", 1), url=f"http://{address}"
        ) as prometheus:

            def total() -> float:
                result = json.loads(prometheus.get("/api/v1/query?query=sum(filled_total)").body)["data"][
                    "result"
                ]
                return float(result[0]["value"][1]) if result else 0.0

            assert live.eventually(total, lambda found: found == 5) == 5
        right = {"Authorization": "Basic " + base64.b64encode(b"prom:right").decode()}
        assert 200 == get(url(server), own, good, **right)[0]
        assert [] == exporters.complaints(server)
