"""
Pods of Kubernetes on a machine without it: the containers of a manifest, as far as a kernel makes them.

1. Command, environment, working directory, user, volumes and privileges are read from the manifest. Only the image is a given one:
   this machine's programs, the checkout, and files that a test puts where the image has the application.
2. As in a pod, containers share a network and volumes, and have pids, mounts and /dev/shm of their own. Nothing of it is seen by
   other processes of the machine, and it ends with them.
3. Containers share the kernel's resources without limits: memory and CPU are not the manifest's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Self

import live
import yaml
from documents import network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

# Makes volumes below the folder $1, NAME=SIZE each up to --, and goes on as the rest: a pod's "pause" container.
_VOLUMES: Final = """
folder=$1; shift
while [ "$1" != -- ]; do
    mkdir "$folder/${1%%=*}"
    mount -t tmpfs -o "mode=0777,size=${1#*=}" volume "$folder/${1%%=*}"
    shift
done
shift
exec "$@"
"""

# A root of the machine's own folders, read-only, with others in their places: pairs of SOURCE and PATH, up to --.
_CONTAINER: Final = """
root=$1; shift
mount -t tmpfs -o mode=0755 root "$root"
for folder in /*; do
    case $folder in
    /app | /run | /tmp | /proc | /dev) mkdir "$root$folder" ;;
    *) if [ -L "$folder" ]; then cp -P "$folder" "$root$folder"
       elif [ -d "$folder" ]; then mkdir "$root$folder"; mount --rbind "$folder" "$root$folder"; fi ;;
    esac
done
mkdir -p "$root/app"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777,size=64m shm "$root/dev/shm"
for mounted in $(cut -d' ' -f2 /proc/self/mounts | grep "^$root" | grep -v "^$root/dev" | grep -v "^$root/proc"); do
    [ "$mounted" = "$root" ] || mount -o remount,bind,ro "$mounted" 2>/dev/null || :
done
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    shift 2
done
shift
mount -o remount,ro "$root"
exec chroot "$root" "$@"
"""


class Pod:
    """
    The pod of the Deployment in *manifest*, whose image has *files*: a folder of this machine by its path there.

    Its containers are started by `start`, in a `with` block, and called as a kubelet or a node would: `get`, `run`.
    """

    def __init__(self, manifest: Path, folder: Path, files: Mapping[str, Path]) -> None:
        (document,) = [item for item in documents(manifest) if item["kind"] == "Deployment"]
        template = document["spec"]["template"]
        self.metadata: dict[str, Any] = template["metadata"]
        self.spec: dict[str, Any] = template["spec"]
        self.containers: dict[str, dict[str, Any]] = {
            item["name"]: item for item in [*self.spec.get("initContainers", []), *self.spec["containers"]]
        }
        self._folder = folder
        self._files = files
        self._stack = contextlib.ExitStack()
        # The process that keeps the pod's network and volumes.
        self._pause = 0
        self.running: dict[str, live.LiveServer] = {}

    def __enter__(self) -> Self:
        sizes = [
            f"{volume['name']}={volume['emptyDir'].get('sizeLimit', '64Mi').removesuffix('i')}"
            for volume in self.spec["volumes"]
        ]
        script = ["unshare", "--mount", "sh", "-euc", _VOLUMES, "sh", str(self._folder), *sizes, "--"]
        self._pause = self._stack.enter_context(network(*script))
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed([*self.running]):
            self.end(name)
        self._stack.close()

    def start(self, name: str, ready: str) -> live.LiveServer:
        """Start the container *name*, or start it again, and wait until its log says *ready*."""
        server = live.LiveServer(
            self._command(self.containers[name]),
            env=self._environment(self.containers[name]),
            ready=(ready, 1),
        )
        self.running[name] = server.__enter__()
        return server

    def end(self, name: str, number: int = signal.SIGTERM) -> int:
        """Send a signal to the container's first process as a kubelet does, and return the status that it ends with."""
        server = self.running.pop(name)
        try:
            server.signal_child(self.first_process(server), number)
            return server.wait()
        finally:
            server.__exit__(None, None, None)

    def first_process(self, server: live.LiveServer) -> int:
        """Return the pid, as this machine has it, of what is process 1 of a container."""
        (found,) = server.children()
        return found

    def run(self, function: Callable[..., live.T], *arguments: object) -> live.T:
        """Call *function* in a thread that is in the pod's network."""
        with ThreadPoolExecutor(1, initializer=self.enter) as pool:
            return pool.submit(function, *arguments).result()

    def enter(self) -> None:
        """Move this thread into the pod's network, for good."""
        fd = os.open(f"/proc/{self._pause}/ns/net", os.O_RDONLY)
        try:
            # os.setns is Python 3.12's.
            library = ctypes.CDLL(None, use_errno=True)
            if library.setns(fd, 0x40000000) != 0:  # CLONE_NEWNET
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)

    def port(self, name: str) -> int:
        """Return the container port called *name*."""
        (found,) = [
            port["containerPort"]
            for item in self.containers.values()
            for port in item["ports"]
            if port["name"] == name
        ]
        return int(found)

    def get(self, port: str, path: str) -> live.Response:
        """Request *path* at the container port called *port*."""
        return self.run(live.request, f"http://127.0.0.1:{self.port(port)}{path}")

    def samples(self) -> live.Samples:
        """Return what a scrape shows."""
        answer = self.get("metrics", "/metrics")
        assert 200 == answer.status, answer.body
        return live.parse_samples(answer.body.decode())

    def _command(self, container: dict[str, Any]) -> list[str]:
        security = {**self.spec["securityContext"], **container["securityContext"]}
        assert (True, False, ["ALL"]) == (
            security["readOnlyRootFilesystem"],
            security["allowPrivilegeEscalation"],
            security["capabilities"]["drop"],
        )
        root = self._folder / f"root-{container['name']}"
        root.mkdir(exist_ok=True)
        mounts = [
            str(word)
            for mount in container["volumeMounts"]
            for word in (self._folder / mount["name"], mount["mountPath"])
        ]
        mounts += [str(word) for path, folder in self._files.items() for word in (folder, path)]
        inside = ["env", "--chdir", container.get("workingDir", "/"), "setpriv",
                  "--reuid", str(security["runAsUser"]), "--regid", str(security["runAsGroup"]), "--clear-groups",
                  "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", *container["command"]]  # fmt: skip
        apart = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "sh", "-euc", _CONTAINER, "sh",
                 str(root), *mounts, "--", *inside]  # fmt: skip
        namespaces = [
            f"--{kind}=/proc/{self._pause}/ns/{file}" for kind, file in (("net", "net"), ("mount", "mnt"))
        ]
        return ["nsenter", *namespaces, *live.for_any_user(apart)]

    def _environment(self, container: dict[str, Any]) -> dict[str, str | None]:
        given = {item["name"]: item["value"] for item in container["env"]}
        # What the runner's programs have by default, and a container has not.
        return {"WSGI_PROM_BIND": None, "XDG_RUNTIME_DIR": None, "HOME": "/", "TMPDIR": None, **given}


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))
