"""The owners of keys. integration/test_ring_against_clients.py shows that the real clients agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymemcache.client.rendezvous import RendezvousHash

from invalidator.errors import ConfigurationError
from invalidator.memcached.ring import RINGS, Ketama, Kind, Rendezvous, Ring, owners, ring_of

LABELS = st.lists(st.from_regex(r"[a-z][a-z0-9.-]{0,12}:[1-9][0-9]{0,4}", fullmatch=True), min_size=1, unique=True)
KEYS = st.lists(st.from_regex(r"[\x21-\x7e]{1,40}", fullmatch=True), min_size=1, unique=True)


@given(LABELS, KEYS)
def test_rendezvous_is_pymemcaches(labels: list[str], keys: list[str]) -> None:
    theirs, ours = RendezvousHash(labels), Rendezvous(labels)
    assert [ours.owner(key.encode()) for key in keys] == [theirs.get_node(key) for key in keys]


@given(LABELS, st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1, unique=True))
def test_rendezvous_is_pymemcaches_for_keys_that_are_stored_as_utf8(labels: list[str], keys: list[str]) -> None:
    theirs, ours = RendezvousHash(labels), Rendezvous(labels)
    assert [ours.owner(key.encode()) for key in keys] == [theirs.get_node(key) for key in keys]


# Found by searching: these two labels score the same for product:1.
@pytest.mark.parametrize("turn", [1, -1])
def test_of_equal_scores_the_greatest_label_wins(turn: int) -> None:
    tied = ["cache-53701:11211", "cache-63635:11211"][::turn]
    assert Rendezvous(tied).owner(b"product:1") == RendezvousHash(tied).get_node("product:1") == "cache-63635:11211"


@pytest.mark.parametrize("kind", RINGS)
def test_removed_node_moves_only_its_own_keys(kind: Kind) -> None:
    labels = [f"cache-{index}.example:11211" for index in range(5)]
    keys = [b"product:%d" % index for index in range(500)]
    five, four = ring_of(kind, labels), ring_of(kind, labels[:4])
    moved = {five.owner(key) for key in keys if five.owner(key) != four.owner(key)}
    assert moved == {labels[4]}


@pytest.mark.parametrize("kind", RINGS)
def test_every_node_owns_a_fair_share(kind: Kind) -> None:
    labels = [f"10.0.0.{index}:11211" for index in range(1, 6)]
    ring = ring_of(kind, labels)
    shares = owners([ring], [b"product:%d" % index for index in range(5000)])
    assert shares.keys() == set(labels)
    assert all(500 < len(share) < 1800 for share in shares.values())


@pytest.mark.parametrize("kind", RINGS)
def test_one_node_owns_everything(kind: Kind) -> None:
    ring = ring_of(kind, ["only:1"])
    assert {ring.owner(b"product:%d" % index) for index in range(100)} == {"only:1"}


def test_ketama_leaves_the_default_port_out_of_the_hash() -> None:
    keys = [b"product:%d" % index for index in range(300)]
    with_port, without = Ketama(["a:11211", "b:11211"]), Ketama(["a", "b"])
    assert [with_port.owner(key) for key in keys] == [without.owner(key) + ":11211" for key in keys]


@pytest.mark.parametrize(
    ("kind", "past_the_last_point", "owners_of_1_to_12"),
    [
        ("ketama", (b"product:30", "1"), "122223313331"),
        ("ketama-md5", (b"product:188", "2"), "312123323313"),
        ("ketama-weighted", (b"product:733", "3"), "212211113123"),
    ],
)
def test_ketama_places_keys_where_pylibmc_was_seen_to_put_them(
    kind: Kind, past_the_last_point: tuple[bytes, str], owners_of_1_to_12: str
) -> None:
    ring = Ketama(["127.0.1.1:11211", "127.0.1.2:11211", "127.0.1.3:11212"], kind)
    hosts = {label: label.split(":")[0][-1] for label in ring.labels}
    assert "".join(hosts[ring.owner(b"product:%d" % index)] for index in range(1, 13)) == owners_of_1_to_12
    key, first_host = past_the_last_point
    assert hosts[ring.owner(key)] == first_host


@given(LABELS, LABELS, KEYS)
def test_key_is_listed_once_under_each_owner_of_both_rings(now: list[str], before: list[str], keys: list[str]) -> None:
    rings: list[Ring] = [Rendezvous(now), Ketama(before)]
    names = [key.encode() for key in keys]
    placed = [(key, label) for label, part in owners(rings, names).items() for key in part]
    assert sorted(placed) == sorted({(key, ring.owner(key)) for key in names for ring in rings})


def test_unknown_ring_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="choose one of rendezvous, ketama"):
        ring_of("modulo", ["a:1"])  # type: ignore[arg-type]


def test_ring_without_nodes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one node"):
        ring_of("ketama", [])
