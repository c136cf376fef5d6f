"""Servers for tests and benchmarks, each on its own port of 127.0.0.1, stopped by its process id."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_PATIENCE = 60.0


class Server:
    """One process that listens on `port`, which can be killed and started again.

    It is up once it takes connections and the command `probe`, if there is one, succeeds.
    """

    def __init__(
        self, command: Sequence[str], port: int, *, user: str | None = None, probe: Sequence[str] = ()
    ) -> None:
        self.port = port
        self._command = command
        self._user = user
        self._probe = probe
        self.start()

    def start(self) -> None:
        """Start it, again if it does not stay: a killed server's children hold its place for a while."""
        deadline = time.monotonic() + _PATIENCE
        self._process = self._spawn()
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                time.sleep(0.5)
                self._process = self._spawn()
            if self._answers():
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self._command[0]} did not start (exit code {self._process.poll()}).")

    def _spawn(self) -> subprocess.Popen[bytes]:
        group = pwd.getpwnam(self._user).pw_gid if self._user else None
        return subprocess.Popen(
            self._command,
            user=self._user,
            group=group,
            extra_groups=[] if self._user else None,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self, how: int = signal.SIGINT) -> None:
        """`SIGINT` lets a server finish what it does; `SIGKILL` does not."""
        self._process.send_signal(how)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return not self._probe or _succeeds(self._probe)
        return False


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def postgres() -> Iterator[Server]:
    """A throwaway PostgreSQL cluster; its owner is `postgres`, who needs no password."""
    program = _postgres_program("postgres")
    user = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="ouroboros-postgres-"))
    try:
        if user:
            shutil.chown(folder, user)
        initdb = [_postgres_program("initdb"), "-D", str(folder / "data"), "-U", "postgres"]
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run([*initdb, *options], user=user, cwd="/", check=True, stdout=subprocess.DEVNULL)
        port = free_port()
        command = [program, "-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1"]
        probe = [_postgres_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        server = Server([*command, "-k", str(folder)], port, user=user, probe=probe)
        with _running(server, signal.SIGQUIT):  # nothing in it is needed any more
            yield server
    finally:
        shutil.rmtree(folder)


@contextmanager
def moto() -> Iterator[Server]:
    """Amazon's S3, imitated by moto."""
    pytest.importorskip("moto.server", reason="S3's stand-in is missing: pip install 'moto[s3]' flask")
    code = "import sys; from moto.server import main; main(sys.argv[1:])"
    port = free_port()
    command = [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(port)]
    with _running(Server(command, port)) as server:
        yield server


@contextmanager
def azurite() -> Iterator[Server]:
    """Azure's blob storage, imitated by Microsoft's own azurite."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azure's stand-in is missing: npm install --global azurite")
    port = free_port()
    options = "--inMemoryPersistence --silent --disableTelemetry --skipApiVersionCheck"
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options.split()]
    with _running(Server(command, port)) as server:
        yield server


@contextmanager
def google(bucket: str, token: str) -> Iterator[Server]:
    """Google's storage, imitated by our own `ouroboros.testing.gcs`, with one bucket and one token."""
    port = free_port()
    program = str(Path(__file__).with_name("gcs.py"))
    command = [sys.executable, program, str(port), bucket, token]
    with _running(Server(command, port)) as server:
        yield server


@contextmanager
def qdrant(api_key: str = "") -> Iterator[Server]:
    """Qdrant, imitated over its own embedded engine (`ouroboros.testing.qdrant`: what that shows)."""
    pytest.importorskip("qdrant_edge", reason="Qdrant's stand-in is missing: pip install qdrant-edge-py")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ouroboros-qdrant-", dir=_memory()) as folder:
        command = [sys.executable, str(Path(__file__).with_name("qdrant.py")), str(port), folder]
        server = Server([*command, api_key] if api_key else command, port)
        with _running(server, signal.SIGTERM):
            yield server


@contextmanager
def _running(server: Server, how: int = signal.SIGINT) -> Iterator[Server]:
    try:
        yield server
    finally:
        server.stop(how)


def _memory() -> str | None:
    """A folder in memory, where syncing costs nothing; None if there is none with room."""
    folder = Path("/dev/shm")
    return str(folder) if folder.is_dir() and shutil.disk_usage(folder).free > 2**31 else None


def _postgres_program(name: str) -> str:
    """Debian keeps the server's programs out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
    if found is None:
        pytest.skip("PostgreSQL's server is missing: apt-get install postgresql")
    return found


def _unprivileged() -> str | None:
    """PostgreSQL refuses to be run by root: then the user it made, or nobody."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
