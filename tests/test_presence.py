"""Tracing a key back to the templates that can make it, without a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invalidator.events.templates import compile_template, fields_making
from invalidator.operate.explain import Maker, Presence, Trace, trace_findings
from invalidator.operate.findings import worst


@pytest.mark.parametrize(
    ("template", "key", "fields"),
    [
        ("product:{id}", "product:7", {"id": "7"}),
        ("product:{id}", "products:7", None),
        ("product:{id}:reviews", "product:7:reviews", {"id": "7"}),
        ("c:{before.id?}:l", "c:7:l", {"before.id?": "7"}),
        ("a.b", "a.b", {}),
        ("a.b", "axb", None),
        ("{{{x}}}", "{7}", {"x": "7"}),
        ("{x}:{x}", "7:7", {"x": "7"}),
        ("{x}:{x}", "7:8", None),
        ("{x}:{x|md5}", "7:" + "0a" * 16, {"x": "7", "x|md5": "0a" * 16}),
        ("p:{x|md5}", "p:7", None),
        ("p:{x|lower|quote}", "p:caf%C3%A9", {"x|lower|quote": "caf%C3%A9"}),
        ("p:{x|quote}", "p:a/b", None),
    ],
)
def test_a_key_is_traced_to_the_fields_that_make_it(template: str, key: str, fields: dict[str, str] | None) -> None:
    assert fields == fields_making(template, key)


@given(
    st.text("abc{}.:x", max_size=6),
    st.lists(st.sampled_from(["x", "y.z", "x|md5", "x|sha256", "y.z?|quote"])),
    st.data(),
)
def test_every_key_that_a_template_makes_is_traced_back_to_it(
    literal: str, slots: list[str], data: st.DataObject
) -> None:
    escaped = literal.replace("{", "{{").replace("}", "}}")
    template = "k" + escaped + escaped.join("{" + slot + "}" for slot in slots)
    value = st.text("abc:. /é", min_size=1, max_size=5)
    fields = {"x": data.draw(value), "y": {"z": data.draw(value)}}
    (key,) = compile_template(template, 10_000, 10).build(fields)
    assert fields_making(template, key) is not None


def node(name: str, *, evicted_here: bool = True, present: bool | None = False) -> Presence:
    return Presence(name, "host:1", evicted_here, present, reason="" if present is not None else "no answer")


MAKERS = [Maker("product_updated", "product:{id}", {"id": "7"})]


def test_a_key_that_is_where_it_is_evicted_is_no_fault() -> None:
    assert [] == list(
        trace_findings(Trace("k", "k", MAKERS, [node("c1", present=True), node("c2", evicted_here=False)]))
    )


def test_a_key_that_is_where_it_is_not_evicted_means_another_ring() -> None:
    findings = list(trace_findings(Trace("k", "k", MAKERS, [node("c1"), node("c2", evicted_here=False, present=True)])))
    assert (78, True) == (worst(findings), findings[0].text.startswith("there on c2, where it is not evicted"))


def test_a_key_where_hashclient_puts_bytes_keys_is_named_as_such() -> None:
    found = Trace("k", "k", MAKERS, [node("c1"), node("c2", evicted_here=False, present=True)], bytes_node="c2")
    (finding,) = trace_findings(found)
    assert "HashClient puts keys that are bytes there" in finding.text
    assert "pass keys to HashClient as str" in finding.fix


def test_a_node_that_does_not_say_is_named() -> None:
    findings = list(trace_findings(Trace("k", "k", MAKERS, [node("c1", present=None)])))
    assert (75, "c1 does not say: no answer") == (worst(findings), findings[0].text)


def test_a_key_that_no_rule_makes_is_noted() -> None:
    (finding,) = trace_findings(Trace("k", "k", [], [node("c1")]))
    assert (0, "note") == (finding.exit_code, finding.level)
