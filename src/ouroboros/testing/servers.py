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

_TIMEOUT_SECONDS = 60.0


class ServerProcess:
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
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        self._process = self._start_process()
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                time.sleep(0.5)
                self._process = self._start_process()
            if self._is_ready():
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self._command[0]} did not start (exit code {self._process.poll()}).")

    def _start_process(self) -> subprocess.Popen[bytes]:
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

    def stop(self, stop_signal: int = signal.SIGINT) -> None:
        """`SIGINT` lets a server finish what it does; `SIGKILL` does not."""
        self._process.send_signal(stop_signal)
        try:
            self._process.wait(_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _is_ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return not self._probe or _exits_with_zero(self._probe)
        return False


def _exits_with_zero(command: Sequence[str]) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def run_postgres() -> Iterator[ServerProcess]:
    """A throwaway PostgreSQL cluster; its owner is the user `postgres`, who needs no password."""
    program = _find_postgres_program("postgres")
    user = _unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="ouroboros-postgres-"))
    try:
        if user:
            shutil.chown(folder, user)
        initdb = [_find_postgres_program("initdb"), "-D", str(folder / "data"), "-U", "postgres"]
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run([*initdb, *options], user=user, cwd="/", check=True, stdout=subprocess.DEVNULL)
        port = free_port()
        command = [program, "-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1"]
        probe = [_find_postgres_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        server = ServerProcess([*command, "-k", str(folder)], port, user=user, probe=probe)
        with _stop_after(server, signal.SIGQUIT):  # nothing in it is needed any more
            yield server
    finally:
        shutil.rmtree(folder)


@contextmanager
def run_moto() -> Iterator[ServerProcess]:
    """Amazon's S3, imitated by moto."""
    pytest.importorskip("moto.server", reason="S3's stand-in is missing: pip install 'moto[s3]' flask")
    code = "import sys; from moto.server import main; main(sys.argv[1:])"
    port = free_port()
    command = [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(port)]
    with _stop_after(ServerProcess(command, port)) as server:
        yield server


@contextmanager
def run_azurite() -> Iterator[ServerProcess]:
    """Azure's blob storage, imitated by Microsoft's own azurite."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azure's stand-in is missing: npm install --global azurite")
    port = free_port()
    options = "--inMemoryPersistence --silent --disableTelemetry --skipApiVersionCheck"
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options.split()]
    with _stop_after(ServerProcess(command, port)) as server:
        yield server


@contextmanager
def run_gcs(bucket: str, token: str) -> Iterator[ServerProcess]:
    """Google's storage, imitated by our own `ouroboros.testing.gcs`, with one bucket and one token."""
    port = free_port()
    program = str(Path(__file__).with_name("gcs.py"))
    command = [sys.executable, program, str(port), bucket, token]
    with _stop_after(ServerProcess(command, port)) as server:
        yield server


@contextmanager
def run_qdrant(api_key: str = "") -> Iterator[ServerProcess]:
    """Qdrant, imitated over its own embedded engine (`ouroboros.testing.qdrant`: what that shows)."""
    pytest.importorskip("qdrant_edge", reason="Qdrant's stand-in is missing: pip install qdrant-edge-py")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ouroboros-qdrant-", dir=_memory_folder()) as folder:
        command = [sys.executable, str(Path(__file__).with_name("qdrant.py")), str(port), folder]
        server = ServerProcess([*command, api_key] if api_key else command, port)
        with _stop_after(server, signal.SIGTERM):
            yield server


@contextmanager
def _stop_after(server: ServerProcess, stop_signal: int = signal.SIGINT) -> Iterator[ServerProcess]:
    try:
        yield server
    finally:
        server.stop(stop_signal)


def _memory_folder() -> str | None:
    """A folder in memory, where syncing costs nothing; None if there is none with room."""
    folder = Path("/dev/shm")
    return str(folder) if folder.is_dir() and shutil.disk_usage(folder).free > 2**31 else None


def _find_postgres_program(name: str) -> str:
    """Debian keeps the server's programs out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
    if path is None:
        pytest.skip("PostgreSQL's server is missing: apt-get install postgresql")
    return path


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to be run by root: then the user it made, or nobody."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
