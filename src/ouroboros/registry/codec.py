"""Frozen values to JSON and back: strict types, unknown keys refused."""

from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ouroboros.domain.errors import StoreError
from ouroboros.stores.metadata.base import Json

T = TypeVar("T")


def encode(value: Any) -> Json:
    """A frozen dataclass as JSON."""
    return _adapter(type(value)).dump_python(value, mode="json")


def decode(kind: type[T], data: Json, what: str) -> T:
    """JSON as a frozen dataclass; `StoreError` when it was not written by this program."""
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(
            f"The store's record of {what} cannot be read: {where}: {first['msg']}.",
            hint="It was damaged, or written by a newer version of ouroboros.",
        ) from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(with_config(ConfigDict(extra="forbid"))(kind))
