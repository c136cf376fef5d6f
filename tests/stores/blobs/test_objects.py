"""Each cloud passes the blob store suite: S3 on moto, Azure on azurite, Google on our own emulator.

`TEST_BUCKET` names a place in a real cloud to test as well (s3://..., gs://..., az://...).
"""

import os
import uuid

import pytest

from ouroboros.domain.errors import InvalidInput, MissingExtra, StoreError
from ouroboros.stores.blobs import objects
from ouroboros.stores.blobs.objects import ObjectBlobs
from ouroboros.stores.open import open_blobs
from ouroboros.testing.blobs import SharedBlobStoreSuite

DATA = b"0123456789" * 100_000


class TestS3(SharedBlobStoreSuite):
    @pytest.fixture
    def url(self, s3: str) -> str:
        return s3


class TestAzure(SharedBlobStoreSuite):
    @pytest.fixture
    def url(self, azure: str) -> str:
        return azure


class TestGoogle(SharedBlobStoreSuite):
    @pytest.fixture
    def url(self, gcs: str) -> str:
        return gcs


class TestReal(SharedBlobStoreSuite):
    @pytest.fixture
    def url(self) -> str:
        if not (place := os.environ.get("TEST_BUCKET")):
            pytest.skip("TEST_BUCKET names no real cloud")
        return f"{place}/{uuid.uuid4().hex}"


@pytest.mark.parametrize("cloud", ["s3", "azure", "gcs"])
def test_a_missing_bucket_is_named(cloud: str, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue(cloud)
    scheme = place.partition(":")[0]
    with pytest.raises(StoreError, match=f"reach the bucket of {scheme}://absent: there is no such"):
        open_blobs(f"{scheme}://absent")


@pytest.mark.parametrize(
    ("cloud", "variable"), [("azure", "AZURE_STORAGE_ACCOUNT_KEY"), ("gcs", "GOOGLE_BEARER_TOKEN")]
)
def test_wrong_credentials_are_refused_and_not_shown(
    cloud: str, variable: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = request.getfixturevalue(cloud)
    monkeypatch.setenv(variable, "aHVudGVyMg==")
    with pytest.raises(StoreError, match=r"credentials|denied") as caught:
        open_blobs(place)
    assert "aHVudGVyMg" not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://", "s3://key:hunter2@mine/x", "s3://mine?secret=hunter2"])
def test_a_url_with_a_secret_or_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="no secret") as caught:
        open_blobs(url)
    assert "hunter2" not in str(caught.value)
    assert "s3://BUCKET" in caught.value.hint


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        ObjectBlobs("s3://mine")
    assert "pip install 'ouroboros-learning[cloud]'" in caught.value.hint
