"""Tenants and API keys between messages and the domain."""

from __future__ import annotations

from dataclasses import replace

from google.protobuf import json_format

from recsvc.domain.errors import InvalidField, InvalidFilter
from recsvc.domain.filters import ITEM_FIELDS, parse
from recsvc.domain.tenancy import ApiKey, Tenant, TenantSettings
from recsvc.gen.v1 import admin_service_pb2 as pb
from recsvc.gen.v1 import recommendation_service_pb2
from recsvc.rpc.convert.recommendations import item_fields
from recsvc.rpc.convert.tenant_settings import settings_proto
from recsvc.rpc.convert.values import mask_paths, timestamp

_TENANT_FIELDS = ("display_name", "settings")


def settings(message: pb.TenantSettings) -> TenantSettings:
    """The settings to store. Raises InvalidField and InvalidFilter for what could not be served or kept."""
    if message.HasField("attribute_schema"):
        raise InvalidField("tenant.settings.attribute_schema", "is changed by CatalogService.UpdateAttributeSchema")
    _check_options(message.defaults, "tenant.settings.defaults")
    for name, options in message.placements.items():
        if "\x00" in name:
            raise InvalidField("tenant.settings.placements", "names must not contain the character NUL")
        _check_options(options, f'tenant.settings.placements["{name}"]')
    try:
        return TenantSettings(json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None))
    except json_format.SerializeToJsonError as error:
        raise InvalidField("tenant.settings", "holds a malformed duration") from error


def tenant_change(request: pb.UpdateTenantRequest, present: Tenant) -> Tenant:
    """The tenant after the update. Raises InvalidUpdateMask and InvalidField."""
    message = request.tenant
    if request.HasField("update_mask"):
        paths = mask_paths(request.update_mask, _TENANT_FIELDS, nested="settings")
    else:
        paths = tuple(path for path in _TENANT_FIELDS if message.HasField("settings") or path != "settings")
        paths = tuple(path for path in paths if path != "display_name" or message.display_name)
    changed = present
    if "display_name" in paths:
        changed = replace(changed, display_name=message.display_name)
    if "settings" in paths:
        return replace(changed, settings=settings(message.settings))
    nested = [path.removeprefix("settings.") for path in paths if path.startswith("settings.")]
    if nested:
        merged = settings_proto(present.settings)
        for name in nested:
            _copy_field(message.settings, merged, name)
        changed = replace(changed, settings=settings(merged))
    return changed


def tenant_proto(source: Tenant) -> pb.Tenant:
    """The message for a tenant."""
    return pb.Tenant(
        tenant_id=source.tenant_id,
        display_name=source.display_name,
        settings=settings_proto(source.settings),
        create_time=timestamp(source.create_time),
        update_time=timestamp(source.update_time),
    )


def api_key_proto(source: ApiKey) -> pb.ApiKey:
    """The message for a key, which has no place for a secret."""
    return pb.ApiKey(
        key_id=source.key_id,
        display_name=source.display_name,
        scopes=sorted(scope.value for scope in source.scopes),
        create_time=timestamp(source.create_time),
        expire_time=timestamp(source.expire_time),
        revoke_time=timestamp(source.revoke_time),
        last_used_time=timestamp(source.last_used_time),
    )


def _copy_field(source: pb.TenantSettings, target: pb.TenantSettings, name: str) -> None:
    if name not in pb.TenantSettings.DESCRIPTOR.fields_by_name:
        raise InvalidField("update_mask", f"settings have no field {name!r}")
    alone = pb.TenantSettings()
    alone.CopyFrom(source)
    for field in pb.TenantSettings.DESCRIPTOR.fields:
        if field.name != name:
            alone.ClearField(field.name)  # type: ignore[arg-type]
    target.ClearField(name)  # type: ignore[arg-type]
    target.MergeFrom(alone)


def _check_options(options: recommendation_service_pb2.RecommendOptions, path: str) -> None:
    item_fields(options.item_mask, f"{path}.item_mask")
    named = [(f"{path}.filter", options.filter)]
    named += [(f"{path}.boosts[{index}].filter", boost.filter) for index, boost in enumerate(options.boosts)]
    for field, text in named:
        try:
            parse(text, ITEM_FIELDS)
        except InvalidFilter as error:
            raise error.at_field(field) from None
