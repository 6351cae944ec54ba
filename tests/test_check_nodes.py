"""The findings of `invalidator check` about a node that answers, but cannot be used."""

from invalidator.memcached.wire import LEAST_VERSION
from invalidator.operate.check import _node
from invalidator.settings import RingSettings, Settings
from tests.scripted_node import ScriptedNode, say


async def test_for_a_node_without_meta_commands_the_least_version_is_named_and_never_start_it() -> None:
    async with ScriptedNode(then=say(b"ERROR\r\n")) as server:
        address = "{}:{}".format(*server.address)
        finding = await _node(Settings(ring=RingSettings(nodes={"c1": address})), "c1", address)
    assert finding.level == "wrong"
    assert f"memcached {LEAST_VERSION} or later" in finding.text
    assert finding.fix
    assert "start it" not in finding.fix
    assert "correct its address" not in finding.fix
