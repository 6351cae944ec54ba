"""Events, and the keys that they evict. Bytes go in, keys come out; there is no I/O.

message ─> body (JSON) ─> event (and cloudevents, debezium with connect, types) ─> rules (compiled templates) ─> keys
"""

from invalidator.events.event import EVICT as EVICT
from invalidator.events.event import Event as Event
from invalidator.events.event import decode as decode
from invalidator.events.event import encode as encode
