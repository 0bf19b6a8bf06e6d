"""A tenant's settings as the message that their document is of: the one place where the document is read."""

from __future__ import annotations

from google.protobuf import json_format

from recsvc.domain.tenancy import TenantSettings
from recsvc.gen.v1 import admin_service_pb2 as pb


def settings_proto(settings: TenantSettings) -> pb.TenantSettings:
    """A message of the caller's own; fields that a later version of the service has written are left out."""
    return json_format.Parse(settings.document, pb.TenantSettings(), ignore_unknown_fields=True)
