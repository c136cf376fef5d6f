"""/metrics and /v1/audit: what the server does, and who changed what."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse

from ouroboros.registry.threads import in_thread
from ouroboros.server.dependencies import AdminCaller, ReadCaller, ServiceDep

router = APIRouter(tags=["Operation"])


@router.get("/metrics")
async def get_metrics(service: ServiceDep, caller: ReadCaller) -> PlainTextResponse:
    """Counters, durations and gauges for Prometheus."""
    lines = service.metrics.lines(service.active, service.limits.requests)
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


@router.get("/v1/audit")
async def list_audit(
    service: ServiceDep,
    caller: AdminCaller,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
) -> dict[str, Any]:
    """Who changed what, the newest first, within the caller's tenant."""
    entries = await in_thread(service.records.audit_log)
    visible = [entry for entry in reversed(entries) if entry["tenant"] == caller.tenant]
    return {"object": "list", "data": visible[:limit], "has_more": len(visible) > limit}
