"""The way to the shared directory past other users' directories, links and renames, and what root makes there."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import live
import processes
import pytest
from users import needs_root

from wsgi_prom.errors import DirectoryError
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import directory, directory_files, environment, label_limit, locks, schemas
from wsgi_prom.store.label_limit import LabelSets
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

pytestmark = needs_root

USER = 54321
STRANGER = 54322
GROUP = 54400
HITS = schemas.counter("hits", "Hits.", ())


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory of root's that all users can enter, unlike pytest's."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def as_user(in_child: Callable[..., Any]) -> Callable[..., Any]:
    """`as_user(uid, function, *arguments)`: call the function in a process of that user and return its result."""

    def run(uid: int, function: Callable[..., Any], *arguments: Any) -> Any:
        def child() -> Any:
            os.setgroups([GROUP])
            os.setgid(GROUP)
            os.setuid(uid)
            return function(*arguments)

        return in_child(child)

    return run


def folder(path: Path, uid: int, mode: int = 0o755) -> Path:
    path.mkdir()
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def link(path: Path, target: Path, uid: int) -> Path:
    path.symlink_to(target)
    os.chown(path, uid, uid, follow_symlinks=False)
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DirectoryError) as caught:
        directory.prepare(path, **options)
    return str(caught.value)


def state(path: Path) -> tuple[int, str, list[str]]:
    found = path.lstat()
    return found.st_uid, stat.filemode(found.st_mode), sorted(os.listdir(path))


@pytest.mark.parametrize("parent", ["a stranger's", "open to all", "sticky"])
def test_a_strangers_link_above_the_directory_leads_root_nowhere(base: Path, parent: str) -> None:
    """
    Root makes nothing behind a link of another user, neither in that user's directory nor in one that all can write to.
    """
    private = folder(base / "private", 0)
    app = folder(
        base / "app",
        STRANGER if parent == "a stranger's" else 0,
        {"a stranger's": 0o755, "open to all": 0o777, "sticky": 0o1777}[parent],
    )
    link(app / "x", private, STRANGER)
    before = state(private)
    message = refusal(app / "x" / "metrics", owner=(USER, USER))
    assert f"belongs to uid {STRANGER}" in message
    assert before == state(private)


@pytest.mark.parametrize("what", ["link", "directory"])
def test_root_makes_nothing_in_its_own_directories_that_the_workers_user_has_put_there(
    base: Path, what: str
) -> None:
    """The workers' user cannot have root make something in one of root's directories by a link to it."""
    private = folder(base / "private", 0)
    app = folder(base / "app", USER)
    if what == "link":
        link(app / "x", private, USER)
    else:
        private = private.rename(app / "x")
    before = state(private)
    assert "cannot be made" in refusal(app / "x" / "metrics", owner=(USER, USER))
    assert before == state(private)


def test_a_server_of_a_users_own_is_not_led_astray(base: Path, as_user: Callable[..., Any]) -> None:
    """A stranger's link cannot choose which of the user's own directories a server clears."""
    home = folder(base / "home", USER)
    metrics = folder(home / "metrics", USER, 0o700)
    (metrics / "counter_7.db").touch()
    shared = folder(base / "shared", 0, 0o1777)
    link(shared / "x", home, STRANGER)
    message = as_user(USER, refusal, shared / "x" / "metrics")
    assert f"{shared / 'x'} is a link that belongs to uid {STRANGER}" in message
    assert ["counter_7.db"] == os.listdir(metrics)


@pytest.mark.parametrize("of", [0, USER])
def test_links_of_roots_and_of_the_users_own_are_followed(
    base: Path, as_user: Callable[..., Any], of: int
) -> None:
    """
    Links of root and of the user are followed: absolute, relative, chained, and through directories that cannot be
    listed.
    """
    run = folder(base / "run", 0, 0o1777)
    closed = folder(base / "closed", USER, 0o711)
    link(run / "first", Path("second"), of)
    link(run / "second", closed, of)
    as_user(USER, lambda: directory.prepare(run / "first" / "deep" / "metrics") and None)
    assert [locks.NAME] == os.listdir(closed / "deep" / "metrics")


def test_links_in_a_circle_are_refused(base: Path) -> None:
    """A circle of links is refused with a message that says so."""
    (base / "a").symlink_to("b")
    (base / "b").symlink_to("a")
    assert "symbolic links" in refusal(base / "a" / "metrics")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o2775])
def test_a_directory_of_roots_that_others_can_write_to_may_be_above(base: Path, mode: int) -> None:
    """Below /tmp or a Kubernetes volume root makes a directory for the workers' user, which a second start accepts."""
    volume = folder(base / "volume", 0, mode)
    os.chown(volume, 0, GROUP)
    volume.chmod(mode)
    for _ in range(2):
        directory.prepare(volume / "deep" / "metrics", owner=(USER, USER))
    assert (USER, "drwx------", [locks.NAME]) == state(volume / "deep" / "metrics")
    assert ["deep"] == os.listdir(volume)


