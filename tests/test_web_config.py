"""WSGI_PROM_WEB_CONFIG: the web configuration that Prometheus' exporters share, as exporter-toolkit documents it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import exporters
import live
import pytest
from prometheus_client import CollectorRegistry
from webob import Request

from wsgi_prom import MetricsApp
from wsgi_prom.errors import SettingError
from wsgi_prom.exporter.app import ExporterApp
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from webob import Response

# The hash of exporter-toolkit's documentation, and those of "right" as htpasswd, Python and PHP write them.
DOCUMENTED = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"


def config(folder: Path, text: str) -> Path:
    path = folder / "web.yml"
    path.write_text(text)
    return path


def exporter(path: Path) -> ExporterApp:
    settings = Settings.read({}, web_config=str(path))
    return ExporterApp(MetricsApp(registry=CollectorRegistry(), settings=settings))


def ask(app: object, name: str = "", password: str = "", path: str = "/metrics") -> Response:
    request = Request.blank(path)
    if name:
        request.headers["Authorization"] = "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
    return request.get_response(app)


def htpasswd(name: str, password: str, cost: int = 4) -> str:
    """Return the line of a user as htpasswd makes it, for a web configuration."""
    command = ["htpasswd", "-inBC", str(cost), name]
    done = subprocess.run(command, input=password, capture_output=True, text=True, check=True, timeout=60)
    return "  " + done.stdout.strip().replace(":", ": ") + "\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3", "-subj", "/CN=x", "-addext",
               "subjectAltName=IP:127.0.0.1", "-keyout", "server.key", "-out", "server.crt"]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture
def folder(certificate: Path, tmp_path: Path) -> Path:
    """A folder with server.crt and server.key."""
    shutil.copytree(certificate, tmp_path / "folder")
    return tmp_path / "folder"


@pytest.mark.parametrize("kind", ["2a", "2b", "2x", "2y"])
def test_hashes_of_each_kind(kind: str, tmp_path: Path) -> None:
    """A hash lets its password in, whichever program made it."""
    line = htpasswd("ann", "right").replace("$2y$", f"${kind}$")
    app = exporter(config(tmp_path, f"basic_auth_users:\n{line}"))
    assert [200, 401, 401] == [ask(app, "ann", word).status_code for word in ("right", "wrong", "")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty. Unset the variable if no rule is wanted."),
        ("# nothing", "the file is empty"),
        ("hWkNKCp3fvIx3jKnsaBI\nTuEjdwNS8A2vYdFbiKqr\n", "a mapping of keys to values is expected here"),
        ("a: b: c", "line 1 is not YAML: mapping values are not allowed here"),
        ("a: \x00", "the file is not YAML"),
        ("tls_config: {}", "tls_config is not a known key. There are tls_server_config, http_server_config, "),
        ("basic_auth_users: {}\nbasic_auth_users: {}", "line 2: a key that is repeated"),
        ("basic_auth_users:\n  john: pa55word", "basic_auth_users: the value of john is not a bcrypt hash. Make a line with: htpasswd"),
        ("basic_auth_users:\n  john:", "basic_auth_users: the value of john is not a bcrypt hash"),
        ("basic_auth_users:\n  john: {x: y}", "basic_auth_users: the value of john is not a bcrypt hash"),
        ("basic_auth_users:\n  john: [x]", "basic_auth_users: the value of john is not a bcrypt hash"),
        (f"basic_auth_users:\n  john: {DOCUMENTED[:-1]}", "basic_auth_users: the value of john is not a bcrypt hash"),
        (f"basic_auth_users:\n  john: {DOCUMENTED.replace('10', '32', 1)}", "the value of john is not a bcrypt hash"),
        ("basic_auth_users: [ann]", "basic_auth_users: a mapping of users to bcrypt hashes is expected here"),
        ("http_server_config: {headers: {Content-Type: x}}", "http_server_config: headers: Content-Type is not a known key"),
        ("http_server_config: {headers: {X-Frame-Options: x}}", "headers: X-Frame-Options is not deny or sameorigin"),
        ('http_server_config: {headers: {X-XSS-Protection: "a\\nb"}}', "X-XSS-Protection is not printable ASCII"),
        ("http_server_config: {http2: maybe}", "http_server_config: http2: neither true nor false"),
        ("rate_limit: {interval: 1 hour, burst: 1}", "rate_limit: interval: not a duration, such as 500ms, 1s or 1m30s"),
        ("tls_server_config: {cert_file: server.crt}", "tls_server_config: key_file is missing. Name a file in PEM"),
        ("tls_server_config: {key_file: server.key}", "tls_server_config: cert_file is missing. Name a file in PEM"),
        ("tls_server_config: {min_version: TLS13}", "tls_server_config: cert_file is missing"),
        ("TLS, cert_file: none", ": cert_file='{folder}/none' cannot be read: No such file or directory. Name a file"),
        ("TLS, key_file: other", "tls_server_config: the certificate and the key cannot be used: "),
        ("TLS, client_auth_type: x", "client_auth_type is not one of NoClientCert, "),
        ("TLS, client_auth_type: RequireAnyClientCert", "RequireAnyClientCert takes any certificate unseen, which Python cannot do"),
        ("TLS, client_ca_file: server.crt", "client_ca needs client_auth_type: RequireAndVerifyClientCert"),
        ("TLS, client_ca_file: web.yml, client_auth_type: RequireAndVerifyClientCert", "client_ca cannot be used: "),
        ("TLS, client_allowed_sans: [x]", "client_allowed_sans needs client_auth_type: RequireAndVerifyClientCert"),
        ("TLS, client_allowed_sans: x", "client_allowed_sans: a list is expected here"),
        ("TLS, min_version: TLS14", "TLS14 is not a version of TLS. There are TLS10, TLS11, TLS12, TLS13"),
        ("TLS, max_version: TLS11", "max_version is below min_version or TLS12"),
        ("TLS, min_version: TLS13, max_version: TLS12", "max_version is below min_version"),
        ("TLS, cipher_suites: [TLS_RSA_WITH_A]", "cipher_suites: OpenSSL does not know TLS_RSA_WITH_A. Remove it"),
        ("TLS, cipher_suites: [ALL]", "cipher_suites: OpenSSL does not know ALL"),
        ("TLS, curve_preferences: [X25519]", "curve_preferences: wsgi_prom does not support it: Python cannot set"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_an_error_at_start(text: str, told: str, folder: Path) -> None:
    """One line names the setting, the file, the key and the remedy; it shows no value that may be a secret."""
    (folder / "other").write_text("no key")
    if text.startswith("TLS, "):
        given = {"cert_file": "server.crt", "key_file": "server.key"}
        more = {key: value for key, value in given.items() if key not in text}
        text = (
            f"tls_server_config: {{{text[5:]}{''.join(f', {key}: {value}' for key, value in more.items())}}}"
        )
    path = config(folder, text)
    with pytest.raises(SettingError) as caught:
        exporter(path)
    message = str(caught.value)
    assert message.startswith(f"WSGI_PROM_WEB_CONFIG={str(path)!r}: ")
    assert told.format(folder=folder) in message
    assert "\n" not in message
    assert "pa55word" not in message


@pytest.mark.parametrize(
    "text",
    [
        "tls_server_config:\nbasic_auth_users:\nrate_limit: ~",
        "http_server_config: {http2: true}",
        "http_server_config: {http2: false, headers: {Strict-Transport-Security: max-age=1}}",
        "rate_limit: {interval: 0, burst: 3}",
        "TLS, min_version: TLS10, max_version: TLS13",
        "TLS, client_auth_type: VerifyClientCertIfGiven",
        "TLS, client_auth_type: RequestClientCert, client_ca_file: server.crt",
        "TLS, client_auth_type: NoClientCert, prefer_server_cipher_suites: false",
        "TLS, cipher_suites: [TLS_AES_128_GCM_SHA256]",
        "TLS, cipher_suites: [TLS_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256]",
        "TLS, cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]",
    ],
)
def test_a_file_that_can_be_used(text: str, folder: Path) -> None:
    """What exporter-toolkit takes starts an exporter here too."""
    text = text.replace("TLS, ", "tls_server_config: {cert_file: server.crt, key_file: server.key, ")
    assert 200 == ask(exporter(config(folder, text + ("}" if "{cert_file" in text else "")))).status_code


def test_certificates_inside_the_file(folder: Path) -> None:
    """cert and key may stand in the file itself."""
    lines = {key: (folder / f"server.{end}").read_text().replace("\n", "\n    ") for key, end in (("cert", "crt"), ("key", "key"))}  # fmt: skip
    text = "tls_server_config:\n" + "".join(f"  {key}: |\n    {pem}\n" for key, pem in lines.items())
    assert 200 == ask(exporter(config(folder, text))).status_code


def test_headers_are_those_of_every_response(tmp_path: Path) -> None:
    """The headers of the file are on the page, on errors and on healthy."""
    app = exporter(config(tmp_path, "http_server_config: {headers: {X-Frame-Options: deny}}"))
    found = [
        ask(app, path=path).headers.get("X-Frame-Options") for path in ("/metrics", "/none", "/-/healthy")
    ]
    assert ["deny"] * 3 == found


def test_the_page_for_people_keeps_its_own_policy(tmp_path: Path) -> None:
    """A Content-Security-Policy of the file is on other responses: on the page it would stop its script, or allow more."""
    text = "http_server_config: {headers: {Content-Security-Policy: default-src *}}"
    app = exporter(config(tmp_path, text))
    page, metrics = (
        ask(app, path=path).headers.getall("Content-Security-Policy") for path in ("/", "/metrics")
    )
    assert (1, "default-src 'none'", ["default-src *"]) == (len(page), page[0].split(";")[0], metrics)


def test_more_requests_than_the_limit_are_refused(tmp_path: Path) -> None:
    """A burst is answered, the next is told to come again; healthy has no limit."""
    app = exporter(config(tmp_path, "rate_limit: {interval: 1h, burst: 2}"))
    assert [200, 200, 429] == [ask(app).status_code for _ in range(3)]
    assert 200 == ask(app, path="/-/healthy").status_code
    assert 429 == ask(exporter(config(tmp_path, "rate_limit: {interval: 1s}"))).status_code


def test_a_mounted_page_has_the_users_of_the_file_alone(tmp_path: Path) -> None:
    """For a MetricsApp in an application the users count; the limit and the headers are the exporter's."""
    text = "rate_limit: {interval: 1h}\nhttp_server_config: {headers: {X-Frame-Options: deny}}\nbasic_auth_users:\n"
    path = config(tmp_path, text + htpasswd("ann", "right"))
    app = MetricsApp(registry=CollectorRegistry(), settings=Settings.read({}, web_config=str(path)))
    assert [401, 200] == [ask(app, "ann", word).status_code for word in ("wrong", "right")]
    assert "X-Frame-Options" not in ask(app, "ann", "right").headers


