"""Runs in a vLLM server that `src/serve.py` started with a token: refuses every request that does not have it.

vLLM's own API key guards only some routes; those that replace weights and call methods of the workers are not among them.
"""

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

VARIABLE = "VAPO_SERVER_TOKEN"  # environment variable with the token: unlike a command line, other users cannot read it
REFUSAL = f"this server wants a token in the header Authorization: Bearer <{VARIABLE}>".encode()

App = Callable[[Any, Any, Any], Awaitable[None]]


def authorization(token: str) -> str:
    """Value of the header `Authorization`."""
    return f"Bearer {token}"


class RequireToken:
    """ASGI middleware in front of all routes: HTTP 401 without the token, and no websocket."""

    def __init__(self, app: App) -> None:
        """Raises KeyError without the environment variable: then the server answers nothing."""
        self.app, self.expected = app, authorization(os.environ[VARIABLE]).encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind == "lifespan" or self._has_token(scope):
            await self.app(scope, receive, send)
        elif kind == "http":
            headers = [(b"www-authenticate", b"Bearer"), (b"content-length", b"%d" % len(REFUSAL))]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # 1008: policy violation; before it opens, the client sees a 403

    def _has_token(self, scope: Any) -> bool:
        found: bytes = dict(scope.get("headers", ())).get(b"authorization", b"")
        return hmac.compare_digest(found, self.expected)
