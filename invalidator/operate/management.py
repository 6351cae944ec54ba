"""RabbitMQ's management API, for facts that AMQP does not give: a queue's arguments, policies, alarms.

Only commands use it, and only to read. A command that cannot reach it says so and goes on with the facts that AMQP
gives.
"""

import asyncio
import base64
import contextlib
import http.client
import json
from typing import Any
from urllib.parse import quote, urlsplit

from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError, RefusedError, UnreachableError
from invalidator.operate.findings import Finding
from invalidator.settings import BrokerUrl, Settings
from invalidator.settings.tls import Trust, tls_context, tls_in_words

#: RabbitMQ's default port for it.
PORT = 15672
#: Seconds for one answer.
TIMEOUT = 5.0


class Management:
    """The API of the broker that the settings name, used with the user and password that they give."""

    def __init__(self, settings: Settings) -> None:
        broker, management = BrokerUrl.parse(settings.broker.url), settings.management
        host = f"[{broker.host}]" if ":" in broker.host else broker.host
        self.url = (management.url or f"http://{host}:{PORT}").rstrip("/")
        self._user = management.user or broker.user
        self._password = management.password or settings.broker.password
        self._vhost = quote(vhost_of(settings), safe="")
        self._tls = Trust(management.tls_ca or settings.broker.tls_ca)

    async def exchange(self, name: str) -> dict[str, Any] | None:
        """Return an exchange as the API describes it, or None if it does not exist."""
        found: dict[str, Any] | None = await self.get(f"/exchanges/{self._vhost}/{quote(name, safe='')}")
        return found

    async def queue(self, name: str) -> dict[str, Any] | None:
        """Return a queue as the API describes it, or None if it does not exist."""
        found: dict[str, Any] | None = await self.get(f"/queues/{self._vhost}/{quote(name, safe='')}")
        return found

    async def queues(self) -> list[dict[str, Any]]:
        """Return every queue of the vhost, with the columns that `status` needs."""
        columns = "name,messages,messages_ready,messages_unacknowledged,message_stats,state"
        return list(await self.get(f"/queues/{self._vhost}?columns={columns}") or [])

    async def consumers(self) -> list[dict[str, Any]]:
        """Return every consumer of the vhost."""
        return list(await self.get(f"/consumers/{self._vhost}") or [])

    async def bound_queues(self, exchange: str) -> list[str]:
        """Return the queues bound to an exchange, directly or through other exchanges."""
        bound: dict[str, list[str]] = {"queue": [], "exchange": [exchange]}
        for name in bound["exchange"]:  # the list grows during the loop
            found = await self.get(f"/exchanges/{self._vhost}/{quote(name, safe='')}/bindings/source") or []
            for binding in found:
                destinations = bound[binding["destination_type"]]
                if binding["destination"] not in destinations:
                    destinations.append(binding["destination"])
        return bound["queue"]

    async def cluster_name(self) -> str:
        """Return the broker's name. A different name over AMQP means that this is another broker's API."""
        overview = await self.get("/overview") or {}
        return str(overview.get("cluster_name"))

    async def connections(self) -> list[dict[str, Any]]:
        """Return the client properties of each connection that this user may see."""
        found = await self.get(f"/vhosts/{self._vhost}/connections") or []
        return [connection.get("client_properties") or {} for connection in found]

    async def alarms(self) -> list[str]:
        """Return ``memory on rabbit@one`` for each alarm in force. During an alarm nothing can be published."""
        status, body = await self._ask("/health/checks/alarms")
        # This check answers with 503 when there are alarms.
        found = self._decoded(http.client.OK if status == http.client.SERVICE_UNAVAILABLE else status, body) or {}
        return [f"{alarm['resource']} on {alarm['node']}" for alarm in found.get("alarms", [])]

    async def get(self, path: str) -> Any:
        """Return the decoded answer, or None for 404.

        Raises:
            RefusedError: the API refuses this user.
            UnreachableError: there is no answer, or no JSON in it.
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
    """Return the vhost in `broker.url`, or "/" if the URL names no vhost."""
    return BrokerUrl.parse(settings.broker.url).vhost


async def alarms_in_words(settings: Settings) -> str:
    """Return ``alarms in force: memory on rabbit@one``, or why this is not known."""
    try:
        alarms = await Management(settings).alarms()
    except InvalidatorError as error:
        return f"alarms not verified: {error}"
    return f"alarms in force: {', '.join(alarms)}" if alarms else "no alarm is in force now"


def not_asked(what: str, text: str, settings: Settings, error: InvalidatorError) -> Finding:
    """Return the finding that the management API could not be used.

    It is no fault if no API is configured and none answers: Debian's RabbitMQ comes without the plugin.
    """
    if settings.management.url or not isinstance(error, UnreachableError):
        return Finding("unverified", what, text, exit_code=error.exit_code)
    return Finding("unverified", what, text, "rabbitmq-plugins enable rabbitmq_management, or set management.url")


async def expected_clusters(settings: Settings) -> list[str]:
    """Return every cluster that gets a copy of each event.

    Raises:
        InvalidatorError: the management API is unreachable and the settings name no clusters.
    """
    if settings.management.expect:
        return list(settings.management.expect)
    try:
        bound = await Management(settings).bound_queues(settings.broker.exchange)
    except InvalidatorError as error:
        raise type(error)(f"{error}; or name the clusters in management.expect") from error
    return sorted(filter(None, (cluster_of_queue(settings, queue) for queue in bound)))


def cluster_of_queue(settings: Settings, queue: str) -> str | None:
    """Return the cluster that a queue belongs to by its name, or None for the log and queues that are not ours."""
    topology = Topology.of(settings)
    if queue == topology.queue:
        return settings.cluster
    if queue == topology.log:
        return None
    prefix = f"{topology.prefix}."
    return queue.removeprefix(prefix) if queue.startswith(prefix) else None
