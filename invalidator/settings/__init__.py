"""Typed settings, read from one TOML file and then from the environment. Errors name the setting in full.

`schema` lists the settings; `loading` reads them.
"""

from invalidator.settings.address import Address, labelled, split_address
from invalidator.settings.broker_url import BrokerUrl
from invalidator.settings.environment import ENVIRONMENT_PREFIX
from invalidator.settings.loading import SYSTEM_FILE, find, load, with_passwords_read_again
from invalidator.settings.password import masked
from invalidator.settings.schema import (
    AuditSettings,
    BrokerSettings,
    DebeziumSettings,
    EventLogSettings,
    EventSettings,
    FollowSettings,
    LimitSettings,
    LogSettings,
    ManagementSettings,
    MemcachedSettings,
    MetricsSettings,
    OutboxSettings,
    PreviousRing,
    RingSettings,
    RuleSettings,
    Secret,
    Settings,
    WarmerSettings,
    WorkerSettings,
)

__all__ = [
    "ENVIRONMENT_PREFIX",
    "SYSTEM_FILE",
    "Address",
    "AuditSettings",
    "BrokerSettings",
    "BrokerUrl",
    "DebeziumSettings",
    "EventLogSettings",
    "EventSettings",
    "FollowSettings",
    "LimitSettings",
    "LogSettings",
    "ManagementSettings",
    "MemcachedSettings",
    "MetricsSettings",
    "OutboxSettings",
    "PreviousRing",
    "RingSettings",
    "RuleSettings",
    "Secret",
    "Settings",
    "WarmerSettings",
    "WorkerSettings",
    "find",
    "labelled",
    "load",
    "masked",
    "split_address",
    "with_passwords_read_again",
]
