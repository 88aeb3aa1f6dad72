"""A real etcd for tests: one member or several, which can be stopped, started again, and robbed of their data."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import live

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

# 3.4 logs both to the same place.
READY = r"ready to serve client requests"


class Member:
    """A member of an etcd, not yet started."""

    def __init__(
        self, folder: Path, name: str, client: int, peer: int, *options: str, scheme: str = "http"
    ) -> None:
        self.name = name
        self.address = f"127.0.0.1:{client}"
        self.peer = f"http://127.0.0.1:{peer}"
        self.data = folder / name
        self._scheme = scheme
        self._options = options
        self.server: live.LiveServer | None = None

    def start(self, cluster: str) -> None:
        url = f"{self._scheme}://{self.address}"
        command = ["etcd", "--name", self.name, "--data-dir", str(self.data), "--listen-client-urls", url,
                   "--advertise-client-urls", url, "--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer,
                   "--initial-cluster", cluster, "--heartbeat-interval", "50", "--election-timeout", "250", "--unsafe-no-fsync",
                   *self._options]  # fmt: skip
        self.server = live.LiveServer(command, env={"ETCD_UNSUPPORTED_ARCH": "arm64"})
        self.server.__enter__()

    def stop(self, number: int = 15) -> None:
        if self.server is not None:
            self.server.kill(number)
            self.server.__exit__(None, None, None)
            self.server = None


class Etcd:
    """An etcd of *members*, which are started and stopped together or one by one."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self.cluster = ",".join(f"{member.name}={member.peer}" for member in members)

    @property
    def addresses(self) -> str:
        return ",".join(member.address for member in self.members)

    def url(self, prefix: str) -> str:
        return f"etcd://{self.addresses}/{prefix}"

    def start(self) -> None:
        for member in self.members:
            member.start(self.cluster)
        for member in self.members:
            assert member.server is not None
            member.server.wait_for_log(READY)

    def stop(self, *, forget: bool = False) -> None:
        """End all members; with *forget* they start without their data."""
        for member in self.members:
            member.stop(9)
            if forget:
                shutil.rmtree(member.data, ignore_errors=True)

    def post(self, path: str, **content: Any) -> dict[str, Any]:
        """Ask the first member that runs, as etcd's gateway is asked."""
        member = next(member for member in self.members if member.server is not None)
        answer = live.request(
            f"http://{member.address}/v3/{path}", method="POST", body=json.dumps(content).encode()
        )
        assert 200 == answer.status, answer.body
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def targets(self, prefix: str) -> list[dict[str, Any]]:
        """Return the values below /*prefix*/, in the order of their keys."""
        found = self.post("kv/range", key=coded(f"/{prefix}/"), range_end=coded(f"/{prefix}0"))
        return [json.loads(base64.b64decode(item["value"])) for item in found.get("kvs", [])]

    def put(self, key: str, value: str) -> None:
        self.post("kv/put", key=coded(key), value=coded(value))


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@contextlib.contextmanager
def etcd(folder: Path, members: int = 1, *options: str, scheme: str = "http") -> Iterator[Etcd]:
    """Run an etcd that keeps its data in *folder*."""
    with contextlib.ExitStack() as stack:
        held: list[socket.socket] = [stack.enter_context(live.hold_port()) for _ in range(2 * members)]
        ports = [holder.getsockname()[1] for holder in held]
        found = Etcd([
            Member(folder, f"m{n}", ports[2 * n], ports[2 * n + 1], *options, scheme=scheme) for n in range(members)
        ])  # fmt: skip
        stack.callback(found.stop)
        found.start()
        yield found


def certificates(folder: Path) -> dict[str, Path]:
    """Make an authority, a certificate for 127.0.0.1 that it has signed, and their keys."""
    found = {name: folder / f"{name}.pem" for name in ("ca", "cakey", "cert", "key")}
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority",
         "-keyout", found["cakey"], "-out", found["ca"]], check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=etcd", "-CA", found["ca"],
         "-CAkey", found["cakey"], "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE",
         "-keyout", found["key"], "-out", found["cert"]], check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    found["key"].chmod(0o600)
    return found
