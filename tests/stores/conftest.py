"""Servers that are started when the first test asks for one, and stopped at the end."""

import base64
import hmac
import itertools
import urllib.request
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from types import MappingProxyType

import pytest

from ouroboros.testing import servers
from ouroboros.testing.servers import ServerProcess

BUCKET = "mine"
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (  # azurite's, the same for everybody
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
GOOGLE_TOKEN = "hunter2"

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[ServerProcess]:
    with servers.run_postgres() as server:
        yield server


@pytest.fixture
def database(postgres: ServerProcess) -> str:
    """The URL of a new, empty database."""
    import psycopg

    name = f"test{next(_numbers)}"
    where = f"postgresql://postgres@127.0.0.1:{postgres.port}"
    with psycopg.connect(f"{where}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{where}/{name}"


@pytest.fixture(scope="session")
def moto() -> Iterator[ServerProcess]:
    with servers.run_moto() as server:
        _send(server, f"/{BUCKET}")
        yield server


@pytest.fixture
def s3(moto: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix in the S3 emulator."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{moto.port}")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    return f"s3://{BUCKET}/test{next(_numbers)}"


@pytest.fixture(scope="session")
def azurite() -> Iterator[ServerProcess]:
    with servers.run_azurite() as server:
        path, query = f"/{AZURE_ACCOUNT}/{BUCKET}", "restype=container"
        _send(server, f"{path}?{query}", _sign_request(path, query.replace("=", ":")))
        yield server


@pytest.fixture
def azure(azurite: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix in the Azure emulator."""
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{azurite.port}/{AZURE_ACCOUNT}")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY)
    return f"az://{BUCKET}/test{next(_numbers)}"


@pytest.fixture(scope="session")
def google() -> Iterator[ServerProcess]:
    with servers.run_gcs(BUCKET, GOOGLE_TOKEN) as server:
        yield server


@pytest.fixture
def gcs(google: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix in the Google emulator."""
    monkeypatch.setenv("GOOGLE_BASE_URL", f"http://127.0.0.1:{google.port}")
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", GOOGLE_TOKEN)
    return f"gs://{BUCKET}/test{next(_numbers)}"


def _send(server: ServerProcess, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
    where = f"http://127.0.0.1:{server.port}{path}"
    request = urllib.request.Request(where, method="PUT", headers={"Content-Length": "0", **headers})
    urllib.request.urlopen(request).close()


def _sign_request(path: str, query: str) -> dict[str, str]:
    """Azure's shared key signature of an empty PUT."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    named = "".join(f"{name}:{value}\n" for name, value in headers.items())
    text = "PUT" + "\n" * 12 + f"{named}/{AZURE_ACCOUNT}{path}\n{query}"
    digest = hmac.digest(base64.b64decode(AZURE_KEY), text.encode(), "sha256")
    return headers | {"Authorization": f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"}
