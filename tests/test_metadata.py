"""The metadata of the wheel, which a package index shows."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import live
import pytest

if TYPE_CHECKING:
    from email.message import Message
    from pathlib import Path

BUILT_FROM = ["pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "wsgi_prom", "examples"]
LINK = re.compile(r"\[[^\]]*\]\(([^)]*)\)")


def metadata(source: Path, folder: Path) -> Message:
    """Build the wheel of *source* in *folder*, and return its metadata."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source],
        check=True, timeout=120,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        (name,) = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(files.read(name))


@pytest.mark.parametrize("repository", [None, "https://git.example/wsgi-prom"])
def test_no_link_of_the_readme_leads_nowhere(repository: str | None, tmp_path: Path) -> None:
    """Links are absolute if pyproject.toml names the repository, else they are plain text, and pictures are left out."""
    source = tmp_path / "source"
    source.mkdir()
    for name in BUILT_FROM:
        copy = shutil.copytree if (live.ROOT / name).is_dir() else shutil.copy
        copy(live.ROOT / name, source / name)
    project = re.sub(r"(?ms)^\[project\.urls\]\n.*?(?=^\[)", "", (source / "pyproject.toml").read_text())
    (source / "pyproject.toml").write_text(project)
    if repository:
        (source / "pyproject.toml").write_text(f'{project}\n[project.urls]\nRepository = "{repository}"\n')
    found = metadata(source, tmp_path / "wheel")
    text = found.get_payload()
    assert "text/markdown" == found["Description-Content-Type"]
    assert text.startswith("# wsgi_prom\n")
    links = LINK.findall(text)
    assert [] == [link for link in links if not link.startswith("https://")]
    for link in ("blob/main/docs/settings.md", "raw/main/docs/page.png"):
        assert (repository is not None) == (f"{repository}/{link}" in links)
    assert (repository is not None) == ("![" in text)


def test_the_classifiers_name_the_versions_of_python_that_are_admitted() -> None:
    """No classifier names a Python below requires-python."""
    project = (live.ROOT / "pyproject.toml").read_text()
    (least,) = re.findall(r'requires-python = ">=3\.(\d+)"', project)
    named = sorted(map(int, re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', project)))
    assert int(least) == named[0]
