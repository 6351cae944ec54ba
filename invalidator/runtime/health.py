"""Metrics and health over HTTP: for Prometheus, for load balancers, and for a person with curl.

    /metrics   the metrics of `invalidator.runtime.metrics`, in Prometheus's text format
    /live      200 while the service works, or waits for something that it can name; 503 when only a restart fixes it
    /ready     200 while it does its work; 503 while it waits, with what it waits for

Requests are served from a thread that queries the event loop with a timeout, so a hung loop is reported instead of
hanging the request.
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

from prometheus_client import REGISTRY, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from invalidator.runtime.logs import Log
from invalidator.runtime.metrics import OfCluster

#: Seconds that the event loop may take to answer a query that takes it microseconds.
LOOP_SECONDS = 2.0
#: Seconds between two checks of the server for its end; the end of a service waits for one.
POLL_SECONDS = 0.1

log = Log(__name__)


@dataclass(frozen=True, kw_only=True)
class Health:
    """The health of a service, and its state in words."""

    is_live: bool
    is_ready: bool
    status: str


HANGING = Health(is_live=False, is_ready=False, status="the event loop does not answer")


@asynccontextmanager
async def served(address: tuple[str, int] | None, health: Callable[[], Health], *, cluster: str) -> AsyncIterator[None]:
    """Serve the pages on this address, if there is one, until the context is left.

    ``health`` is called in the event loop. Every metric carries ``cluster``. If the address cannot be used, the
    service runs without metrics.
    """
    server = _listen(address, _Application(health, cluster)) if address else None
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
    """The WSGI application of the three pages."""

    def __init__(self, health: Callable[[], Health], cluster: str) -> None:
        self._health = health
        self._loop = asyncio.get_running_loop()
        self._metrics = make_wsgi_app(OfCluster(cluster, REGISTRY))

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
        """Log nothing: nobody reads a line for each scrape."""


def _listen(address: tuple[str, int], application: _Application) -> ThreadingWSGIServer | None:
    where = f"{address[0]}:{address[1]}"
    try:
        server = make_server(*address, application, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        log.error(
            "cannot serve metrics; give this service a free address: metrics.listen", listen=where, reason=str(error)
        )
        return None
    log.info("serving metrics", url=f"http://{where}/metrics")
    return server
