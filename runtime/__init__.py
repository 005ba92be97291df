"""perdure: the durable substrate that a Python program keeps its truth in. Every public name is here."""

from perdure.actors.fold import Fold, Keyed, Projection
from perdure.actors.model import AsOf, KeyedEntry, KeyedModel, Model
from perdure.actors.restart import Restart, Strategy
from perdure.actors.sql import SqlModel, SqlProjection
from perdure.actors.status import ActorStatus, Lifecycle, What
from perdure.actors.subscription import Subscription
from perdure.actors.supervisor import Child, Supervisor
from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.blobs.reader import BlobReader
from perdure.backends.blobs.ref import BlobRef, BlobStat
from perdure.backends.blobs.urls import open_blobs
from perdure.backends.commit import ANY, EXISTS, Append, Appended, Check, Committed, Delete, Fence, Put, Stored, Unless
from perdure.backends.environment import Environment, InlineThreads, TrioThreads
from perdure.backends.errors import (
    AlreadyRunning,
    AskTimeout,
    BlobMissing,
    BlobsUnavailable,
    ClockAhead,
    Closed,
    Compacted,
    ConditionTooBroad,
    Conflict,
    Corrupt,
    Forbidden,
    Full,
    InDoubt,
    KeyReused,
    LeaseLost,
    MissingExtra,
    Misuse,
    ModelFaulted,
    PerdureError,
    ProjectionFailed,
    Rewound,
    RuntimeFailed,
    StateTooLarge,
    TooLarge,
    TooManyRestarts,
    TooNew,
    Truncated,
    Unavailable,
    Unreadable,
    UnstableState,
    Unsupported,
    WrongStore,
)
from perdure.backends.event import HEAD, START, Event, Position, Unknown
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.recovery import Cut, Recovery
from perdure.backends.schema import NewEvent, event
from perdure.backends.selector import EVERYTHING, Selector, of
from perdure.backends.sql import Transaction
from perdure.backends.urls import open_backend
from perdure.runtime.app import App
from perdure.runtime.encode import traceparent
from perdure.runtime.kv import Bucket, Changed, KvEntry, Scan
from perdure.runtime.lease import Lease
from perdure.runtime.lifecycle import lifecycle
from perdure.runtime.open import open_runtime
from perdure.runtime.retention import Retention
from perdure.runtime.runtime import Runtime
from perdure.runtime.tree import Status
from perdure.runtime.view import RuntimeView

__all__ = [
    "ANY",
    "EVERYTHING",
    "EXISTS",
    "HEAD",
    "LIMITS",
    "START",
    "ActorStatus",
    "AlreadyRunning",
    "App",
    "Append",
    "Appended",
    "AsOf",
    "AskTimeout",
    "BlobMissing",
    "BlobReader",
    "BlobRef",
    "BlobStat",
    "BlobStore",
    "BlobsUnavailable",
    "Bucket",
    "Changed",
    "Check",
    "Child",
    "ClockAhead",
    "Closed",
    "Committed",
    "Compacted",
    "ConditionTooBroad",
    "Conflict",
    "Corrupt",
    "Cut",
    "Delete",
    "Environment",
    "Event",
    "Fence",
    "Fold",
    "Forbidden",
    "Full",
    "InDoubt",
    "InlineThreads",
    "KeyReused",
    "Keyed",
    "KeyedEntry",
    "KeyedModel",
    "KvEntry",
    "Lease",
    "LeaseLost",
    "Lifecycle",
    "Limits",
    "MissingExtra",
    "Misuse",
    "Model",
    "ModelFaulted",
    "NewEvent",
    "PerdureError",
    "Position",
    "Projection",
    "ProjectionFailed",
    "Put",
    "Recovery",
    "Restart",
    "Retention",
    "Rewound",
    "Runtime",
    "RuntimeFailed",
    "RuntimeView",
    "Scan",
    "Selector",
    "SqlModel",
    "SqlProjection",
    "StateTooLarge",
    "Status",
    "Stored",
    "Strategy",
    "Subscription",
    "Supervisor",
    "TooLarge",
    "TooManyRestarts",
    "TooNew",
    "Transaction",
    "TrioThreads",
    "Truncated",
    "Unavailable",
    "Unknown",
    "Unless",
    "Unreadable",
    "UnstableState",
    "Unsupported",
    "What",
    "WrongStore",
    "event",
    "lifecycle",
    "of",
    "open_backend",
    "open_blobs",
    "open_runtime",
    "traceparent",
]
