"""
The README as a package index shows it: no link leads to a file that is not there.

A relative link gets the address of the repository, `Repository` of [project.urls]. Without that address it becomes its text,
and a picture is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_PICTURE = re.compile(r"!\[([^\]]*)\]\((?!\w+:)([^)]+)\)")
_RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:)([^)]+)\)")


class ReadmeHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        repository = metadata.get("urls", {}).get("Repository")
        link = rf"[\1]({repository}/blob/main/\2)" if repository else r"\1"
        picture = rf"![\1]({repository}/raw/main/\2)" if repository else ""
        text = _PICTURE.sub(picture, Path(self.root, "README.md").read_text())
        text = _RELATIVE_LINK.sub(link, text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
