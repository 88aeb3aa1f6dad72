"""`wsgi-prom run`: a program joins a server's processes, and is otherwise what it is without."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import brokers
import joined
import live
import pytest
import redis
import rq
import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

# Counts in each Python process that a program may consist of.
PROGRAM = """#!{python}
import multiprocessing, os, subprocess, sys
from prometheus_client import Counter
ENDED = Counter("program_parts_total", "Parts of the program that have ended.", registry=None)
part = sys.argv[1]
ENDED.inc()
if part == "first":
    subprocess.run([sys.executable, __file__, "child"], check=True)
    subprocess.run(["sh", "-c", "exec " + __file__ + " child"], check=True)
    if os.fork() == 0:
        ENDED.inc()
        os._exit(0)
    os.wait()
    os.execv(sys.executable, [sys.executable, __file__, "last"])
"""

# Shows its page while what multiprocessing keeps running does: a resource tracker and a fork server.
POOL = """
import multiprocessing, subprocess
from prometheus_client import Counter
PARTS = Counter("pool_parts_total", "Parts of the program that have run.", registry=None)
def work():
    PARTS.inc()
    subprocess.run(["wsgi-prom", "dump"], check=True)
if __name__ == "__main__":
    for context in map(multiprocessing.get_context, ["forkserver", "spawn"]):
        part = context.Process(target=work)
        part.start()
        part.join()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[live.LiveServer]:
    """Run a web server with a name."""
    name, _ = joined.new_name()
    with servers.start("gunicorn sync", workers=1, WSGI_PROM_NAME=name) as found:
        found.name = {"WSGI_PROM_NAME": name}  # type: ignore[attr-defined]
        yield found


