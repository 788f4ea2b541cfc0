"""The HTTP side of a worker: /metrics, /livez and /readyz."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, multiprocess
from prometheus_client.registry import REGISTRY

from memory.errors import Misconfigured

Ready = Callable[[], Awaitable[list[str]]]
"""What keeps this process from serving: empty when it is ready."""

PROBE_SECONDS = 2.0


def exposition() -> bytes:
    """Prometheus' text format; of all processes where prometheus_client is told to share."""
    registry: CollectorRegistry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # untyped there
    return generate_latest(registry)


Beside = Callable[[], Mapping[str, object]]
"""What a process tells beside whether it is ready."""


async def serve(host: str, port: int, ready: Ready, beside: Beside = dict) -> int:
    """Serve the probes and metrics on the running event loop; returns the port.

    `/livez` answers 200 while the event loop turns; `/readyz` 503 with the reasons while there
    are any, or when finding them out takes longer than two seconds. It also tells what is
    `beside`, which keeps a worker from nothing. `Misconfigured` where nothing can listen.
    """

    async def metrics(_request: web.Request) -> web.Response:
        body = await asyncio.to_thread(exposition)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def livez(_request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def readyz(_request: web.Request) -> web.Response:
        try:
            reasons = await asyncio.wait_for(ready(), PROBE_SECONDS)
        except TimeoutError:
            reasons = ["a server does not answer in time"]
        body = {"ready": not reasons, "reasons": reasons, **beside()}
        return web.json_response(body, status=503 if reasons else 200)

    app = web.Application()
    app.add_routes(
        [web.get("/metrics", metrics), web.get("/livez", livez), web.get("/readyz", readyz)]
    )
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise Misconfigured(
            f"nothing can listen on {host}:{port} ({error.strerror}); set VISUAL_MEMORY_WEB_HOST and "
            "VISUAL_MEMORY_WEB_PORT"
        ) from None
    bound: int = runner.addresses[0][1]
    return bound