def test_what_takes_the_place_of_a_directory_that_root_makes_is_not_given_away(
    base: Path, in_child: Callable[..., Any]
) -> None:
    """Root gives nothing away to a user who replaces a new directory between mkdir and chown."""
    volume = folder(base / "volume", 0, 0o777)
    private = folder(volume / "private", 0, 0o700)

    def swapped(made: list[str]) -> None:
        """Make the directory, and put another one of root's in the place of each that is made, before it is opened."""
        mkdir = os.mkdir

        def and_swap(name: str, mode: int = 0o777, *, dir_fd: int) -> None:
            mkdir(name, mode, dir_fd=dir_fd)
            if os.path.samestat(os.fstat(dir_fd), volume.stat()):
                os.rename(name, "away", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                os.rename("private", name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                made.append(name)

        os.mkdir = and_swap  # type: ignore[assignment]
        directory.prepare(volume / "metrics", owner=(USER, USER))

    def run() -> tuple[list[str], tuple[int, str]]:
        before = private.stat().st_ino
        descriptor = os.open(private, os.O_PATH)
        made: list[str] = []
        swapped(made)
        found = os.fstat(descriptor)
        assert before == found.st_ino
        return made, (found.st_uid, stat.filemode(found.st_mode))

    made, found = in_child(run)
    assert 1 == len(made)
    assert (0, "drwx------") == found
    assert USER == (volume / "metrics").stat().st_uid


def test_what_takes_the_place_of_a_directory_that_was_checked_is_not_used(base: Path) -> None:
    """Files are opened in the directory that was checked, even if its path leads elsewhere by then."""
    app = folder(base / "app", USER)
    metrics = folder(app / "metrics", USER, 0o700)
    etc = folder(base / "etc", 0)
    with directory_files.opened(metrics, USER) as checked:
        metrics.rename(app / "away")
        link(metrics, etc, USER)
        os.close(directory_files.open_file(locks.NAME, checked, os.O_RDWR))
        assert directory.set_aside(checked, 0)
    assert ([], [locks.NAME]) == (os.listdir(etc), os.listdir(app / "away"))


def test_a_directory_that_took_the_place_of_the_locked_one_is_not_cleared(base: Path) -> None:
    """`clear` only removes files from the directory in which the caller's lock file lies."""
    metrics = folder(base / "metrics", 0, 0o700)
    lock_file = directory.prepare(metrics)
    metrics.rename(base / "away")
    folder(base / "metrics", 0, 0o700)
    directory.prepare(metrics)
    (metrics / "counter_7.db").touch()
    directory.clear(metrics, lock_file)
    assert ["counter_7.db", locks.NAME] == sorted(os.listdir(metrics))


NAMES = ["wsgi_prom.0.keys", "wsgi_prom.0.values", label_limit.NAME, locks.NAME]


def record(path: Path, owner: tuple[int, int] | None = None, count: float = 0.0) -> None:
    columns, first = SharedSlot.claim(path, owner).row(HITS, ())
    columns[first] = count
    sets = LabelSets(path, 10, owner)
    sets.allow("hits", ("a",))
    sets.close()


@pytest.mark.parametrize("name", NAMES)
def test_root_gives_away_no_file_that_was_there(in_child: Callable[..., Any], base: Path, name: str) -> None:
    """A file of root's that the workers' user renames to one of our names stays root's and unchanged."""
    metrics = folder(base / "metrics", USER, 0o700)
    secret = metrics / name
    secret.write_text("secret")
    secret.chmod(0o600)
    descriptor = os.open(secret, os.O_RDONLY)

    def run() -> str:
        try:
            record(metrics, (USER, USER))
        except DirectoryError as error:
            return str(error)
        return ""

    said = in_child(run)
    found = os.fstat(descriptor)
    assert (0, "-rw-------", b"secret") == (
        found.st_uid,
        stat.filemode(found.st_mode),
        os.read(descriptor, 99),
    )
    os.close(descriptor)
    assert (name == locks.NAME) == ("Remove that file" in said)
    others = {
        path.name: path.stat().st_uid for path in metrics.iterdir() if path.stat().st_ino != found.st_ino
    }
    assert {USER} == set(others.values()) or name == locks.NAME


def test_a_file_that_another_of_roots_processes_is_about_to_give_away_is_waited_for(base: Path) -> None:
    """Two servers that start at once share one lock file, and neither refuses the other's."""
    metrics = folder(base / "metrics", USER, 0o700)
    (metrics / locks.NAME).touch(0o600)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        os.chown(metrics / locks.NAME, USER, USER)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directory_files.time, "sleep", pause)
        directory.prepare(metrics, owner=(USER, USER))
    assert 1 == len(pauses)


def planted(base: Path, as_user: Callable[..., Any], names: Iterable[str], mode: int) -> Path:
    """Return a directory that a group can write to, in which a stranger of that group has made files of *names*."""
    metrics = folder(base / "metrics", USER, 0o770)
    os.chown(metrics, USER, GROUP)

    def plant() -> None:
        os.umask(0)
        for name in names:
            os.close(os.open(metrics / name, os.O_CREAT | os.O_EXCL, mode))

    as_user(STRANGER, plant)
    return metrics


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_files_that_a_member_of_the_group_planted_are_not_used(
    base: Path, as_user: Callable[..., Any], mode: int
) -> None:
    """
    In a directory that a group can write to, another user's slot files are set aside, and that user's list of label
    sets is not read.
    """
    metrics = planted(base, as_user, NAMES[:3], mode)
    as_user(USER, record, metrics)
    owners = {path.name: path.stat().st_uid for path in metrics.iterdir()}
    assert {
        **dict.fromkeys(["wsgi_prom.0.keys.bad", "wsgi_prom.0.values.bad", label_limit.NAME], STRANGER),
        **dict.fromkeys(["wsgi_prom.0.keys", "wsgi_prom.0.values", locks.NAME], USER),
    } == owners
    assert [0] * 3 == [(metrics / name).stat().st_size for name in owners if owners[name] == STRANGER]


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_a_lock_file_that_a_member_of_the_group_planted_is_refused(
    base: Path, as_user: Callable[..., Any], mode: int
) -> None:
    """A lock file of another user is refused, since its owner could pretend that slots are held."""
    metrics = planted(base, as_user, [locks.NAME], mode)
    assert f"belongs to uid {STRANGER}, the directory to uid {USER}" in as_user(USER, refusal, metrics)


PREPARE = """
import sys
from pathlib import Path
from wsgi_prom.store import directory
path = Path(sys.argv[1])
directory.prepare(path)
print(Path("/").stat().st_uid, path.stat().st_uid)
"""


def test_a_user_namespace_in_which_root_is_unknown(base: Path) -> None:
    """In a user namespace that maps root to nobody, directories of nobody are trusted as root's."""
    volume = folder(base / "volume", USER)
    command = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
    command += [
        "unshare",
        "--user",
        "--map-current-user",
        sys.executable,
        "-c",
        PREPARE,
        str(volume / "metrics"),
    ]
    done = subprocess.run(
        live.for_any_user(command), capture_output=True, text=True, timeout=60, check=False, cwd="/",
        env=live.environment({}, runtime=base),
    )  # fmt: skip
    assert (f"65534 {USER}\n", "") == (done.stdout, done.stderr)


def test_a_server_of_roots_does_not_give_a_secret_to_its_workers_user(base: Path) -> None:
    """With gunicorn --user, a file of root's under the lock file's name is refused in one line and keeps its owner."""
    metrics = folder(base / "metrics", 33, 0o700)
    secret = metrics / locks.NAME
    secret.write_text("secret")
    secret.chmod(0o600)
    command = [str(live.BIN / "gunicorn"), "-c", "python:wsgi_prom.hooks.gunicorn", "--bind", "127.0.0.1:0"]
    command += ["--user", "www-data", "--group", "www-data", "plain:app"]
    done = subprocess.run(
        live.for_any_user(command), capture_output=True, text=True, timeout=60, check=False, cwd=base,
        env=live.environment({environment.VARIABLE: str(metrics)}, runtime=base),
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if "wsgi_prom: " in line]
    assert 1 == len(lines), done.stderr
    assert f"{environment.VARIABLE}={str(metrics)!r}: {locks.NAME} in it belongs to uid 0" in lines[0]
    assert 0 != done.returncode
    assert (0, "secret") == (secret.stat().st_uid, secret.read_text())


@pytest.mark.parametrize("what", ["a directory of theirs", "a link of theirs"])
def test_figures_that_a_stranger_has_put_in_the_place_of_the_directory_are_not_on_the_page(
    base: Path, as_user: Callable[..., Any], what: str
) -> None:
    """
    If a stranger replaces the directory, the page keeps the counters that it knew, and reports that it cannot read.
    """
    volume = folder(base / "volume", 0, 0o777)
    metrics = volume / "metrics"

    def plant() -> None:
        metrics.rename(volume / "away")
        path = metrics if what == "a directory of theirs" else volume / "theirs"
        record(path, count=1000.0)
        path.chmod(0o755)
        for file in path.iterdir():
            file.chmod(0o644)
        if path != metrics:
            metrics.symlink_to(path)

    def scraped() -> list[tuple[list[float], bool]]:
        record(metrics, count=3.0)
        collector = Collector(metrics)
        found = []
        for meanwhile in (lambda: None, lambda: planted.call("plant")):
            meanwhile()
            values = [
                sample.value for metric in collector.collect().to_metrics() for sample in metric.samples
            ]
            found.append((values, collector.report.readable))
        return found

    def stranger(_: str) -> None:
        os.setuid(STRANGER)
        plant()

    with processes.Child(stranger) as planted:
        assert [([3.0], True), ([3.0], False)] == as_user(USER, scraped)


SWAPPING = """
import os
from plain import app
os.rename("log", "moved")
os.symlink("secret", "log")
"""


def test_the_exporter_gets_no_file_that_took_the_place_of_the_servers_log(base: Path) -> None:
    """
    With gunicorn --user and --error-logfile the exporter writes to the log that gunicorn has open, not to a file that
    replaced it.
    """
    secret = base / "secret"
    secret.write_text("secret")
    (base / "swapping.py").write_text(SWAPPING)
    command = [
        live.BIN / "gunicorn",
        "-c",
        "python:wsgi_prom.hooks.gunicorn",
        "--bind",
        "127.0.0.1:0",
        "--preload",
    ]
    command += ["--user", "www-data", "--group", "www-data", "--error-logfile", "log", "swapping:app"]
    with live.LiveServer(live.for_any_user(command), cwd=base) as server:
        moved = base / "moved"
        found = live.eventually(
            lambda: moved.exists() and "metrics at http" in moved.read_text(), bool, live.START_SECONDS
        )
        assert server.process.poll() is None
    assert found
    assert "secret" == secret.read_text()
