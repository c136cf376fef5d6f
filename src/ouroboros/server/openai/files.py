"""Files: what fine-tuning jobs are trained on, and what came of them."""

import io
import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import Response

from ouroboros.data.examples import parse_examples
from ouroboros.data.feedback import RecordedFeedback, parse_pairs
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import NotFound
from ouroboros.registry.threads import in_thread
from ouroboros.server.dependencies import ReadCaller, ServiceDep, TrainCaller
from ouroboros.server.errors import RequestError
from ouroboros.server.records import ServiceRecords, list_body, new_id, page

router = APIRouter(prefix="/v1/files", tags=["OpenAI"])

PURPOSES = ("fine-tune", "batch", "user_data")


@router.post("")
async def create_file(
    service: ServiceDep,
    caller: TrainCaller,
    file: Annotated[UploadFile, File()],
    purpose: Annotated[str, Form()],
    anchor: Annotated[str | None, Form(alias="expires_after[anchor]")] = None,
    seconds: Annotated[int | None, Form(alias="expires_after[seconds]", ge=3600, le=2_592_000)] = None,
) -> dict[str, Any]:
    """Upload a file. What is in it is checked by the job that reads it."""
    service.require_open()
    if purpose not in PURPOSES:
        raise RequestError(
            400,
            f"The purpose is one of {', '.join(PURPOSES)}.",
            code="invalid_value",
            param="purpose",
        )
    if anchor not in (None, "created_at"):
        raise RequestError(
            400, "The anchor is created_at.", code="invalid_value", param="expires_after.anchor"
        )
    data = await file.read()
    record = await in_thread(
        store_file, service.records, caller.tenant, file.filename or "file", purpose, data, seconds
    )
    return describe_file(record)


@router.get("")
async def list_files(
    service: ServiceDep,
    caller: ReadCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
    purpose: str | None = None,
) -> dict[str, Any]:
    """Files, the newest first."""
    records = await in_thread(service.records.files.all, caller.tenant)
    files = [describe_file(r) for r in records if purpose in (None, r["purpose"]) and not is_expired(r)]
    values, has_more = page(files if order == "asc" else files[::-1], after, limit)
    return list_body(values, has_more)


@router.get("/{id}")
async def get_file(id: str, service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """A file's name, size and purpose."""
    return describe_file(await in_thread(find_file, service.records, id, caller.tenant))


@router.get("/{id}/content")
async def get_file_content(id: str, service: ServiceDep, caller: ReadCaller) -> Response:
    """A file's bytes, as they were uploaded."""
    record = await in_thread(find_file, service.records, id, caller.tenant)
    data = await in_thread(service.records.content, id)
    disposition = f"attachment; filename*=UTF-8''{quote(record['filename'], safe='')}"
    headers = {"content-disposition": disposition}
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.delete("/{id}")
async def delete_file(id: str, service: ServiceDep, caller: TrainCaller) -> dict[str, Any]:
    """Delete a file. Adapters that learned from it keep what they learned."""
    await in_thread(find_file, service.records, id, caller.tenant)
    await in_thread(service.records.files.delete, id)
    await in_thread(service.records.delete_content, id)
    await in_thread(service.records.audit, caller.tenant, caller.key, "file.delete", id)
    return {"id": id, "deleted": True, "object": "file"}


def store_file(
    records: ServiceRecords,
    tenant: str,
    filename: str,
    purpose: str,
    data: bytes,
    seconds: int | None = None,
) -> Mapping[str, Any]:
    """Write content, then record: a crash in between leaves nothing that anybody can name."""
    now = int(time.time())
    record = {
        "id": new_id("file"),
        "tenant": tenant,
        "bytes": len(data),
        "created_at": now,
        # A name is only ever shown: it never becomes part of a path.
        "filename": "".join(c for c in filename if c.isprintable())[:255] or "file",
        "purpose": purpose,
        "expires_at": None if seconds is None else now + seconds,
    }
    records.put_content(record["id"], data)
    return records.files.create(record["id"], record)


def find_file(records: ServiceRecords, id: str, tenant: str) -> Mapping[str, Any]:
    """A file's record. Raises `NotFound`, also for one that has expired."""
    record = records.files.get(id, tenant)
    if is_expired(record):
        records.files.delete(id)
        records.delete_content(id)
        raise NotFound(f"The file {id} has expired.", hint="Upload it anew.")
    return record


def is_expired(record: Mapping[str, Any]) -> bool:
    """Whether the file's lifetime is over."""
    return record["expires_at"] is not None and record["expires_at"] <= time.time()


def describe_file(record: Mapping[str, Any]) -> dict[str, Any]:
    """A file as OpenAI's clients read it."""
    public = {k: v for k, v in record.items() if k != "tenant"}
    return {**public, "object": "file", "status": "processed", "status_details": None}


def read_training_file(records: ServiceRecords, id: str, tenant: str) -> list[TrainingExample]:
    """The examples of a file. Raises `InvalidFile` with its name and the line."""
    record = find_file(records, id, tenant)
    return parse_examples(io.BytesIO(records.content(id)), record["filename"])


def read_preference_file(records: ServiceRecords, id: str, tenant: str) -> list[RecordedFeedback]:
    """The pairs of a file. Raises `InvalidFile` with its name and the line."""
    record = find_file(records, id, tenant)
    return parse_pairs(io.BytesIO(records.content(id)), record["filename"])
