"""Everything to test an application without a broker and without memcached."""

from invalidator.testing.cluster import MemoryCluster as MemoryCluster
from invalidator.testing.memcached import MemoryMemcached as MemoryMemcached
from invalidator.testing.publisher import AsyncRecordingPublisher as AsyncRecordingPublisher
from invalidator.testing.publisher import RecordingPublisher as RecordingPublisher
