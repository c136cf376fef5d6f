"""`Result`: a fallible operation returns `Ok(value)` or `Err(error)` instead of raising.

Both are small frozen classes, for use with ``match``::

    match await engine.create_adapter("tickets"):
        case Ok(adapter): ...
        case Err(error): print(error.code, error)

``.unwrap()`` returns the value, or raises the error. An `Err` is false and an `Ok` is true, whatever its
value, so that type checkers know which one it is after ``if result:``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Never, TypeAlias, TypeVar

from ouroboros.domain.errors import OuroborosError

T = TypeVar("T", covariant=True)
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Ok(Generic[T]):
    """Success, with its value."""

    value: T

    @property
    def ok(self) -> Literal[True]:
        """True."""
        return True

    def __bool__(self) -> Literal[True]:
        return True

    def unwrap(self) -> T:
        """Returns the value."""
        return self.value

    def map(self, function: Callable[[T], U]) -> "Ok[U]":
        """Returns the result of `function` on the value, as `Ok`."""
        return Ok(function(self.value))


@dataclass(frozen=True, slots=True)
class Err:
    """Failure, with an error that has a code, a message and a hint."""

    error: OuroborosError

    @property
    def ok(self) -> Literal[False]:
        """False."""
        return False

    def __bool__(self) -> Literal[False]:
        return False

    def unwrap(self) -> Never:
        """Raises the error."""
        raise self.error

    def map(self, function: Callable[..., object]) -> "Err":
        """Returns the same `Err`; `function` is not called."""
        return self


Result: TypeAlias = Ok[T] | Err
