"""RabbitMQ's management API: what AMQP does not tell, such as a queue's arguments, policies and alarms.

It is asked only by commands, and only for reading. Where it cannot be asked, that is said, and the command goes on
with what AMQP tells.
"""

import asyncio
import base64
import contextlib
import http.client
import json
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError, RefusedError, UnreachableError
from invalidator.settings import Settings, Trust, tls_context, tls_in_words

#: Where RabbitMQ listens when nobody says otherwise.
PORT = 15672
#: Seconds for one answer.
TIMEOUT = 5.0


class Management:
    """The API of the broker that the settings name, asked with the user and password that they give."""

    def __init__(self, settings: Settings) -> None:
        broker, management = urlsplit(settings.broker.url), settings.management
        host = f"[{broker.hostname}]" if ":" in (broker.hostname or "") else broker.hostname
        self.url = (management.url or f"http://{host}:{PORT}").rstrip("/")
        self._user = management.user or unquote(broker.username or "guest")
        self._password = management.password or settings.broker.password
        self._vhost = quote(vhost_of(settings), safe="")
        self._tls = Trust(management.tls_ca or settings.broker.tls_ca)

    async def exchange(self, name: str) -> dict[str, Any] | None:
        """An exchange as the API describes it; None where there is none."""
        found: dict[str, Any] | None = await self.get(f"/exchanges/{self._vhost}/{quote(name, safe='')}")
        return found

    async def queue(self, name: str) -> dict[str, Any] | None:
        """A queue as the API describes it; None where there is none."""
        found: dict[str, Any] | None = await self.get(f"/queues/{self._vhost}/{quote(name, safe='')}")
        return found

    async def queues(self) -> list[dict[str, Any]]:
        """Every queue of the vhost, in what `status` needs of it."""
        columns = "name,messages,messages_ready,messages_unacknowledged,message_stats,state"
        return list(await self.get(f"/queues/{self._vhost}?columns={columns}") or [])

    async def consumers(self) -> list[dict[str, Any]]:
        """Every consumer of the vhost."""
        return list(await self.get(f"/consumers/{self._vhost}") or [])

    async def bound_queues(self, exchange: str) -> list[str]:
        """The queues that get what is published to an exchange: a copy, or through further exchanges their share."""
        bound: dict[str, list[str]] = {"queue": [], "exchange": [exchange]}
        for name in bound["exchange"]:  # which grows meanwhile
            found = await self.get(f"/exchanges/{self._vhost}/{quote(name, safe='')}/bindings/source") or []
            for binding in found:
                destinations = bound[binding["destination_type"]]
                if binding["destination"] not in destinations:
                    destinations.append(binding["destination"])
        return bound["queue"]

    async def cluster_name(self) -> str:
        """What the broker calls itself: the same here and over AMQP, or this is the API of another broker."""
        overview = await self.get("/overview") or {}
        return str(overview.get("cluster_name"))

    async def connections(self) -> list[dict[str, Any]]:
        """What each client told of itself, of all that this user may see."""
        found = await self.get(f"/vhosts/{self._vhost}/connections") or []
        return [connection.get("client_properties") or {} for connection in found]

    async def alarms(self) -> list[str]:
        """``memory on rabbit@one`` for each alarm in force: while there is one, nobody can publish."""
        status, body = await self._ask("/health/checks/alarms")
        # 503 is how this one answer says yes.
        told = self._decoded(http.client.OK if status == http.client.SERVICE_UNAVAILABLE else status, body) or {}
        return [f"{alarm['resource']} on {alarm['node']}" for alarm in told.get("alarms", [])]

    async def get(self, path: str) -> Any:
        """The decoded answer; None for 404.

        Raises:
            RefusedError: this user may not ask.
            UnreachableError: there is no answer, or none that can be read.
        """
        return self._decoded(*await self._ask(path))

    async def _ask(self, path: str) -> tuple[int, bytes]:
        try:
            return await asyncio.to_thread(self._request, path)
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = (self.url.startswith("https:") and tls_in_words(error)) or error
            raise UnreachableError(
                f"the management API at {self.url} does not answer ({why}); see management.url"
            ) from error

    def _request(self, path: str) -> tuple[int, bytes]:
        where = urlsplit(self.url)
        password = self._password.reveal() if self._password else ""
        login = base64.b64encode(f"{self._user}:{password}".encode()).decode()
        with contextlib.closing(self._connection(where.scheme, where.netloc)) as connection:
            connection.request("GET", f"{where.path}/api{path}", headers={"Authorization": f"Basic {login}"})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def _connection(self, scheme: str, address: str) -> http.client.HTTPConnection:
        if scheme == "http":
            return http.client.HTTPConnection(address, timeout=TIMEOUT)
        return http.client.HTTPSConnection(address, timeout=TIMEOUT, context=tls_context(self._tls, "management"))

    def _decoded(self, status: int, body: bytes) -> Any:
        if status == http.client.NOT_FOUND:
            return None
        if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise RefusedError(
                f'the management API at {self.url} refuses user "{self._user}": see management.user, or '
                f"rabbitmqctl set_user_tags {self._user} management"
            )
        if status == http.client.OK:
            with contextlib.suppress(ValueError):
                return json.loads(body)
        raise UnreachableError(
            f"the management API at {self.url} answers with status {status} and no JSON; see management.url"
        )


def vhost_of(settings: Settings) -> str:
    """The vhost in `broker.url`, "/" where it names none."""
    return unquote(urlsplit(settings.broker.url).path[1:]) or "/"


async def alarms_in_words(settings: Settings) -> str:
    """``alarms in force: memory on rabbit@one``, or that this is not known."""
    try:
        alarms = await Management(settings).alarms()
    except InvalidatorError as error:
        return f"alarms not verified: {error}"
    return f"alarms in force: {', '.join(alarms)}" if alarms else "no alarm is in force now"


async def expected_clusters(settings: Settings) -> list[str]:
    """Every cluster that gets a copy of each event.

    Raises:
        InvalidatorError: the management API cannot be asked, and the settings name none.
    """
    if settings.management.expect:
        return list(settings.management.expect)
    try:
        bound = await Management(settings).bound_queues(settings.broker.exchange)
    except InvalidatorError as error:
        raise type(error)(f"{error}; or name the clusters in management.expect") from error
    return sorted(filter(None, (cluster_of_queue(settings, queue) for queue in bound)))


def cluster_of_queue(settings: Settings, queue: str) -> str | None:
    """The cluster that a queue belongs to, going by its name; None for somebody else's queue."""
    topology = Topology.of(settings)
    if queue == topology.queue:
        return settings.cluster
    prefix = f"{topology.prefix}."
    return queue.removeprefix(prefix) if queue.startswith(prefix) else None
