"""GET /v1/models: the base, every adapter's head, and "auto"."""

from typing import Any

from fastapi import APIRouter

from ouroboros.domain.names import AUTO_ADAPTER
from ouroboros.domain.records import Version
from ouroboros.registry.threads import in_thread
from ouroboros.server.dependencies import AdminCaller, ReadCaller, ServiceDep
from ouroboros.server.errors import RequestError
from ouroboros.server.service import Service

router = APIRouter(prefix="/v1/models", tags=["OpenAI"])


@router.get("")
async def list_models(service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """Everything that `model` can name, older versions excepted: those are found by their own name."""
    base = await service.base()
    adapters = (await service.engine.list_adapters()).unwrap()
    models = [await _describe_base(service, base.name), await _describe_base(service, AUTO_ADAPTER)]
    for adapter in adapters:
        if caller.sees(adapter.id.name):
            head = (await service.engine.get_version(f"{adapter.id}@{adapter.head}")).unwrap()
            models.append(_describe_version(adapter.id.name, head, base.name))
    return {"object": "list", "data": models}


@router.get("/{model:path}")
async def get_model(model: str, service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """The base, an adapter, or one of its versions (`name@7`)."""
    base = await service.base()
    if model in (base.name, AUTO_ADAPTER):
        return await _describe_base(service, model)
    ref = await service.find_version(model, caller)
    version = (await service.engine.get_version(ref)).unwrap()
    return _describe_version(model, version, base.name)


@router.delete("/{model:path}")
async def delete_model(model: str, service: ServiceDep, caller: AdminCaller) -> dict[str, Any]:
    """Delete an adapter with all its versions and what it was taught."""
    base = await service.base()
    if model in (base.name, AUTO_ADAPTER):
        raise RequestError(400, "The base model cannot be deleted.", code="invalid_value", param="model")
    ref = await service.find_version(model, caller)
    if "@" in model:
        raise RequestError(
            400,
            f"A single version cannot be deleted. Delete the adapter: {ref.adapter}",
            code="invalid_value",
            param="model",
        )
    (await service.engine.delete_adapter(ref.adapter)).unwrap()
    await in_thread(service.records.audit, caller.tenant, caller.key, "adapter.delete", model)
    return {"id": model, "deleted": True, "object": "model"}


async def _describe_base(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "ouroboros", "root": name}


def _describe_version(name: str, version: Version, base: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(version.created_at.timestamp()),
        "owned_by": "ouroboros",
        "root": str(version.ref),
        "parent": base,
    }
