"""Faults between this program and a cloud: retried where that is safe, else one `StoreError`, without
partial blobs and without secrets in messages.
"""

import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

import pytest

from ouroboros.domain.errors import NotFound, StoreError
from ouroboros.stores import faults
from ouroboros.stores.blobs import objects
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.open import open_blobs
from tests.stores.blobs.faulty import FaultyProxy, Refusal
from tests.stores.conftest import AZURE_ACCOUNT, AZURE_KEY, GOOGLE_TOKEN

DATA = b"0123456789" * 20_000


class CloudCase(NamedTuple):
    url_fixture: str
    server_fixture: str
    endpoint: str
    secret: str
    refusals: dict[str, Refusal]


CLOUDS = {
    "s3": CloudCase(
        "s3",
        "moto",
        "http://127.0.0.1:{port}",
        "hunter2",
        {
            "expired": Refusal(400, "ExpiredToken", "The provided token has expired."),
            "wrong": Refusal(403, "SignatureDoesNotMatch", "The signature does not match: hunter2"),
            "denied": Refusal(403, "AccessDenied"),
            "gone": Refusal(404, "NoSuchBucket"),
        },
    ),
    "azure": CloudCase(
        "azure",
        "azurite",
        f"http://127.0.0.1:{{port}}/{AZURE_ACCOUNT}",
        AZURE_KEY,
        {
            "expired": Refusal(401, "InvalidAuthenticationInfo", "The token is expired."),
            "wrong": Refusal(403, "AuthenticationFailed", f"The key is not {AZURE_KEY}"),
            "denied": Refusal(403, "AuthorizationPermissionMismatch"),
            "gone": Refusal(404, "ContainerNotFound"),
        },
    ),
    "gs": CloudCase(
        "gcs",
        "google",
        "http://127.0.0.1:{port}",
        GOOGLE_TOKEN,
        {
            "expired": Refusal(401, "AuthenticationRequired", f"Bearer {GOOGLE_TOKEN}"),
            "wrong": Refusal(401, "AuthenticationRequired", f"Bearer {GOOGLE_TOKEN}"),
            "denied": Refusal(403, "AccessDenied"),
            "gone": Refusal(404, "NoSuchBucket"),
        },
    ),
}
ERROR_PATTERNS = {
    "expired": r"expired",
    "wrong": r"credentials are .*wrong",
    "denied": r"access is denied",
    "gone": r"there is no such (bucket|container)",
}


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> CloudCase:
    return CLOUDS[request.param]


@pytest.fixture
def proxy(
    cloud: CloudCase, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyProxy]:
    request.getfixturevalue(cloud.url_fixture)
    server = request.getfixturevalue(cloud.server_fixture)
    with FaultyProxy(server.port, cloud.refusals) as between:
        scheme = "az" if cloud.url_fixture == "azure" else cloud.url_fixture.replace("gcs", "gs")
        variable = objects.CLOUDS[scheme].endpoint
        monkeypatch.setenv(variable, cloud.endpoint.format(port=between.port))
        yield between


@pytest.fixture
def store(proxy: FaultyProxy, cloud: CloudCase, request: pytest.FixtureRequest) -> BlobStore:
    return open_blobs(request.getfixturevalue(cloud.url_fixture))


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between tries, and short ones within the library."""
    monkeypatch.setattr(faults, "_PAUSES", [pause / 1000 for pause in faults._PAUSES])
    short = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=5)}
    monkeypatch.setattr(objects, "_RETRIES", objects._RETRIES | {"backoff": short})


@pytest.mark.parametrize("fault", ["cut", "lost", "500", "503", "slow"])
def test_a_transient_fault_is_retried(
    hurried: None, store: BlobStore, proxy: FaultyProxy, fault: str
) -> None:
    proxy.faults = [fault]
    stored = store.put("a/b", DATA)
    assert stored or fault == "lost"  # then the second try found what the first one had stored
    proxy.faults = [fault]
    assert store.get("a/b") == DATA
    proxy.faults = [fault]
    assert list(store.list()) == ["a/b"]
    proxy.faults = [fault]
    store.delete("a/b")
    assert proxy.faults == []
    assert list(store.list()) == []


def test_an_interrupted_download_is_completed(
    hurried: None, store: BlobStore, proxy: FaultyProxy
) -> None:
    store.put("a/b", DATA)
    proxy.faults = ["half", "half"]
    assert store.get("a/b") == DATA
    assert proxy.faults == []


def test_operations_wait_for_a_server_that_restarts(store: BlobStore, proxy: FaultyProxy) -> None:
    coming = proxy.restart(0.6)
    assert store.put("a/b", DATA) is True
    coming.join()
    coming = proxy.restart(0.6)
    assert store.get("a/b") == DATA
    coming.join()


@pytest.mark.parametrize("refusal", ERROR_PATTERNS)
def test_a_refusal_is_reported_at_once_and_without_the_secret(
    store: BlobStore, proxy: FaultyProxy, cloud: CloudCase, refusal: str
) -> None:
    before = len(proxy.requests)
    proxy.faults = [refusal]
    with pytest.raises(StoreError, match=ERROR_PATTERNS[refusal]) as caught:
        store.put("a/b", DATA)
    assert len(proxy.requests) == before + 1
    assert caught.value.hint
    text = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert cloud.secret not in text
    with pytest.raises(NotFound):
        store.get("a/b")
    assert store.put("a/b", DATA) is True  # the credentials were renewed


@pytest.mark.parametrize(("fault", "words"), [("cut", "cannot be reached"), ("500", "reports an error")])
def test_a_persistent_fault_raises_store_error_and_leaves_nothing(
    hurried: None, store: BlobStore, proxy: FaultyProxy, cloud: CloudCase, fault: str, words: str
) -> None:
    proxy.faults = [fault] * 1000
    with pytest.raises(StoreError, match=words) as caught:
        store.put("a/b", DATA)
    assert cloud.secret not in "".join(traceback.format_exception(caught.value))
    proxy.faults = []
    assert list(store.list()) == []
    assert store.put("a/b", DATA) is True


def test_a_server_that_never_answers_raises_store_error(
    proxy: FaultyProxy, cloud: CloudCase, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_TIMEOUTS", objects._TIMEOUTS | {"timeout": timedelta(seconds=0.3)})
    monkeypatch.setattr(faults, "PATIENCE", 0.5)
    store = open_blobs(request.getfixturevalue(cloud.url_fixture))
    proxy.faults = ["hang"] * 1000
    began = time.monotonic()
    with pytest.raises(StoreError, match="does not answer"):
        store.put("a/b", DATA)
    assert time.monotonic() - began < 5
    proxy.faults = []
    assert list(store.list()) == []


def test_puts_through_faults_leave_one_complete_blob(
    hurried: None, store: BlobStore, proxy: FaultyProxy
) -> None:
    proxy.faults = ["cut", "500", "", "lost", "cut", "503"]
    for number in range(6):
        store.put("a/b", bytes([number]) * 50_000)
    data = store.get("a/b")
    assert data == data[:1] * 50_000
