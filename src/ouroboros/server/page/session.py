"""/v1/session: a browser signs in once with a key, and sends it as a cookie from then on.

An event stream of a browser cannot send an `Authorization` header. The cookie is `HttpOnly`, so that no
script can read it, and `SameSite=Strict`, so that pages of other sites cannot use it.
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ouroboros.registry.threads import in_thread
from ouroboros.server.dependencies import KEY_COOKIE, ReadCaller, ServiceDep
from ouroboros.server.keys import Caller, find_caller

router = APIRouter(prefix="/v1/session", tags=["Page"])

COOKIE_SECONDS = 30 * 86400


class SessionBody(BaseModel):
    """The key to sign in with."""

    model_config = ConfigDict(extra="forbid")
    key: str = Field(min_length=1, max_length=512)


@router.get("")
async def get_session(service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """Who is asking, and what they may do. 401 without a key, where the server has keys."""
    return _describe_caller(caller, keyless=service.keyless)


@router.post("")
async def create_session(
    body: SessionBody, request: Request, response: Response, service: ServiceDep
) -> dict[str, Any]:
    """Sign in: the key becomes a cookie that no script can read. 401 for a key that is not valid."""
    caller = await in_thread(find_caller, service.records, f"Bearer {body.key.strip()}")
    response.set_cookie(
        KEY_COOKIE,
        body.key.strip(),
        max_age=COOKIE_SECONDS,
        path=_cookie_path(request),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return _describe_caller(caller, keyless=service.keyless)


@router.delete("")
async def delete_session(request: Request, response: Response) -> dict[str, Any]:
    """Sign out: the browser forgets the key. The key itself stays valid."""
    response.delete_cookie(KEY_COOKIE, path=_cookie_path(request))
    return {"object": "session", "deleted": True}


def _cookie_path(request: Request) -> str:
    return request.scope.get("root_path", "").rstrip("/") + "/"


def _describe_caller(caller: Caller, *, keyless: bool) -> dict[str, Any]:
    return {
        "object": "session",
        "keyless": keyless,
        "key": caller.key,
        "tenant": caller.tenant,
        "scopes": list(caller.scopes),
        "adapters": list(caller.adapters),
    }
