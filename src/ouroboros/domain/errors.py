"""The errors that a user can meet: each says what happened, why, and what to do next.

The tree::

    OuroborosError
      InvalidInput        an argument is wrong; nothing was changed
        InvalidConfig     a rank, rate, number of steps ... is out of range
        InvalidExample    nothing can be learned from a training row or a judgement
        InvalidName       an adapter's name or a reference to a version is malformed
        InvalidFile       a file that the user gave is malformed, or a line of it
        InvalidAdapter    adapter files are damaged, unsafe or of an unsupported kind
        TooLong           a row or a prompt does not fit the model's context
        TooLarge          the adapter is larger than the size limit
        UnknownTarget     target_modules match no layer of the model
      NotFound            there is no such adapter, version or job
      AlreadyExists       the name is taken
      Conflict            another writer changed it first
      BaseMismatch        the adapter was made for another base model
      ModelError          the base model cannot be loaded
      StoreError          the store is full, unwritable, damaged or newer than this program
      Cancelled           the caller cancelled the work; nothing was changed
      TrainingFailed      the loss or a gradient became infinite or NaN
      Refused             the gate refused a version that is worse at what the adapter knows
      BackendError        the backend failed
      OutOfMemory         a model, a training or an answer needs more memory than is free
      MissingExtra        an optional library is not installed
      OutputError         the work is done, but its result cannot be written

The program raises them inside; the engine returns them as ``Err`` (see `result`). `STATUS` maps every
code to an HTTP status and to an exit code of the command line.
"""

from typing import ClassVar, NamedTuple


class OuroborosError(Exception):
    """The root of the tree. `code` is stable and machine-readable; `hint` says what to do next.

    `details` are lines that say more, such as one for each wrong row of a file.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str = "", details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return "\n  ".join([f"{self.message} {self.hint}".strip(), *self.details])

    def __reduce__(self):
        return _rebuild, (type(self), self.message, self.hint, self.details)


def _rebuild(
    kind: type[OuroborosError], message: str, hint: str, details: tuple[str, ...] = ()
) -> OuroborosError:
    return kind(message, hint=hint, details=details)


class InvalidInput(OuroborosError):
    """An argument is wrong. Nothing was changed."""

    code = "invalid_input"


class InvalidConfig(InvalidInput):
    """A rank, a rate, a number of steps or another setting is out of range."""

    code = "invalid_config"


class InvalidExample(InvalidInput):
    """Nothing can be learned from a training row or a judgement."""

    code = "invalid_example"


class InvalidName(InvalidInput):
    """An adapter's name or a reference to a version is malformed."""

    code = "invalid_name"


class InvalidFile(InvalidInput):
    """A file that the user gave is malformed, or a line of it."""

    code = "invalid_file"


class InvalidAdapter(InvalidInput):
    """The files of an adapter are damaged, unsafe or of an unsupported kind."""

    code = "invalid_adapter"


class TooLong(InvalidInput):
    """A row or a prompt does not fit the model's context."""

    code = "too_long"


class TooLarge(InvalidInput):
    """The adapter is larger than the size limit."""

    code = "too_large"


class UnknownTarget(InvalidInput):
    """`target_modules` match no layer of the model."""

    code = "unknown_target"


class NotFound(OuroborosError):
    """There is no such adapter, version or job."""

    code = "not_found"


class AlreadyExists(OuroborosError):
    """The name is taken."""

    code = "already_exists"


class Conflict(OuroborosError):
    """Another writer changed it first."""

    code = "conflict"


class BaseMismatch(OuroborosError):
    """The adapter was trained on another base model."""

    code = "base_mismatch"


class ModelError(OuroborosError):
    """The base model cannot be loaded."""

    code = "model_error"


class StoreError(OuroborosError):
    """The store is full, unwritable, damaged or newer than this program."""

    code = "store_error"


class Cancelled(OuroborosError):
    """The caller cancelled the work. Nothing was changed."""

    code = "cancelled"


class TrainingFailed(OuroborosError):
    """The loss or a gradient became infinite or NaN."""

    code = "training_failed"


class Refused(OuroborosError):
    """The gate refused a version that is worse at what the adapter knows."""

    code = "refused"


class BackendError(OuroborosError):
    """The backend failed."""

    code = "backend_error"


class OutOfMemory(OuroborosError):
    """A model, a training or an answer needs more memory than is free."""

    code = "out_of_memory"


class MissingExtra(OuroborosError):
    """An optional library is not installed."""

    code = "missing_extra"


class OutputError(OuroborosError):
    """The work is done, but its result cannot be written."""

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
    """The HTTP status and the exit code of an error."""

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
