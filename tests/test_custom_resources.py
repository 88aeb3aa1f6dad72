"""
The custom resources of examples/kubernetes fit their schemas, of which packages on PyPI have models. Needs the package index.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import live
import pods
import pytest

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = live.ROOT / "examples" / "kubernetes"
# Prints what the model knows of a document: it drops other fields.
KNOWN = """
import importlib, json, sys
model = getattr(importlib.import_module(f"cloudcoil.models.{sys.argv[1]}"), sys.argv[2])
print(model.model_validate(json.load(sys.stdin)).model_dump_json(by_alias=True, exclude_unset=True))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the models' packages: where pytest finds these, it loads a plugin of theirs, which fails."""
    folder = tmp_path_factory.mktemp("models")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    packages = ["cloudcoil-models-keda", "cloudcoil-models-prometheus-operator"]
    subprocess.run([*pip, "--no-compile", "--target", folder, *packages], check=True, timeout=170)
    return folder


@pytest.mark.parametrize(
    ("module", "kind"), [("prometheus_operator.v1", "PodMonitor"), ("keda.v1alpha1", "ScaledObject")]
)
def test_custom_resources_fit_their_schemas(module: str, kind: str, models: Path) -> None:
    """A document of prometheus-operator or KEDA is valid for the model made of its schema, which knows each of its fields."""
    (document,) = [
        item
        for path in sorted(FOLDER.glob("*.yaml"))
        for item in pods.documents(path)
        if item.get("kind") == kind
    ]
    done = subprocess.run(
        [sys.executable, "-c", KNOWN, module, kind], input=json.dumps(document), env={"PYTHONPATH": str(models)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    assert document == json.loads(done.stdout)
