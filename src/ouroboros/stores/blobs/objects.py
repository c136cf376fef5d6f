"""Blobs in object storage, through obstore: Amazon S3, Google Cloud Storage and Azure."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ouroboros.domain.errors import InvalidInput, MissingExtra, NotFound, StoreError
from ouroboros.stores.blobs.base import check_key
from ouroboros.stores.faults import retry

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_RETRIES: Any = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=4)},
}
"""obstore's own retries, of 5xx responses and interrupted reads."""


_TIMEOUTS: Any = {"connect_timeout": timedelta(seconds=10), "timeout": timedelta(seconds=120)}
"""For connecting, and for one request with its response: 10 MiB at less than one Mbit per second."""


class CloudScheme(NamedTuple):
    """A URL scheme: its form, and the environment variable that selects another server."""

    url_form: str
    endpoint: str


CLOUDS = {
    "s3": CloudScheme("s3://BUCKET/PREFIX", "AWS_ENDPOINT_URL"),
    "gs": CloudScheme("gs://BUCKET/PREFIX", "GOOGLE_BASE_URL"),
    "az": CloudScheme("az://CONTAINER/PREFIX", "AZURE_STORAGE_ENDPOINT"),
}


class ObjectBlobs:
    """Objects under a prefix of one bucket.

    `put` is a conditional write that the cloud decides. It is retried when the connection breaks. If the
    first attempt did arrive, the second one finds the blob, and `put` returns False for a blob that this
    call stored. This is the one guarantee that is weaker than in other stores.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._store = _open_store(url)
        with self._convert_errors("reach the bucket of"):
            next(iter(self._store.list()), None)

    def put(self, key: str, data: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError

        check_key(key)
        with self._convert_errors(f"store {key} in"):
            try:
                retry(lambda: self._store.put(key, data, mode="create"), _is_connection_error)
            except AlreadyExistsError:
                return False
        return True

    def get(self, key: str) -> bytes:
        check_key(key)
        with self._convert_errors(f"read {key} from"):
            try:
                return retry(lambda: bytes(self._store.get(key).bytes()), _is_connection_error)
            except FileNotFoundError:
                raise NotFound(
                    f"There is no blob {key}.", hint="It was deleted, or never stored."
                ) from None

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys in order. They are sorted here, because not every cloud lists them sorted."""
        folder = prefix.rpartition("/")[0]
        if folder:
            check_key(folder)
        with self._convert_errors("list"):
            paths = retry(lambda: _list_paths(self._store, folder), _is_connection_error)
        yield from sorted(path for path in paths if path.startswith(prefix))

    def delete(self, key: str) -> None:
        check_key(key)
        with self._convert_errors(f"delete {key} from"):
            try:
                retry(lambda: self._store.delete(key), _is_connection_error)
            except FileNotFoundError:
                return

    def remove_drafts(self) -> int:
        """An incomplete upload is invisible, and the service's lifecycle rules remove it."""
        return 0

    def close(self) -> None:
        """Connections close by themselves."""

    @contextmanager
    def _convert_errors(self, action: str) -> Iterator[None]:
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            yield
        except AlreadyExistsError:
            raise
        except (BaseError, OSError) as error:
            reason, hint = _explain_error(error)
            raise StoreError(f"Could not {action} {self._url}: {reason}.", hint=hint) from None


def custom_endpoint(url: str) -> str:
    """The server that the environment names instead of the cloud's own; empty if it names none."""
    return os.environ.get(CLOUDS[url.partition("://")[0]].endpoint, "")


def _list_paths(store: "ObjectStore", folder: str) -> list[str]:
    return [item["path"] for page in store.list(folder or None) for item in page]


def _open_store(url: str) -> "ObjectStore":
    if importlib.util.find_spec("obstore") is None:
        raise MissingExtra(
            "A store in a cloud needs obstore, which is not installed here.",
            hint="Install it with: pip install 'ouroboros-learning[cloud]'",
        )
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    scheme, _, location = url.partition("://")
    cloud = CLOUDS[scheme]
    bucket = location.partition("/")[0]
    if not bucket or any(c in location for c in "@?#"):
        raise InvalidInput(
            "The URL of the blob store cannot be read: it has a bucket and a prefix, and no secret.",
            hint=f"It looks like: {cloud.url_form}",
        )
    uses_http = custom_endpoint(url).startswith("http://")
    client_options = _TIMEOUTS | ({"allow_http": True} if uses_http else {})
    options: dict[str, Any] = {"retry_config": _RETRIES, "client_options": client_options}
    options |= {"credential_provider": provider} if (provider := _load_aws_profile(scheme)) else {}
    try:
        return from_url(url, **options)
    except (BaseError, ValueError, OSError) as error:
        reason, hint = _explain_error(error)
        raise StoreError(f"Could not open {url}: {reason}.", hint=hint) from None


def _load_aws_profile(scheme: str) -> Any:
    """boto3's credentials (profiles, single sign-on), if they exist and the environment has no key."""
    access_key = os.environ.get("AWS_ACCESS_KEY_ID")
    files = (Path("~/.aws") / name for name in ("credentials", "config"))
    if scheme != "s3" or access_key or not any(f.expanduser().is_file() for f in files):
        return None
    if importlib.util.find_spec("boto3") is None:
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider()


def _is_connection_error(error: Exception) -> bool:
    """Whether the connection failed before a complete response. A complete response is final."""
    phrases = ("error sending request", "connection", "timed out", "error decoding response body")
    return type(error).__name__ == "GenericError" and any(w in str(error).lower() for w in phrases)


_EXPIRED = ("the credentials have expired", "Renew them, then try again.")
_NO_ANSWER = ("the server does not answer", "Check the connection, then try again.")
_EXPLANATIONS = {
    "NoSuchBucket": ("there is no such bucket", "Create it first, or correct its name."),
    "bucket does not exist": ("there is no such bucket", "Create it first, or correct its name."),
    "ContainerNotFound": ("there is no such container", "Create it first, or correct its name."),
    "ExpiredToken": _EXPIRED,
    "token is expired": _EXPIRED,
    "not valid in the specified time frame": _EXPIRED,
    "InvalidAccessKeyId": ("the credentials are unknown", "Check this cloud's variables or profile."),
    "SignatureDoesNotMatch": ("the credentials are wrong", "Check this cloud's variables or profile."),
    "AuthenticationFailed": ("the credentials are wrong", "Check this cloud's variables or profile."),
    "AccessDenied": ("access is denied", "Allow these credentials to read, write, list and delete."),
    "403 Forbidden": ("access is denied", "Check the credentials and their permissions."),
    "401 Unauthorized": (
        "the credentials are missing, wrong or expired",
        "Check this cloud's variables or profile.",
    ),
    "169.254.169.254": ("no credentials were found", "Set this cloud's variables, or a profile."),
    "metadata.google": ("no credentials were found", "Set this cloud's variables, or a profile."),
    "credential": ("the credentials cannot be used", "Check this cloud's variables or profile."),
    "timed out": _NO_ANSWER,
    "kind: Timeout": _NO_ANSWER,
    "error sending request": (
        "the server cannot be reached",
        "Check the connection and the region, then try again.",
    ),
    "status code: 5": ("the cloud itself reports an error", "Try again later."),
}


def _explain_error(error: Exception) -> tuple[str, str]:
    """The reason and a hint. The library's text is not repeated, because it may contain credentials."""
    text = str(error)
    for phrase, explanation in _EXPLANATIONS.items():
        if phrase in text:
            return explanation
    return (
        "the cloud refused the request",
        f"It reported {type(error).__name__}. Check the bucket and its permissions.",
    )