def test_a_changed_file_takes_effect_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The next request sees a changed file. If the file became wrong, the exporter keeps the former one and logs that once."""
    path = config(tmp_path, "basic_auth_users:\n" + htpasswd("ann", "right"))
    app = exporter(path)

    def codes() -> list[int]:
        return [ask(app, *user).status_code for user in (("ann", "right"), ("bob", "other"), ("", ""))]

    assert [200, 401, 401] == codes()
    config(tmp_path, "basic_auth_users:\n" + htpasswd("bob", "other"))
    assert [401, 200, 401] == codes()
    for wrong in ("", "basic_auth_users: {ann: x}"):
        config(tmp_path, wrong)
        assert [401, 200, 401] * 2 == codes() + codes()
    path.unlink()
    assert [401, 200, 401] == codes()
    config(tmp_path, "basic_auth_users:\n" + htpasswd("ann", "right"))
    assert [200, 401, 401] == codes()
    assert ["the file is empty", "not a bcrypt hash", "cannot be read"] == [
        next(part for part in ("the file is empty", "not a bcrypt hash", "cannot be read") if part in line)
        for line in caplog.messages
    ]


@pytest.mark.parametrize("package", ["yaml", "bcrypt"])
def test_check_names_a_missing_extra(package: str, tmp_path: Path) -> None:
    """Without a package of the extra, one finding says what to install."""
    found = check(config(tmp_path, "http_server_config: {}"), f"import sys; sys.modules[{package!r}] = None")
    message = f"needs {package}, which is not installed. Run pip install 'wsgi-prom[web]'"
    assert [(False, f"WSGI_PROM_WEB_CONFIG='{tmp_path}/web.yml' {message}")] == found


def test_check_tells_what_is_wrong_with_a_file(folder: Path) -> None:
    """A good file is one finding, and so is a wrong one, with its remedy."""
    good = "tls_server_config: {cert_file: server.crt, key_file: server.key}"
    assert [(True, "this user can use the files of WSGI_PROM_WEB_CONFIG")] == check(config(folder, good))
    (folder / "server.key").unlink()
    ((ok, message),) = check(config(folder, good))
    assert not ok
    assert (
        f": key_file='{folder}/server.key' cannot be read: No such file or directory. Name a file that"
        in message
    )


def check(path: Path, before: str = "") -> list[tuple[bool, str]]:
    """Return what `wsgi-prom check` finds about the access to the metrics."""
    program = f"{before}\nfrom wsgi_prom.cli import main\nmain(['check', '--json'])"
    env = {**os.environ, "WSGI_PROM_WEB_CONFIG": str(path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, check=True, timeout=60
    )
    findings = json.loads(done.stdout)["findings"]
    return [(finding["ok"], finding["message"]) for finding in findings if finding["subject"] == "access"]


def test_node_exporter_and_wsgi_prom_share_a_file(folder: Path) -> None:
    """The very same file, made as exporter-toolkit documents it, gives the same answers on both."""
    text = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  min_version: TLS12\n"
    text += "http_server_config:\n  http2: true\n  headers:\n    X-Frame-Options: deny\n"
    path = config(folder, f"{text}basic_auth_users:\n{htpasswd('alice', 'right', 10)}  bob: {DOCUMENTED}\n")
    with live.hold_port() as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        command = ["prometheus-node-exporter", f"--web.config.file={path}", f"--web.listen-address={address}",
                   "--collector.disable-defaults"]  # fmt: skip
        with (
            live.LiveServer(command, ready=(r"TLS is enabled", 1)),
            exporters.serve(folder / "shared", WSGI_PROM_WEB_CONFIG=str(path)) as ours,
        ):
            targets = (address, "{}:{}".format(*exporters.address(ours)))
            answers = [[fetch(target, folder, *user) for user in USERS] for target in targets]
    assert [(200, "deny"), (401, "deny"), (401, "deny"), (401, "deny")] == answers[0]
    assert answers[0] == answers[1]


USERS = [("alice", "right"), ("alice", "wrong"), ("bob", "right"), ("", "")]


def fetch(target: str, folder: Path, name: str, password: str) -> tuple[int, str]:
    context = ssl.create_default_context(cafile=folder / "server.crt")
    given = base64.b64encode(f"{name}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {given}"} if name else {}
    request = urllib.request.Request(f"https://{target}/metrics", headers=headers)
    try:
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            return answer.status, answer.headers["X-Frame-Options"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["X-Frame-Options"]
