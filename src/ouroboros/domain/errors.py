"""Every error a user can meet: what happened, why, and what to do next.

The tree::

    OuroborosError
      InvalidInput        the caller's value is wrong; nothing was changed
        InvalidConfig     a rank, rate, step count ... out of range
        InvalidExample    a training row or feedback event that cannot be learned from
        InvalidName       an adapter name or reference nobody can address
        InvalidFile       a malformed line or file the user gave
        InvalidAdapter    adapter files that are damaged, unsafe or of a kind not supported
        TooLong           a row or prompt that does not fit the model's context
        TooLarge          an adapter over the size limit
        UnknownTarget     target_modules that match nothing in the model
      NotFound            no such adapter, version or completion
      AlreadyExists       the name is taken
      Conflict            somebody else moved it first
      BaseMismatch        the adapter was made for another base model
      ModelError          the base model cannot be loaded
      StoreError          the store is full, unwritable, damaged or newer than this program
      Cancelled           the caller asked to stop; nothing was changed
      TrainingFailed      the loss or a gradient stopped being finite
      Refused             the new version would have been worse at what the adapter knows
      BackendError        the backend broke
      OutOfMemory         a model, a training or an answer needs more memory than is free
      MissingExtra        an optional library is not installed
      OutputError         the work is done, but its result cannot be written

Inside the program these are raised; the engine hands them out as ``Err`` (see `result`).
`STATUS` is the one table from code to HTTP status and command-line exit code.
"""

from typing import ClassVar, NamedTuple


class OuroborosError(Exception):
    """Root of the tree. `code` is stable and machine-readable; `hint` is the next step to take."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self):
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[OuroborosError], message: str, hint: str) -> OuroborosError:
    return kind(message, hint=hint)


class InvalidInput(OuroborosError):
    code = "invalid_input"


class InvalidConfig(InvalidInput):
    code = "invalid_config"


class InvalidExample(InvalidInput):
    code = "invalid_example"


class InvalidName(InvalidInput):
    code = "invalid_name"


class InvalidFile(InvalidInput):
    code = "invalid_file"


class InvalidAdapter(InvalidInput):
    code = "invalid_adapter"


class TooLong(InvalidInput):
    code = "too_long"


class TooLarge(InvalidInput):
    code = "too_large"


class UnknownTarget(InvalidInput):
    code = "unknown_target"


class NotFound(OuroborosError):
    code = "not_found"


class AlreadyExists(OuroborosError):
    code = "already_exists"


class Conflict(OuroborosError):
    code = "conflict"


class BaseMismatch(OuroborosError):
    code = "base_mismatch"


class ModelError(OuroborosError):
    code = "model_error"


class StoreError(OuroborosError):
    code = "store_error"


class Cancelled(OuroborosError):
    code = "cancelled"


class TrainingFailed(OuroborosError):
    code = "training_failed"


class Refused(OuroborosError):
    code = "refused"


class BackendError(OuroborosError):
    code = "backend_error"


class OutOfMemory(OuroborosError):
    code = "out_of_memory"


class MissingExtra(OuroborosError):
    code = "missing_extra"


class OutputError(OuroborosError):
    code = "output_error"


def explain_system_error(error: Exception) -> OuroborosError | None:
    """Returns our error for an exception that the system or a value caused; None if it is a bug."""
    match error:
        case MemoryError():
            return OutOfMemory("Memory ran out.", hint="See: ouroboros plan")
        case OSError():
            use = "an operation" if error.filename is None else f"to use {error.filename}"
            return StoreError(
                f"The system refused {use}: {error.strerror or error}.",
                hint="Check permissions, free space and the limits of this account.",
            )
        case UnicodeError():
            return InvalidInput(
                "A text cannot be written as UTF-8.", hint="Check the text and the terminal's encoding."
            )
        case OverflowError():
            return InvalidInput(f"A number is too large: {error}.", hint="Give a smaller number.")
    return None


class Status(NamedTuple):
    """Where an error code surfaces."""

    http: int
    exit: int


STATUS: dict[str, Status] = {
    "internal": Status(500, 1),
    "invalid_input": Status(400, 2),
    "invalid_config": Status(400, 2),
    "invalid_example": Status(400, 2),
    "invalid_name": Status(400, 2),
    "invalid_file": Status(400, 2),
    "invalid_adapter": Status(400, 2),
    "too_long": Status(413, 2),
    "too_large": Status(413, 2),
    "unknown_target": Status(400, 2),
    "not_found": Status(404, 3),
    "already_exists": Status(409, 4),
    "conflict": Status(409, 4),
    "base_mismatch": Status(409, 5),
    "model_error": Status(500, 6),
    "store_error": Status(503, 7),
    "cancelled": Status(499, 130),
    "training_failed": Status(500, 8),
    "refused": Status(422, 11),
    "backend_error": Status(500, 9),
    "out_of_memory": Status(503, 12),
    "missing_extra": Status(501, 10),
    "output_error": Status(500, 13),
}
