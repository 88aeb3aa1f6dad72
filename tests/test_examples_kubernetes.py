"""
examples/kubernetes: the manifests fit the schemas of Kubernetes, prometheus-operator and KEDA, and the pods run as they say.

What no machine without Kubernetes shows: that the scheduler, the kubelet and the autoscalers do with them what their schemas say.
"""

from __future__ import annotations

import re
import signal
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import live
import pods
import pytest
import servers
from users import needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = live.ROOT / "examples" / "kubernetes"
IMAGE = {"/app": live.ROOT / "examples" / "flask"}
BOOTED = r"Booting worker with pid[\s\S]*" * 4
USER = 10001

ASKED = ["/users/1", "/users/2", "/none/7"] * 10
COUNTED = {("/users/<int:user_id>", "200"): 20.0, ("unmatched", "404"): 10.0}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder that other users can enter."""
    with tempfile.TemporaryDirectory(prefix="pod-") as found:
        Path(found).chmod(0o755)
        yield Path(found)


@pytest.fixture
def pod(folder: Path) -> Iterator[pods.Pod]:
    """Start the pod of deployment.yaml: the sidecar first, as Kubernetes does."""
    with pods.Pod(FOLDER / "deployment.yaml", folder, IMAGE) as found:
        found.start("exporter", "does not exist; nothing is served until a server makes it")
        found.start("shop", BOOTED)
        found.running["exporter"].wait_for_log(live.METRICS_LINE)
        yield found


def ask(pod: pods.Pod, paths: list[str]) -> list[int]:
    """Request *paths*, four at a time, and return the statuses."""
    url = f"http://127.0.0.1:{pod.port('http')}"
    with ThreadPoolExecutor(4, initializer=pod.enter) as pool:
        return [answer.status for answer in pool.map(lambda path: live.request(url + path), paths)]


def counted(pod: pods.Pod) -> dict[tuple[str, str], float]:
    return servers.requests_counted(pod.samples())


def states(samples: live.Samples) -> dict[str, float]:
    return {
        dict(labels)["state"]: number for labels, number in live.labelled(samples, "wsgi_workers").items()
    }


@needs_root
def test_the_sidecar_shows_the_server(pod: pods.Pod) -> None:
    """The sidecar's page has each request once, the four workers, their capacity and the listen queue, as the plain user."""
    assert [200, 200, 404] * 10 == ask(pod, ASKED)
    assert COUNTED == live.eventually(lambda: counted(pod), COUNTED.__eq__)
    samples = live.eventually(pod.samples, lambda found: states(found)["idle"] == 4)
    assert {"booting": 0, "idle": 4, "busy": 0, "stopping": 0} == states(samples)
    assert 4 == servers.value(samples, "wsgi_worker_capacity")
    queue = {
        name: servers.value(samples, name, socket="0.0.0.0:8000")
        for name in ("wsgi_listen_queue", "wsgi_listen_queue_limit")
    }
    assert 0 == queue["wsgi_listen_queue"]
    assert queue["wsgi_listen_queue_limit"]
    assert 1 == servers.value(samples, "wsgi_server_info", server="gunicorn")
    # The sidecar has pids of its own.
    assert {frozenset({("role", "exporter")})} == set(live.labelled(samples, "process_resident_memory_bytes"))
    assert {} == live.labelled(samples, "wsgi_worker_heartbeat_age_seconds")
    first = [pod.first_process(server) for server in pod.running.values()]
    assert [USER] * 2 == [live.user_id(pid) for pid in first]
    # Each is process 1 of its own pid namespace.
    assert ["1"] * 2 == [
        re.search(r"^NSpid:.*\s(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]
        for pid in first
    ]


@needs_root
def test_the_probes_and_the_addresses_that_are_scraped(pod: pods.Pod) -> None:
    """Each probe succeeds, and the pod's annotations and the PodMonitor lead to the page."""
    probes = [
        container[kind]
        for container in pod.containers.values()
        for kind in ("readinessProbe", "livenessProbe")
    ]
    paths = [(probe["httpGet"]["port"], probe["httpGet"]["path"]) for probe in probes if "httpGet" in probe]
    assert [("metrics", "/-/ready"), ("metrics", "/-/healthy"), ("http", "/")] == paths
    assert [200] * 3 == [pod.get(port, path).status for port, path in paths]
    for port in [probe["tcpSocket"]["port"] for probe in probes if "tcpSocket" in probe]:
        pod.run(lambda port=port: socket.create_connection(("127.0.0.1", pod.port(port)), 10).close())
    (service,) = pods.documents(FOLDER / "service.yaml")
    (monitor,) = pods.documents(FOLDER / "podmonitor.yaml")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    annotations = {name.partition("/")[2]: value for name, value in pod.metadata["annotations"].items()}
    assert ("true", str(pod.port("metrics"))) == (annotations["scrape"], annotations["port"])
    for path in (annotations["path"], endpoint["path"]):
        assert b"wsgi_worker_capacity" in pod.get(endpoint["port"], path).body
    assert [("http", 80)] == [(port["targetPort"], port["port"]) for port in service["spec"]["ports"]]


@needs_root
def test_the_application_is_killed_and_started_again(pod: pods.Pod) -> None:
    """A container that is killed, as for want of memory, and started again goes on with its counters, and has four workers."""
    ask(pod, ASKED)
    live.eventually(lambda: counted(pod), COUNTED.__eq__)
    before = pod.samples()
    pod.end("shop", signal.SIGKILL)
    pod.start("shop", BOOTED)
    ask(pod, ASKED)
    doubled = {labels: 2 * number for labels, number in COUNTED.items()}
    assert doubled == live.eventually(lambda: counted(pod), doubled.__eq__)
    after = live.eventually(pod.samples, lambda samples: states(samples)["idle"] == 4)
    assert {"booting": 0, "idle": 4, "busy": 0, "stopping": 0} == states(after)
    assert [] == servers.gone_back(before, after)


@needs_root
def test_the_pod_ends_gracefully(pod: pods.Pod) -> None:
    """A request in progress is answered and counted while the pod ends: the application first, and then the sidecar."""
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, pod, ["/slow?seconds=2"])
        live.eventually(lambda: states(pod.samples())["busy"], lambda busy: busy == 1)
        assert 0 == pod.end("shop")
        assert [200] == slow.result()
    assert {("/slow", "200"): 1} == counted(pod)
    assert 0 == pod.end("exporter")
    seconds = pod.containers["shop"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    graceful = next(
        word for word in pod.containers["shop"]["command"] if word.startswith("--graceful-timeout=")
    )
    assert pod.spec["terminationGracePeriodSeconds"] > seconds + int(graceful.partition("=")[2])


@needs_root
def test_the_pod_of_uwsgi(folder: Path) -> None:
    """Under uWSGI the exporter in the server's container has the counts, the workers, the queue and uWSGI's own figures."""
    with pods.Pod(FOLDER / "deployment-uwsgi.yaml", folder, IMAGE) as pod:
        server = pod.start("shop", r"spawned uWSGI worker \d+[\s\S]*" * 4)
        server.wait_for_log(live.METRICS_LINE)
        assert [200, 200, 404] * 10 == ask(pod, ASKED)
        assert COUNTED == live.eventually(lambda: counted(pod), COUNTED.__eq__)
        samples = live.eventually(pod.samples, lambda samples: states(samples)["idle"] == 4)
        assert (4, 0, 1) == (
            servers.value(samples, "wsgi_worker_capacity"),
            servers.value(samples, "wsgi_listen_queue", socket="0.0.0.0:8000"),
            servers.value(samples, "uwsgi_up"),
        )
        # Process 1 of the container is the master.
        assert servers.value(samples, "process_resident_memory_bytes", role="master")
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(ask, pod, ["/slow?seconds=2"])
            live.eventually(lambda: states(pod.samples())["busy"], lambda busy: busy == 1)
            pod.end("shop")
            assert [200] == slow.result()


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Return the documents that a cluster is given, by the name of their file."""
    return [
        (path.name, document)
        for path in sorted(FOLDER.glob("*.yaml"))
        for document in pods.documents(path)
        if "apiVersion" in document
    ]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_manifests_fit_the_schemas_of_kubernetes(version: str) -> None:
    """Each document of a kind of Kubernetes' own has the fields of its strict schema, and no others."""
    import kubernetes_validate

    own = [
        (name, item)
        for name, item in manifests()
        if item["apiVersion"] in {"v1", "apps/v1", "autoscaling/v2"}
    ]
    assert ["deployment-uwsgi.yaml", "deployment.yaml", "hpa.yaml", "service.yaml"] == [
        name for name, _ in own
    ]
    assert [version] * 4 == [kubernetes_validate.validate(item, version, strict=True) for _, item in own]


def test_names_that_lead_from_one_manifest_to_another() -> None:
    """The autoscalers scale the Deployment and know the rules' metrics; Service and PodMonitor select its pods."""
    found = {(item["kind"], name): item for name, item in manifests()}
    for name in ("deployment.yaml", "deployment-uwsgi.yaml"):
        deployment = found["Deployment", name]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        selectors = [
            deployment["spec"]["selector"]["matchLabels"],
            found["Service", "service.yaml"]["spec"]["selector"],
            found["PodMonitor", "podmonitor.yaml"]["spec"]["selector"]["matchLabels"],
        ]
        assert [labels] * 3 == selectors
        scaled = [
            found["HorizontalPodAutoscaler", "hpa.yaml"]["spec"]["scaleTargetRef"]["name"],
            found["ScaledObject", "keda.yaml"]["spec"]["scaleTargetRef"]["name"],
        ]
        assert [deployment["metadata"]["name"]] * 2 == scaled
    (rules,) = pods.documents(FOLDER / "prometheus-adapter.yaml")
    metrics = found["HorizontalPodAutoscaler", "hpa.yaml"]["spec"]["metrics"]
    assert [rule["name"]["as"] for rule in rules["rules"]["custom"]] == [
        item["pods"]["metric"]["name"] for item in metrics
    ]


def test_the_sidecar_is_told_what_the_server_is() -> None:
    """The sidecar's concurrency and queue are gunicorn's threads and bind, and both containers name one directory."""
    pod = pods.Pod(FOLDER / "deployment.yaml", Path("/nowhere"), {})
    options = {
        name: dict(word.removeprefix("--").split("=", 1) for word in item["command"] if word.startswith("--"))
        for name, item in pod.containers.items()
    }
    assert options["shop"]["bind"] == options["exporter"]["queue"]
    assert options["shop"].get("threads", "1") == options["exporter"]["concurrency"]
    variables = [
        {item["name"]: item["value"] for item in container["env"]}["PROMETHEUS_MULTIPROC_DIR"]
        for container in pod.containers.values()
    ]
    mounts = [container["volumeMounts"][0]["mountPath"] for container in pod.containers.values()]
    assert variables == mounts
    assert 1 == len(set(variables))
