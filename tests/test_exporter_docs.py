"""What docs/exporter.md tells to do works as it is written, and SECURITY.md says what is so."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import exporters
import live
import pytest

if TYPE_CHECKING:
    from pathlib import Path

TEXT = (live.ROOT / "docs" / "exporter.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def run(block: str, folder: Path) -> str:
    """Run the lines of a console block, and return what they print."""
    script = "\n".join(line.removeprefix("$ ") for line in block.splitlines())
    command = ["sh", "-euc", script]
    return subprocess.run(command, cwd=folder, check=True, timeout=60, capture_output=True, text=True).stdout


def exported(block: str, folder: Path) -> dict[str, str]:
    found = dict(re.findall(r"export (\w+)=(\S+)", block))
    return {name: value.replace("$PWD", str(folder)) for name, value in found.items()}


def test_there_is_no_block_that_no_test_runs() -> None:
    """From another machine: commands, file, settings, Prometheus. Then client certificates, a token, and nginx."""
    found = [language for language, _ in BLOCKS]
    assert ["console", "yaml", "sh", "yaml", "yaml", "console", "sh", "nginx"] == found


def made(folder: Path) -> str:
    """Run the commands of the first recipe but pip, with a password for htpasswd, and return the user's line."""
    commands = "\n".join(line for line in blocks("console")[0].splitlines() if " pip " not in line)
    commands = commands.replace("htpasswd -n", "printf secret | tee password | htpasswd -in")
    return run(commands, folder).strip().replace(":", ": ")


def test_scrape_from_another_machine(tmp_path: Path) -> None:
    """The files, the settings and the configuration of Prometheus fit: the target is up, without the password it is not."""
    line = made(tmp_path)
    config = re.sub(r"prometheus: \S+", line, blocks("yaml")[0])
    (tmp_path / "web.yml").write_text(config)
    assert config.count(line) == 1
    env = exported(blocks("sh")[0], tmp_path)
    bind = env.pop("WSGI_PROM_BIND")
    exporters.fill(tmp_path / "shared", 5)
    with (
        exporters.serve(tmp_path / "shared", bind.replace(":9464", ":0"), **env) as server,
        live.hold_port() as held,
    ):
        told = r"0\.0\.0\.0 is open to every network .* protected by basic_auth_users$"
        assert re.search(told, server.log(), re.MULTILINE)
        target = f"127.0.0.1:{exporters.address(server)[1]}"
        # Not the minute that it is by default.
        config = "global: {scrape_interval: 1s}\n" + blocks("yaml")[1].replace("127.0.0.1:9464", target)
        (tmp_path / "prometheus.yml").write_text(config)
        subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], check=True, timeout=60)
        address = f"127.0.0.1:{held.getsockname()[1]}"
        command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--web.listen-address={address}",
                   f"--storage.tsdb.path={tmp_path / 'data'}"]  # fmt: skip
        with live.LiveServer(
            command, ready=(r"ready to receive web requests", 1), url=f"http://{address}"
        ) as prometheus:

            def total() -> float:
                answer = prometheus.get("/api/v1/query?query=sum(filled_total)").body
                result = json.loads(answer)["data"]["result"]
                return float(result[0]["value"][1]) if result else 0.0

            assert live.eventually(total, lambda found: found == 5) == 5
        context = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(f"https://{target}/metrics", context=context, timeout=60)
        refused.value.close()


def test_client_certificates(tmp_path: Path) -> None:
    """The file of the recipe keeps clients out that have no certificate."""
    made(tmp_path)
    shutil.copy(tmp_path / "cert.pem", tmp_path / "clients.pem")
    (tmp_path / "web.yml").write_text(blocks("yaml")[2])
    env = exported(blocks("sh")[0], tmp_path)
    with exporters.serve(tmp_path / "shared", WSGI_PROM_WEB_CONFIG=env["WSGI_PROM_WEB_CONFIG"]) as server:
        url = "https://{}:{}/metrics".format(*exporters.address(server))
        context = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        with pytest.raises(OSError):
            urllib.request.urlopen(url, context=context, timeout=60)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        with urllib.request.urlopen(url, context=context, timeout=60) as answer:
            assert 200 == answer.status


def test_a_token(tmp_path: Path) -> None:
    """The file that the command makes holds a token that the exporter takes."""
    run(blocks("console")[1], tmp_path)
    with exporters.serve(tmp_path / "shared", WSGI_PROM_TOKEN_FILE=str(tmp_path / "token")) as server:
        token = (tmp_path / "token").read_text().strip()
        page = live.request(server.metrics_url, headers={"Authorization": f"Bearer {token}"})
        assert (200, 401) == (page.status, live.request(server.metrics_url).status)


def test_nginx_in_front(tmp_path: Path) -> None:
    """nginx, as another user of the socket's group would, hands the page on from the unix socket."""
    env = exported(blocks("sh")[1], tmp_path)
    path = tmp_path / "metrics.sock"
    bind = env.pop("WSGI_PROM_BIND").replace("/run/app/metrics.sock", str(path))
    location = blocks("nginx")[0].replace("/run/app/metrics.sock", str(path))
    exporters.fill(tmp_path / "shared", 5)
    with exporters.serve(tmp_path / "shared", bind, **env), live.hold_port() as held:
        assert "660" == oct(path.stat().st_mode)[-3:]
        port = held.getsockname()[1]
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr notice; events {{}}\n"
            f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; {location} }} }}\n"
        )
        command = ["nginx", "-p", tmp_path, "-c", tmp_path / "nginx.conf"]
        env_path = {"PATH": f"{os.environ['PATH']}{os.pathsep}/usr/sbin"}
        with live.LiveServer(
            command,
            env=env_path,
            ready=(r"start worker|using the .* event method", 1),
            url=f"http://127.0.0.1:{port}",
        ) as nginx:
            page = live.eventually(lambda: answer(nginx), bool)
    assert b"filled_total" in page


def answer(nginx: live.LiveServer) -> bytes:
    try:
        return nginx.get("/metrics").body
    except OSError:
        return b""


@pytest.mark.parametrize("name", ["docs/exporter.md", "docs/settings.md", "SECURITY.md"])
def test_links_lead_somewhere(name: str) -> None:
    """Files and tests that the documents name exist."""
    path = live.ROOT / name
    text = path.read_text()
    links = [path.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    links += [live.ROOT / test for test in re.findall(r"`(tests/\w+\.py)`", text)]
    assert [] == [link for link in links if not link.exists()]


def test_the_documents_figures_are_the_modules() -> None:
    """The limits that the documentation names are those that are in force."""
    from wsgi_prom.exporter.http import channel, server
    from wsgi_prom.server import source

    last = TEXT.split("## What it withstands")[1].replace(",", "")
    named = [float(figure) for figure in re.findall(r"(\d+) (?:connections|seconds|KB)", last)]
    assert [
        server.CONNECTIONS,
        channel.SECONDS["request"],
        server.LIMITS["max_request_header_size"] / 1024,
        channel.SECONDS["answer"],
        source.LONGEST,
    ] == named
