"""Checks that the values of `domain` share.

Each raises `InvalidConfig` or does nothing; `validate` turns that into a `Result`.
"""

import difflib
from collections.abc import Callable, Iterable
from typing import TypeVar

from ouroboros.domain.errors import InvalidConfig, OuroborosError
from ouroboros.domain.result import Err, Ok, Result

T = TypeVar("T")


def validate(value: T, check: Callable[[], None]) -> Result[T]:
    """Returns `Ok(value)` if `check` passes, else `Err` with the error that it raised."""
    try:
        check()
    except OuroborosError as error:
        return Err(error)
    return Ok(value)


def check_int(name: str, value: object, low: int, high: int) -> None:
    """Refuse anything but an int in [low, high]; True and 8.0 are not ints here."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidConfig(
            f"{name} is {show_value(value)}.", hint=f"Give a whole number from {low} to {high}."
        )


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Refuse anything but a finite number in [low, high]."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not low <= value <= high  # NaN is not, and a whole number may be too large for a float
    ):
        raise InvalidConfig(
            f"{name} is {show_value(value)}.", hint=f"Give a number from {low} to {high}."
        )


def show_value(value: object) -> str:
    """A value as an error shows it: a whole number of more than 40 digits by its size only."""
    if isinstance(value, int) and value.bit_length() > 130:
        return "a whole number of more than 40 digits"
    return repr(value)


def check_bool(name: str, value: object) -> None:
    """Refuse anything but True or False."""
    if not isinstance(value, bool):
        raise InvalidConfig(f"{name} is {value!r}.", hint="Give true or false.")


def suggest_nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word closest to a mistyped one, or lists all of them."""
    words = list(known)
    closest = difflib.get_close_matches(name, words, n=1)
    return f"Did you mean {closest[0]}?" if closest else f"Known are {', '.join(words)}."
