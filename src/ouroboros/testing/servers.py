"""Servers for tests and benchmarks, each in a process of its own on a free port of 127.0.0.1."""

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
    """A server process that listens on `port` and can be killed and restarted.

    It is ready when it accepts connections and the command `probe`, if given, succeeds.
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
        """Start the server and wait until it is ready.

        It is restarted if it exits, because the children of a killed server hold its port for a while.
        """
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
        """Stop the server: `SIGINT` lets it finish its work, `SIGKILL` does not."""
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
    """Return a port of this machine that no program listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def run_postgres() -> Iterator[ServerProcess]:
    """Run a temporary PostgreSQL cluster, owned by the user `postgres` without a password."""
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
        with _stop_after(server, signal.SIGQUIT):  # its data is not needed any more
            yield server
    finally:
        shutil.rmtree(folder)


@contextmanager
def run_moto() -> Iterator[ServerProcess]:
    """Run moto, an emulator of Amazon S3."""
    pytest.importorskip("moto.server", reason="the S3 emulator is missing: pip install 'moto[s3]' flask")
    code = "import sys; from moto.server import main; main(sys.argv[1:])"
    port = free_port()
    command = [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(port)]
    with _stop_after(ServerProcess(command, port)) as server:
        yield server


@contextmanager
def run_azurite() -> Iterator[ServerProcess]:
    """Run azurite, Microsoft's emulator of Azure blob storage."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("the Azure emulator is missing: npm install --global azurite")
    port = free_port()
    options = "--inMemoryPersistence --silent --disableTelemetry --skipApiVersionCheck"
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options.split()]
    with _stop_after(ServerProcess(command, port)) as server:
        yield server


@contextmanager
def run_gcs(bucket: str, token: str) -> Iterator[ServerProcess]:
    """Run `ouroboros.testing.gcs`, an emulator of Google Cloud Storage with one bucket and token."""
    port = free_port()
    program = str(Path(__file__).with_name("gcs.py"))
    command = [sys.executable, program, str(port), bucket, token]
    with _stop_after(ServerProcess(command, port)) as server:
        yield server


@contextmanager
def run_qdrant(api_key: str = "") -> Iterator[ServerProcess]:
    """Run `ouroboros.testing.qdrant`, an emulator on Qdrant's own embedded engine."""
    pytest.importorskip(
        "qdrant_edge", reason="the Qdrant emulator is missing: pip install qdrant-edge-py"
    )
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
    """A folder in memory, where syncing is free; None if there is none with enough space."""
    folder = Path("/dev/shm")
    return str(folder) if folder.is_dir() and shutil.disk_usage(folder).free > 2**31 else None


def _find_postgres_program(name: str) -> str:
    """Find a program of the server, which Debian installs outside the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
    if path is None:
        pytest.skip("PostgreSQL's server is missing: apt-get install postgresql")
    return path


def _unprivileged_user() -> str | None:
    """The user for PostgreSQL, which refuses to run as root: `postgres` or `nobody`; else None."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
