"""Takes new settings over without a restart, as far as that is safe: the log level, the access log, the service's
default limits, and the times of the drain. What else has changed is named, and waits for a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from pydantic import BaseModel, ValidationError

from recsvc.app import Service
from recsvc.settings import Settings
from recsvc.telemetry.logging import set_level

_log = structlog.get_logger("recsvc")
_SERVER = ("lame_duck_s", "drain_s")


class Reloading:
    """The settings in force, and how they follow those of the environment and the settings file."""

    def __init__(self, service: Service, settings: Settings) -> None:
        """settings: those that the service was started with."""
        self._service = service
        self._settings = settings

    async def when_asked(self, asked: asyncio.Event) -> None:
        """Read the settings anew each time, for ever."""
        while True:
            await asked.wait()
            asked.clear()
            await self.once()

    async def once(self) -> None:
        """Read the settings and take over what may be; invalid ones change nothing."""
        try:
            read = await asyncio.to_thread(Settings)
        except ValidationError as error:
            # Without the values, which may be secrets.
            faults = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
            _log.error("reload.refused", faults=faults)
            return
        except (OSError, ValueError) as error:
            _log.error("reload.refused", faults=[str(error)])
            return
        server = {name: getattr(read.server, name) for name in _SERVER}
        taken = self._settings.model_copy(
            update={
                "log_level": read.log_level,
                "limits": read.limits,
                "access_log": read.access_log,
                "server": self._settings.server.model_copy(update=server),
            }
        )
        before, after = _flat(self._settings), _flat(taken)
        changed = {name: f"{before[name]} -> {value}" for name, value in after.items() if value != before[name]}
        waiting = [name for name, value in _flat(read).items() if value != after[name]]
        self._settings = taken
        set_level(taken.log_level)
        self._service.limits.reload(taken.limits)
        self._service.access_log.reload(taken.access_log)
        self._service.server.reload(taken.server)
        # At a level that is not silenced: whoever asked wants to know.
        _log.warning("reload.done", changed=changed, waiting_for_restart=waiting)


def _flat(model: BaseModel, prefix: str = "") -> Mapping[str, Any]:
    values: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        values |= _flat(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {f"{prefix}{name}": value}
    return values
