"""Read-your-writes on replicas: `x-consistency` says what a caller wants, `x-consistency-token` what it must see.

`x-consistency: token` asks for a token, which comes in the trailing metadata: reads that bring it see what the call
wrote, and whatever it saw. `x-consistency: eventual` lets a read be as old as replicas may be. Who says nothing pays
nothing, and reads the newest.
"""

from __future__ import annotations

from collections.abc import Awaitable

from recsvc.domain.consistency import EVENTUAL, NO_REPLICA, TOKEN, WISH, Consistency, ConsistencyTokens
from recsvc.domain.errors import DomainError, InvalidField
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.methods import MethodPolicy
from recsvc.storage.replicas import Replicas

_TOKEN_WANTED, _MAY_BE_OLD = "token", "eventual"


class ReadYourWrites:
    """Reads what a call must see out of its metadata, and gives out tokens of what it wrote."""

    def __init__(self, replicas: Replicas, tokens: ConsistencyTokens) -> None:
        self._replicas = replicas
        self._tokens = tokens

    def concerns(self, policy: MethodPolicy) -> bool:
        """All methods: a read may be asked for a token, too, so that the next one is not older."""
        return True

    def enter(self, call: Call, context: Context) -> None:
        """Put what the call must see into it. Raises InvalidField."""
        wish, token = call.metadata.get(WISH), call.metadata.get(TOKEN)
        if wish is None and token is None:
            return
        if wish not in (None, _TOKEN_WANTED, _MAY_BE_OLD):
            raise InvalidField(WISH, f"must be {_TOKEN_WANTED} or {_MAY_BE_OLD}")
        if token is not None:
            call.consistency = Consistency(self._tokens.decode(call.caller().tenant_key, token))
        elif wish == _MAY_BE_OLD:
            call.consistency = EVENTUAL
        if wish == _TOKEN_WANTED:
            call.wants_token = context

    def leave(self, call: Call, error: DomainError | None) -> Awaitable[None] | None:
        """What succeeded and was asked for a token gets one before its caller is answered."""
        return self._give(call, call.wants_token) if call.wants_token is not None and error is None else None

    async def _give(self, call: Call, context: Context) -> None:
        position = await self._replicas.position()
        # What is committed is committed: without the primary nobody can tell how far replicas must be.
        token = self._tokens.encode(call.caller().tenant_key, NO_REPLICA if position is None else position)
        context.set_trailing_metadata(((TOKEN, token),))