def run(*words: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    """Run *words* by `wsgi-prom run`, with the variables *env*."""
    env = live.environment(more.pop("env", {}), runtime=live.ROOT)  # type: ignore[arg-type]
    return subprocess.run(
        [live.BIN / "wsgi-prom", "run", *words], check=False, capture_output=True, text=True, timeout=120, env=env, **more,  # type: ignore[call-overload]
    )  # fmt: skip


def test_each_python_of_a_program_joins(server: live.LiveServer, tmp_path: Path) -> None:
    """A script, the Python that it starts, the one that a shell starts, its fork, and what it executes all count."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    done = run("--role", "batch", "--", program, "first", env=server.name)  # type: ignore[attr-defined]
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert 5 == servers.value(server.samples(), "program_parts_total")


def test_a_name_that_no_server_uses_is_told_once(tmp_path: Path) -> None:
    """One warning, however many Python processes the program consists of."""
    (program := tmp_path / "program.py").write_text(PROGRAM.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    name, _ = joined.new_name()
    done = run("--", program, "first", env={"WSGI_PROM_NAME": name})
    (line,) = done.stderr.splitlines()
    assert f"uses the name {name}: the metrics of this process are on no page until one does" in line


def test_below_a_server_a_name_is_not_looked_for() -> None:
    """A program that a worker runs joins the server, whose directory comes before that of a name: nothing is on no page."""
    with servers.start("gunicorn sync", app="commands:app", workers=1) as server:
        environ = json.loads(server.get("/").body)
        done = run("--name", joined.new_name()[0], "--", "echo", "ran", env=environ)
    assert ("ran\n", "") == (done.stdout, done.stderr)


def test_a_program_runs_where_the_directory_of_its_name_is_unusable(tmp_path: Path) -> None:
    """Metrics that cannot be recorded keep no program from running; it says so itself if it is Python."""
    name, directory = joined.new_name()
    directory.touch()
    try:
        done = run("--name", name, "--", "echo", "ran")
    finally:
        directory.unlink()
    assert (0, "ran\n") == (done.returncode, done.stdout)


def test_processes_that_do_no_work_of_the_program_do_not_join(tmp_path: Path) -> None:
    """Children of multiprocessing join, but not what it starts for itself, nor a command of ours."""
    (program := tmp_path / "program.py").write_text(POOL)
    name, _ = joined.new_name()
    env = {"WSGI_PROM_NAME": name, "PATH": f"{live.BIN}:/usr/bin:/bin"}
    with servers.start("gunicorn sync", workers=1, WSGI_PROM_NAME=name):
        done = run("--role", "pool", "--", sys.executable, program, env=env)
    assert (0, "") == (done.returncode, done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("pool_parts", "wsgi_prom_joined"))]
    processes = 'wsgi_prom_joined_processes{role="pool"} 2.0'
    assert sorted(["pool_parts_total 1.0", "pool_parts_total 2.0", processes, processes]) == sorted(lines)


def test_a_program_is_what_it_is_without(tmp_path: Path) -> None:
    """
    Arguments, standard input, pid, exit status and signals are the program's own, the sitecustomize that was there runs too, and a
    program that has no directory says so.
    """
    (tmp_path / "sitecustomize.py").write_text("import builtins\nbuiltins.customized = 'customized'\n")
    program = "import os, sys; print(sys.argv[1:], sys.stdin.read(), customized, __name__); sys.exit(3)"
    done = run(
        "--", sys.executable, "-c", program, "--role", "--", "check", input="given",
        env={"PYTHONPATH": f"{tmp_path}:{live.ROOT}"},
    )  # fmt: skip
    assert (3, "['--role', '--', 'check'] given customized __main__\n") == (done.returncode, done.stdout)
    (line,) = done.stderr.splitlines()
    assert "the metrics of this process are on no page" in line
    done = run("--", sys.executable, "-c", "import os; os.kill(os.getpid(), 15)")
    assert -signal.SIGTERM == done.returncode
    # Python that ignores the environment, or has no wsgi_prom.
    done = run("--", sys.executable, "-I", "-c", "print('runs')")
    assert (0, "runs\n", "") == (done.returncode, done.stdout, done.stderr)


def test_an_unknown_variable_is_told_once(server: live.LiveServer) -> None:
    """A misspelt setting is one warning, however many Python processes the program consists of."""
    program = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', '']).returncode)"
    done = run("--", sys.executable, "-c", program, env={**server.name, "WSGI_PROM_BINDD": "off"})  # type: ignore[attr-defined]
    assert 0 == done.returncode
    (line,) = done.stderr.splitlines()
    assert "WSGI_PROM_BINDD is not a setting of wsgi_prom and is ignored." in line


def test_signals_are_as_a_shell_has_them() -> None:
    """The program ignores the signals that it ignores without, so that one whose reader has gone ends without a word."""
    ignored = ["grep", "SigIgn", "/proc/self/status"]
    assert subprocess.check_output(ignored, text=True) == run("--", *ignored).stdout
    done = run("--", "bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}")
    assert (f"y\n{128 + signal.SIGPIPE}\n", "") == (done.stdout, done.stderr)


def test_a_script_without_an_interpreter_line_runs(tmp_path: Path) -> None:
    """The shell runs it with its arguments, as a shell would, whether its path or PATH names it."""
    (script := tmp_path / "count").write_text('echo "$0 $#"\n')
    script.chmod(0o755)
    for name in str(script), "count":
        done = run("--", name, "a b", "-c", env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
        assert (0, f"{script} 2\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("words", "status", "shown"),
    [
        (["--", "no-such-program"], 127, "no-such-program: No such file or directory"),
        (["--", "/"], 126, "/: Permission denied"),
        (["--"], 2, "no command is given: wsgi-prom run -- COMMAND ..."),
        (["--role", "worker", "--", "true"], 1, "role='worker' is not a name of up to 32 letters"),
        (["--name", "a/b", "--", "true"], 1, "name='a/b' is not a name of up to 64 letters"),
    ],
)
def test_what_cannot_be_run_is_told(words: list[str], status: int, shown: str) -> None:
    """A command that cannot be run, and a wrong argument, are one line and an exit status as a shell has it."""
    done = run(*words)
    assert status == done.returncode
    (line,) = done.stderr.splitlines()
    assert shown in line


def test_jobs_of_rq_are_counted(server: live.LiveServer) -> None:
    """An unchanged worker of RQ, which forks for each job, counts each job once, in one slot beside its own."""
    before = sum(live.labelled(server.samples(), "wsgi_prom_slots").values())
    with tempfile.TemporaryDirectory(prefix="redis-") as folder, brokers.redis(Path(folder)) as place:
        with redis.Redis(unix_socket_path=str(place)) as connection:
            queue = rq.Queue(connection=connection)
            for _ in range(5):
                queue.enqueue("jobs.work", 2)
            done = run(
                "--role", "rq", "--", "rq", "worker", "--burst", "--url", f"unix://{place}", env=server.name
            )  # type: ignore[attr-defined]
            assert 0 == done.returncode, done.stderr
    samples = server.samples()
    assert 10 == servers.value(samples, "jobs_worked_total"), done.stderr
    assert before + 2 >= sum(live.labelled(samples, "wsgi_prom_slots").values())
