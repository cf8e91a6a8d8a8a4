# SPDX-License-Identifier: Apache-2.0
"""The HTTP edge: which path means what. Bytes are wire.py's, calls are invoke.py's."""

import asyncio
import socket

from boesfsd.errors import BoesError
from boesfsd.invoke import JSON_HEADER, RETRY_AFTER, Invocation, Router, error_body
from boesfsd.wire import Connection, Handler, Header, Request

INVOKE = b"/invoke/"


class _Answered:
    """Handler of a request that has its answer already: the rest of the body is nobody's."""

    def body(self, data: bytes) -> None:
        pass

    def end(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def gone(self) -> None:
        pass

    def resume(self) -> None:
        pass


class Server:
    """The listening sockets that systemd gave us."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()

    async def listen(self, sockets: list[socket.socket]) -> None:
        """Serve on SOCKETS."""
        loop = asyncio.get_running_loop()
        for listener in sockets:
            server = await loop.create_server(lambda: Connection(self._handle, self._connections), sock=listener)
            self._servers.append(server)

    async def close(self, patience: float) -> None:
        """Take no new connection; give those that are being served PATIENCE seconds to end."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.shut_down()
        end = asyncio.get_running_loop().time() + patience
        while self._connections and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 (once, at the end)
            await asyncio.sleep(0.02)

    def _handle(self, connection: Connection, request: Request) -> Handler:
        try:
            return self._dispatch(connection, request)
        except BoesError as error:
            headers: list[Header] = [JSON_HEADER, (b"Boesfs-Error", error.code.encode())]
            if error.kind.http == 405:
                headers.append((b"Allow", b"POST"))
            if error.kind.http == 503:
                headers.append((b"Retry-After", RETRY_AFTER))
            connection.answer(error.kind.http, headers, error_body(error.message, error.hint))
            return _Answered()

    def _dispatch(self, connection: Connection, request: Request) -> Handler:
        path = request.target.partition(b"?")[0]
        shown = f"{request.method.decode('ascii', 'replace')} {path.decode('ascii', 'replace')}"
        if not path.startswith(INVOKE):
            raise BoesError("NotFound", f"Path not found: {shown}")
        if request.method != b"POST":
            raise BoesError("MethodNotAllowed", f"Method not allowed: {shown}")
        route = self._router.routes.get(path[len(INVOKE) :].decode("ascii", "replace"))
        if route is None:
            raise BoesError(
                "NoSuchFunction", "Fn not found", hint="the path is /invoke/ID, with the function's Id property"
            )
        if route.stopped:
            raise BoesError("Stopped", "The function is stopped", hint="start it with its Start method")
        if request.length > self._router.max_request_size:
            limit = self._router.max_request_size
            raise BoesError("RequestTooLarge", "Request content too large", hint=f"max-request-size is {limit} bytes")
        if dict(request.headers).get(b"fn-invoke-type") == b"detached":
            raise BoesError("Unsupported", "Detach call functions are not supported on this server")
        return Invocation(self._router, route, connection, request)
