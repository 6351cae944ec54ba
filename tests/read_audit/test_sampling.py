"""The sample of hits: each has the same chance, alone or among many keys."""

import random
from itertools import pairwise
from statistics import mean, pstdev

import pytest

from invalidator.app import LookAsideCache
from invalidator.app.cache.audit.sampling import Sampling
from invalidator.errors import ConfigurationError

HITS = 200_000


def seeded(share: float) -> Sampling:
    return Sampling(share, uniform=random.Random(1).random)


def test_share_of_the_hits_is_taken_at_distances_that_nobody_can_foresee() -> None:
    sampling = seeded(0.01)
    taken = [number for number in range(HITS) if sampling.is_due()]
    distances = [after - before for before, after in pairwise(taken)]
    assert len(taken) == pytest.approx(HITS * 0.01, rel=0.1)
    assert (mean(distances), pstdev(distances)) == pytest.approx((100, 100), rel=0.1), "as of a geometric distribution"


def test_many_keys_at_once_are_sampled_as_one_after_the_other() -> None:
    keys, alone, together = [str(number) for number in range(7)], seeded(0.1), seeded(0.1)
    expected = [[key for key in keys if alone.is_due()] for _ in range(1000)]
    assert expected == [list(together.due(keys)) for _ in range(1000)]
    assert any(len(keys) > 1 for keys in expected)


def test_a_share_of_one_takes_every_hit() -> None:
    sampling = Sampling(1)
    assert all(sampling.is_due() for _ in range(10))


def test_a_share_too_small_to_ever_be_met_is_a_share() -> None:
    assert not Sampling(5e-324).is_due()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigurationError, match="no share of the reads"):
        LookAsideCache(["127.0.0.1:1"], audit=share)


@pytest.mark.parametrize("replica", [{"position": lambda: 1.0}, {"max_lag": 1.0}], ids=["position", "lag"])
def test_loads_from_replicas_need_a_source_that_reads_from_the_primary(replica: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="audit_source"):
        LookAsideCache(["127.0.0.1:1"], audit=0.1, **replica)  # type: ignore[arg-type]
    LookAsideCache(["127.0.0.1:1"], audit=0.1, audit_source=lambda _: None, **replica)  # type: ignore[arg-type]
