"""Whatever goes wrong on the way to any cloud: tried again where that is safe, one clear error where it
is not, nothing half-visible, and no secret said.
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
from tests.stores.blobs.faulty import Faulty, Refusal
from tests.stores.conftest import AZURE_ACCOUNT, AZURE_KEY, GOOGLE_TOKEN

DATA = b"0123456789" * 20_000


class Cloud(NamedTuple):
    place: str
    server: str
    endpoint: str
    secret: str
    refusals: dict[str, Refusal]


CLOUDS = {
    "s3": Cloud(
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
    "azure": Cloud(
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
    "gs": Cloud(
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
SAID = {
    "expired": r"expired",
    "wrong": r"credentials are .*wrong",
    "denied": r"access is denied",
    "gone": r"there is no such (bucket|container)",
}


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> Cloud:
    return CLOUDS[request.param]


@pytest.fixture
def way(
    cloud: Cloud, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Faulty]:
    request.getfixturevalue(cloud.place)
    server = request.getfixturevalue(cloud.server)
    with Faulty(server.port, cloud.refusals) as between:
        scheme = "az" if cloud.place == "azure" else cloud.place.replace("gcs", "gs")
        variable = objects.CLOUDS[scheme].endpoint
        monkeypatch.setenv(variable, cloud.endpoint.format(port=between.port))
        yield between


@pytest.fixture
def store(way: Faulty, cloud: Cloud, request: pytest.FixtureRequest) -> BlobStore:
    return open_blobs(request.getfixturevalue(cloud.place))


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between tries, and short ones within the library."""
    monkeypatch.setattr(faults, "_PAUSES", [pause / 1000 for pause in faults._PAUSES])
    short = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=5)}
    monkeypatch.setattr(objects, "_RETRIES", objects._RETRIES | {"backoff": short})


@pytest.mark.parametrize("fault", ["cut", "lost", "500", "503", "slow"])
def test_a_passing_fault_is_tried_again(
    hurried: None, store: BlobStore, way: Faulty, fault: str
) -> None:
    way.next = [fault]
    stored = store.put("a/b", DATA)
    assert stored or fault == "lost"  # then the second try found what the first one had stored
    way.next = [fault]
    assert store.get("a/b") == DATA
    way.next = [fault]
    assert list(store.list()) == ["a/b"]
    way.next = [fault]
    store.delete("a/b")
    assert way.next == []
    assert list(store.list()) == []


def test_a_download_that_breaks_off_is_whole_in_the_end(
    hurried: None, store: BlobStore, way: Faulty
) -> None:
    store.put("a/b", DATA)
    way.next = ["half", "half"]
    assert store.get("a/b") == DATA
    assert way.next == []


def test_a_server_that_restarts_is_waited_for(store: BlobStore, way: Faulty) -> None:
    coming = way.restart(0.6)
    assert store.put("a/b", DATA) is True
    coming.join()
    coming = way.restart(0.6)
    assert store.get("a/b") == DATA
    coming.join()


@pytest.mark.parametrize("refusal", SAID)
def test_what_the_cloud_refuses_is_said_at_once_and_without_the_secret(
    store: BlobStore, way: Faulty, cloud: Cloud, refusal: str
) -> None:
    before = len(way.seen)
    way.next = [refusal]
    with pytest.raises(StoreError, match=SAID[refusal]) as caught:
        store.put("a/b", DATA)
    assert len(way.seen) == before + 1
    assert caught.value.hint
    said = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert cloud.secret not in said
    with pytest.raises(NotFound):
        store.get("a/b")
    assert store.put("a/b", DATA) is True  # the credentials were renewed


@pytest.mark.parametrize(("fault", "words"), [("cut", "cannot be reached"), ("500", "reports an error")])
def test_a_fault_that_stays_is_one_clear_error_and_leaves_nothing(
    hurried: None, store: BlobStore, way: Faulty, cloud: Cloud, fault: str, words: str
) -> None:
    way.next = [fault] * 1000
    with pytest.raises(StoreError, match=words) as caught:
        store.put("a/b", DATA)
    assert cloud.secret not in "".join(traceback.format_exception(caught.value))
    way.next = []
    assert list(store.list()) == []
    assert store.put("a/b", DATA) is True


def test_a_server_that_never_answers_is_one_clear_error(
    way: Faulty, cloud: Cloud, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_TIMEOUTS", objects._TIMEOUTS | {"timeout": timedelta(seconds=0.3)})
    monkeypatch.setattr(faults, "PATIENCE", 0.5)
    store = open_blobs(request.getfixturevalue(cloud.place))
    way.next = ["hang"] * 1000
    began = time.monotonic()
    with pytest.raises(StoreError, match="does not answer"):
        store.put("a/b", DATA)
    assert time.monotonic() - began < 5
    way.next = []
    assert list(store.list()) == []


def test_of_many_that_put_through_faults_one_blob_is_whole(
    hurried: None, store: BlobStore, way: Faulty
) -> None:
    way.next = ["cut", "500", "", "lost", "cut", "503"]
    for number in range(6):
        store.put("a/b", bytes([number]) * 50_000)
    data = store.get("a/b")
    assert data == data[:1] * 50_000
