"""Errors in OpenAI's format, with statuses from the one table in `domain.errors`."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ouroboros.domain.errors import STATUS, OuroborosError

logger = logging.getLogger("ouroboros.server")

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_HTTP_CODES = {
    400: "invalid_body",
    404: "not_found",
    405: "method_not_allowed",
    408: "slow_body",
    413: "too_large",
}
_RETRYABLE = (408, 429, 503)
"""Statuses of errors that may heal by themselves. A client repeats no other request."""


class RequestError(Exception):
    """A request that the server refuses itself, before any verb of the engine runs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after


def unsupported_parameter(name: str, why: str) -> RequestError:
    """The error for a parameter whose value would change the answer and that this server cannot obey."""
    return RequestError(400, why, code="unsupported_parameter", param=name)


def error_body(
    status: int, message: str, code: str | None, param: str | None = None
) -> dict[str, dict[str, str | None]]:
    """The JSON of an error, as it stands in a response's body and in a stream."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def describe_error(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status and body for any error that a handler raised. Unknown ones are bugs: 500."""
    if isinstance(error, RequestError):
        return error.status, error_body(error.status, error.message, error.code, error.param)
    if isinstance(error, OuroborosError):
        status = STATUS[error.code].http
        return status, error_body(status, str(error), error.code)
    return 500, error_body(
        500, "The server made an error. It is logged with this request's id.", "internal"
    )


def error_response(error: Exception) -> JSONResponse:
    """The response for an error. `x-should-retry` tells the client whether repeating it can help."""
    status, body = describe_error(error)
    headers = retry_headers(status, getattr(error, "retry_after", None))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body, status, headers)


def retry_headers(status: int, retry_after: float | None = None) -> dict[str, str]:
    """Headers by which OpenAI's clients decide whether and when they repeat a request."""
    retryable = status in _RETRYABLE
    headers = {"x-should-retry": "true" if retryable else "false"}
    if retryable:
        seconds = 1.0 if retry_after is None else retry_after
        headers["retry-after"] = str(math.ceil(seconds))
        headers["retry-after-ms"] = str(math.ceil(seconds * 1000))
    return headers


def install_error_handlers(app: FastAPI) -> None:
    """Let every error of `app`, also those of FastAPI itself, leave in OpenAI's format."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        return error_response(error)

    async def handle_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(_from_validation(error.errors()[0]))

    async def handle_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _HTTP_CODES.get(error.status_code)
        body = error_body(error.status_code, str(error.detail), code)
        headers = {**(error.headers or {}), **retry_headers(error.status_code)}
        return JSONResponse(body, error.status_code, headers)

    async def handle_bug(request: Request, error: Exception) -> JSONResponse:
        logger.exception("request failed", exc_info=error)
        return error_response(error)

    app.add_exception_handler(RequestError, handle)
    app.add_exception_handler(OuroborosError, handle)
    app.add_exception_handler(RequestValidationError, handle_validation)
    app.add_exception_handler(HTTPException, handle_http)
    app.add_exception_handler(Exception, handle_bug)


def _from_validation(problem: Mapping[str, Any]) -> RequestError:
    """A body or query that does not have the documented fields: 400, with the path of the first."""
    where = [str(part) for part in problem["loc"][1:]]
    # A union's member is part of pydantic's path and says nothing to the caller.
    path = ".".join(part for part in where if not part.startswith(("list[", "str", "function-")))
    if problem["type"] == "json_invalid":
        return RequestError(
            400, f"The body is not JSON: {problem['ctx']['error']}.", code="invalid_json"
        )
    if problem["type"] == "extra_forbidden":
        return RequestError(
            400, f"There is no parameter {path!r}.", code="unknown_parameter", param=path or None
        )
    message = f"{path or 'The body'}: {problem['msg']}."
    return RequestError(400, message, code="invalid_value", param=path or None)
