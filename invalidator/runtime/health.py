"""Metrics and health over HTTP: for Prometheus, for load balancers, and for a person with curl.

    /metrics   what `invalidator.runtime.metrics` counts, in Prometheus's text format
    /live      200 while the service works, or waits for something that it can name; 503 when only a restart fixes it
    /ready     200 while it does its work; 503 while it waits, with what it waits for

A thread answers and asks the event loop, so that a loop that hangs is told of instead of being hung on.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import structlog
from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

#: Seconds that the event loop may take to answer a question that takes it microseconds.
LOOP_SECONDS = 2.0
#: Seconds between two looks at whether to end; the end of a service waits for one.
POLL_SECONDS = 0.1

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Health:
    """How a service stands, and in words."""

    is_live: bool
    is_ready: bool
    status: str


HANGING = Health(is_live=False, is_ready=False, status="the event loop does not answer")


@asynccontextmanager
async def served(address: tuple[str, int] | None, health: Callable[[], Health]) -> AsyncIterator[None]:
    """Answer on this address, or nowhere, until left.

    ``health`` is called in the event loop. An address that cannot be had costs the metrics and not the service.
    """
    server = _listen(address, _Application(health)) if address else None
    if server is None:
        yield
        return
    Thread(target=server.serve_forever, args=(POLL_SECONDS,), name="metrics", daemon=True).start()
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


class _Application:
    """The three pages."""

    def __init__(self, health: Callable[[], Health]) -> None:
        self._health = health
        self._loop = asyncio.get_running_loop()
        self._metrics = make_wsgi_app()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                pages: Iterable[bytes] = self._metrics(environ, start_response)
                return pages
            case "/live":
                health = self._ask()
                return _page(start_response, health.status, status="200 OK" if health.is_live else UNAVAILABLE)
            case "/ready":
                health = self._ask()
                return _page(start_response, health.status, status="200 OK" if health.is_ready else UNAVAILABLE)
        return _page(start_response, "there are /metrics, /live and /ready", status="404 Not Found")

    def _ask(self) -> Health:
        async def answer() -> Health:
            return self._health()

        answering = asyncio.run_coroutine_threadsafe(answer(), self._loop)
        try:
            return answering.result(LOOP_SECONDS)
        except TimeoutError:
            answering.cancel()
            return HANGING


UNAVAILABLE = "503 Service Unavailable"


def _page(start_response: StartResponse, text: str, *, status: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]


class _Server(ThreadingWSGIServer):
    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)


class _Handler(WSGIRequestHandler):
    #: Seconds for a request to come in whole.
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """A line for each scrape is nothing that anybody reads."""


def _listen(address: tuple[str, int], application: _Application) -> ThreadingWSGIServer | None:
    where = f"{address[0]}:{address[1]}"
    try:
        server = make_server(*address, application, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        log.error(
            "metrics are not served; give this service a free address: metrics.listen", listen=where, reason=str(error)
        )
        return None
    log.info("serving metrics", url=f"http://{where}/metrics")
    return server
