"""What is wrong with the shared directory: each message names the setting that has chosen it, and what would be right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from wsgi_prom.errors import DirectoryError
from wsgi_prom.store import directory_names, environment
from wsgi_prom.store.environment import VARIABLE

if TYPE_CHECKING:
    from pathlib import Path


class Remedy(NamedTuple):
    """What to do about a directory that the variable names, about one of a name, and about any other. `{}` is its path."""

    variable: str
    name: str
    other: str


_OTHER_NAME: Final = "Remove it, or choose another name."

OWN: Final = Remedy(
    "Name a directory of its own, such as {}/wsgi_prom: it is made at start.",
    _OTHER_NAME,
    "Name a directory of its own, such as {}/wsgi_prom: it is made at start.",
)
WRITABLE: Final = Remedy(
    "Name a directory that the server's user can write to, or unset it to have one made.",
    f"Choose another name, or set {VARIABLE} to a directory that the processes' user can write to.",
    f"Set {VARIABLE} to a directory that the server's user can write to.",
)
NO_DIRECTORY: Final = Remedy(
    "Name a directory, or unset it to have one made.", _OTHER_NAME, "Name a directory."
)
BELOW_ROOTS: Final = Remedy(
    "Name a directory below one of root's.",
    f"Set {VARIABLE} to a directory below one of root's.",
    f"Set {VARIABLE} to a directory below one of root's.",
)
NO_LINK: Final = Remedy(
    "Name a directory itself, or remove the link.",
    _OTHER_NAME,
    "Name a directory itself, or remove the link.",
)
MADE_BY_HAND: Final = Remedy(
    *["Make the directory yourself, or name one below a directory that only root can write to."] * 3
)
FOREIGN_FILE: Final = Remedy(
    "Remove that file, or name another directory.",
    "Remove that file, or choose another name.",
    "Remove that file, or name another directory.",
)


def error(path: Path, problem: str, remedy: Remedy) -> DirectoryError:
    """Return an error that says *problem* of the directory *path*, which the user has named or a hook has chosen."""
    name = directory_names.name_of(path)
    configured = environment.configured()
    # A directory of the user's own may be below it (directory_files.own_directory).
    if configured is not None and configured.absolute() in {path.absolute(), path.absolute().parent}:
        subject, text = f"{VARIABLE}={str(path)!r}", remedy.variable
    elif name is not None:
        setting = "WSGI_PROM_NAME" if environment.name() == name else "name"
        subject, text = f"{path} ({setting}={name!r})", remedy.name
    else:
        subject, text = f"the shared directory {str(path)!r}", remedy.other
    return DirectoryError(f"{subject}{problem}. {text.format(path)}")
