"""Encoding frozen dataclasses as JSON and back: exact types, unknown keys refused."""

from functools import cache
from types import GenericAlias
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_json

from ouroboros.domain.errors import StoreError
from ouroboros.stores.metadata.base import Json

T = TypeVar("T")


def encode(value: Any) -> Json:
    """Encode a frozen dataclass as JSON. Raises `ValueError` if a field holds what its type forbids."""
    return _adapter(type(value)).dump_python([value], mode="json", warnings="error")[0]


def decode(kind: type[T], data: Json, what: str) -> T:
    """Decode JSON as a frozen dataclass; raises `StoreError` if it does not match the class."""
    try:
        return _adapter(kind).validate_json(to_json([data]))[0]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:])) or "it"
        raise StoreError(
            f"The store's record of {what} cannot be read: {where}: {first['msg']}.",
            hint="It was damaged, or written by a newer version of ouroboros.",
        ) from error


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    """Return an adapter for a list of `kind`, as pydantic takes no config for a dataclass itself."""
    listed: Any = GenericAlias(list, (kind,))
    return TypeAdapter(listed, config=ConfigDict(extra="forbid", strict=True))
