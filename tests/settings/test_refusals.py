"""A wrong setting is refused by its full name, with the fix."""

import pytest

from tests.settings.conftest import refusal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clutser = 'a'", 'unknown setting "clutser" in given.toml: did you mean "cluster"?'),
        ("[brokr]", 'unknown setting "brokr" in given.toml: did you mean "broker"?'),
        ("[memcached]\nevict-on = 'owner'", '"memcached.evict-on" in given.toml: did you mean "memcached.evict_on"?'),
        ("[ring.previous]\nnode = []", '"ring.previous.node" in given.toml: did you mean "ring.previous.nodes"?'),
        ("url = 'amqp://h'", 'unknown setting "url" in given.toml: did you mean "broker.url"?'),
        ("[memcached]\nprefetch = 3", '"memcached.prefetch" in given.toml: did you mean "broker.prefetch"?'),
        ("[log]\nheart_beat = 3", 'setting "log.heart_beat" in given.toml: did you mean "broker.heartbeat"?'),
        ("[[rule]]\non = 'a'\nevcit = []", 'unknown setting "rule.evcit" in given.toml: did you mean "rule.evict"?'),
        ("[log]\nzzz = 1", 'unknown setting "log.zzz" in given.toml: known settings are log.level, log.format'),
    ],
)
def test_unknown_setting_is_refused_by_full_name_with_the_nearest(text: str, expected: str) -> None:
    assert expected in refusal(text)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("BROKER__PREFETC", "1", 'unknown setting "broker.prefetc" in the environment variable INVALIDATOR_BROKER'),
        ("BROKER__PREFETC", "1", "did you mean INVALIDATOR_BROKER__PREFETCH?"),
        ("BROKER", "{}", "did you mean INVALIDATOR_BROKER__URL?"),
        ("RULE__ON", "a", "did you mean INVALIDATOR_RULE?"),
        ("RING__NODES__A", "h:1", "did you mean INVALIDATOR_RING__NODES?"),
        ("ZZZ", "1", "write INVALIDATOR_SECTION__KEY"),
        ("RULE", '[{"on": "a", "evic": []}]', 'variable INVALIDATOR_RULE: did you mean "rule.evict"?'),
        ("RING__NODES", "h:1", 'INVALIDATOR_RING__NODES must be JSON, as in ["127.0.0.1:11211"]'),
        ("RING__NODES", "[" * 100_000, "must be JSON"),
        ("BROKER__PREFETCH", "many", 'INVALIDATOR_BROKER__PREFETCH="many": setting "broker.prefetch": Expected `int`'),
        ("BROKER__PREFETCH", "70000", 'setting "broker.prefetch": Expected `int` <= 65535'),
        (
            "LOG__LEVEL",
            "loud",
            "setting \"log.level\": Invalid enum value 'loud': write one of debug, info, warning, error",
        ),
    ],
)
def test_variable_that_sets_nothing_is_refused(variable: str, value: str, expected: str) -> None:
    assert expected in refusal("", {f"INVALIDATOR_{variable}": value})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cluster = 17", 'setting "cluster": Expected `str`, got `int`'),
        ("cluster = ''", 'setting "cluster": Expected `str` of 1 to 80 characters out of A-Z, a-z, 0-9'),
        ("cluster = 'a b'", 'setting "cluster"'),
        ('cluster = "a\\n"', 'setting "cluster"'),
        ("broker = 3", 'setting "broker": Expected `object`, got `int`'),
        ("[broker]\nurl = 3", 'setting "broker.url": Expected `str`, got `int`'),
        ("[broker]\npassword = 3", 'setting "broker.password": Expected `str`'),
        ("[broker]\nprefetch = 0", 'setting "broker.prefetch": Expected `int` >= 1'),
        ("[broker]\nheartbeat = 1.5", 'setting "broker.heartbeat": Expected `int`, got `float`'),
        ("[broker]\nalternates = ['a b']", 'setting "broker.alternates": "a b" is not an address: write host:port'),
        ("[memcached]\ndeadline = 0", 'setting "memcached.deadline": Expected `float` > 0.0'),
        ("[memcached]\ndeadline = inf", 'setting "memcached.deadline": Expected `float` <= 3600.0'),
        (
            "[memcached]\nevict_on = 'all'",
            "\"memcached.evict_on\": Invalid enum value 'all': write one of every-node, owner",
        ),
        ('[memcached]\nprefix = "shop:\\n"', 'setting "memcached.prefix": Expected `str` of text without spaces'),
        ("rule = 3", 'setting "rule": Expected `array`, got `int`'),
        ("rule = [3]", 'setting "rule[0]": Expected `object`, got `int`'),
        ("[[rule]]\non = 'a'", 'setting "rule[0]": Object missing required field `evict`'),
        ("[[rule]]\non = 'a'\nevict = 'b'", 'setting "rule[0].evict": Expected `array`, got `str`'),
        ("[[rule]]\non = 'a'\nevict = []", 'setting "rule[0].evict": Expected `array` of length >= 1'),
        ("[management]\nurl = 'h:15672'", 'setting "management.url": Expected `str`'),
        ("[management]\nurl = 'http://shop:hush@h'", 'setting "management.url": Expected `str`'),
        ("[management]\npassword_file = '/nowhere'", 'setting "management.password_file": cannot read /nowhere'),
        ("[ring]\nnodes = []", 'setting "ring.nodes": a ring needs at least one node'),
        ("[ring]\nnodes = ['a b']", 'setting "ring.nodes": "a b" is not an address'),
        ("[ring]\nnodes = ['h:0']", 'setting "ring.nodes": "h:0" is not an address'),
        ("[ring]\nnodes = ['h:65536']", 'setting "ring.nodes": "h:65536" is not an address'),
        ("[ring]\nnodes = ['h', 'h:11211']", 'setting "ring.nodes": node "h:11211" is listed twice'),
        ("[ring]\nnodes = {a = 'h:1', b = 'h:1'}", 'setting "ring.nodes": node "h:1" is listed twice'),
        ("[ring]\nnodes = {'a b' = 'h:1'}", 'setting "ring.nodes": Expected `str` of 1 to 80'),
        ("[ring]\nnodes = ['käse:1']", 'setting "ring.nodes": the label "käse:1" should be 1 to 80 characters'),
        ("[ring.previous]\nkind = 'ketama'", 'setting "ring.previous.nodes": a ring needs at least one node'),
    ],
)
def test_value_that_cannot_work_is_refused_by_full_name(text: str, expected: str) -> None:
    message = refusal(text)
    assert expected in message
    assert "regex" not in message


def test_wrong_table_in_the_file_is_named_even_under_an_override() -> None:
    assert 'setting "broker": Expected `object`, got `int`' == refusal("broker = 3", {"INVALIDATOR_BROKER__URL": "x"})
