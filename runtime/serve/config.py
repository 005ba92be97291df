"""What a daemon is told: one frozen value, from a file, the environment and the command line. Each field says what it does.

A later source goes before an earlier one: defaults, the TOML file, `PERDURE_*` in the environment, flags. In the environment and behind
`--set` a field of the table `limits` is written `PERDURE_LIMITS_CLOSE_S`, `limits.close_s`.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_type_hints

import attrs
from attrs import validators

from perdure.backends.errors import Misuse
from perdure.backends.limits import LIMITS, MIB, Limits, as_float, number, whole_number
from perdure.runtime.serve.tls import tls_of

PREFIX: Final = "PERDURE_"
LEVELS: Final = ("debug", "info", "warning", "error")


def _field(default: Any, help: str, *checks: Any, reload: bool = False, converter: Any = None) -> Any:
    return attrs.field(default=default, converter=converter, validator=list(checks), metadata={"help": help, "reload": reload})


def _flag(default: bool, help: str, *, reload: bool = False) -> Any:
    return _field(default, help, _is(bool, "true or false"), reload=reload)


def _text(help: str) -> Any:
    return _field("", help, _is(str, "a text"))


def _texts(default: tuple[str, ...], help: str, *, reload: bool = False) -> Any:
    return _field(default, help, _are_texts, reload=reload, converter=_listed)


def _number(default: int, least: int, most: int, help: str, *, reload: bool = False) -> Any:
    return _field(default, help, whole_number(least, most), reload=reload)


def _seconds(default: float, most: int, help: str, *, reload: bool = False) -> Any:
    return _field(default, help, number(0, most), reload=reload, converter=as_float)


def _is(kind: type, told: str) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, kind):
            raise ValueError(f"{attribute.name} is {told}, not {value!r}")

    return check


def _one_of(*choices: str) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in choices:
            raise ValueError(f"{attribute.name} is one of {', '.join(choices)}, not {value!r}")

    return check


def _listed(value: Any) -> Any:
    """A list as a tuple, a text with commas too; what is neither as it is, for the validator to refuse."""
    if isinstance(value, str):
        return tuple(stripped for part in value.split(",") if (stripped := part.strip()))
    return tuple(value) if isinstance(value, list) else value


def _are_texts(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, tuple) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{attribute.name} is a list of texts, not {list(value) if isinstance(value, tuple) else value!r}")


@attrs.frozen(kw_only=True)
class ServeConfig:
    """All that a daemon is told beside its app.

    Raises:
      ValueError: a value is outside its bounds, or two do not go together.
    """

    store: str = _text("The store's URL.")
    blobs: str = _text("Where large objects go, and archives: directory:DIR or ipfs://HOST:PORT. Empty: nowhere.")
    create: bool = _flag(True, "Make the store if there is none.")
    changed: str = _field("refuse", "A projection whose definition has changed: refuse (it stands still) or rebuild.", _one_of("refuse", "rebuild"))
    spent: str = _field("leave", "A model out of restarts: leave (it stands still, the others go on) or fail (the daemon ends).", _one_of("leave", "fail"))

    # -- who may reach it --------------------------------------------------------------------
    listen: tuple[str, ...] = _texts(("127.0.0.1:8467",), "Addresses to listen on, HOST:PORT each; port 0 takes a free one.")
    insecure: bool = _flag(False, "Listen without TLS on addresses that are not loopback: tokens and data go over the wire as they are.")
    tls_cert: str = _text("The certificate chain, a PEM file: serve HTTPS.")
    tls_key: str = _text("Its private key, a PEM file; empty: it is in tls_cert.")
    tokens: bool = _flag(True, "Ask for a token (`perdure token new`). false: whoever reaches a loopback address may do everything.")
    hosts: tuple[str, ...] = _texts((), "What requests may call this host, beside the addresses listened on and localhost.", reload=True)
    origins: tuple[str, ...] = _texts((), "Web pages elsewhere that may send requests, as https://app.example (CORS).", reload=True)
    failures_per_minute: int = _number(30, 1, 1_000_000, "Requests with a wrong token that an address may make in a minute; then 429.", reload=True)

    # -- how much at once --------------------------------------------------------------------
    connections_max: int = _number(2_000, 1, 100_000, "Connections at one time; one more is answered 503.")
    followers_max: int = _number(500, 0, 100_000, "Live streams at one time; one more is answered 503.", reload=True)
    head_bytes: int = _number(32 * 1024, 1_024, MIB, "The request line and all headers.")
    body_bytes: int = _number(4 * MIB, 1_024, 256 * MIB, "The body of a request; a larger one is answered 413.", reload=True)
    bodies_bytes: int = _number(64 * MIB, 1_024, 4_096 * MIB, "All bodies that are in memory at one time; who finds no room waits, then 503.", reload=True)
    blob_bytes: int = _number(1_024 * MIB, 1_024, 1 << 50, "A blob; a larger one is answered 413.", reload=True)
    blobs_max: int = _number(16, 1, 10_000, "Blobs that come in or go out at one time, up to 16 MiB of memory each; one more waits, then 503.", reload=True)
    page_max: int = _number(1_000, 1, 100_000, "Events, entries or names in a page, however many are asked for.", reload=True)

    # -- how long ----------------------------------------------------------------------------
    idle_s: float = _seconds(60, 86_400, "A connection on which nothing is asked is closed; also the time for a request's head, and for TLS.")
    body_s: float = _seconds(30, 86_400, "The time for a request's body to arrive (of a blob, for each MiB); then 408.", reload=True)
    send_s: float = _seconds(30, 86_400, "Who does not take what it asked for, for so long, is cut off.")
    answer_s: float = _seconds(60, 86_400, "The time for an answer (not of live streams, nor of the bytes of a blob); then 503.", reload=True)
    wait_s: float = _seconds(30, 86_400, "How long a request may wait for a model to reach a position, at most.", reload=True)
    alive_s: float = _seconds(15, 3_600, "A live stream that has nothing to say says so after this long.", reload=True)
    drain_s: float = _seconds(5, 3_600, "From SIGTERM to the end: requests finish, projections save, leases are given back.")

    # -- when it is ready --------------------------------------------------------------------
    ready_lag_events: int = _number(100_000, 0, 1 << 62, "Ready means: no projection run here is further behind.", reload=True)
    ready_lag_s: float = _seconds(60, 1_000_000_000, "And none by more time.", reload=True)
    ready_faulted: str = _field("refuse", "A model that stands still: refuse (not ready) or ignore.", _one_of("refuse", "ignore"), reload=True)
    ready_stuck_s: float = _seconds(60, 1_000_000_000, "And none has stood still for longer while there is more to fold.", reload=True)
    metrics_open: bool = _flag(False, "/metrics without a token, for whoever reaches an address that is listened on.", reload=True)
    trace_share: float = _field(
        0.01,
        "Of requests that bring no trace, so many begin one, where OpenTelemetry is set up; what they bring is followed.",
        number(0, 1),
        reload=True,
        converter=as_float,
    )
    log_format: str = _field("console", "console (for people), json (a document a line), auto (console on terminals).", _one_of("console", "json", "auto"))
    log_level: str = _field("info", "What is told on standard error, at least: debug, info, warning or error.", _one_of(*LEVELS), reload=True)

    limits: Limits = attrs.field(
        default=LIMITS, validator=validators.instance_of(Limits), metadata={"help": "The store's limits, retention too; a table.", "reload": False}
    )

    def __attrs_post_init__(self) -> None:
        for host, _ in self.addresses():
            loopback = is_loopback(host)
            if not loopback and not (self.tls_cert or self.insecure):
                raise ValueError(f"listen on {host!r} needs a certificate (tls_cert), for it is not loopback; insecure = true does without")
            if not loopback and not self.tokens:
                raise ValueError(f"listen on {host!r} needs tokens, for it is not loopback: leave tokens = true")
        if self.tls_key and not self.tls_cert:
            raise ValueError("tls_key without tls_cert: name the certificate")
        for origin in self.origins:
            scheme, separator, host = origin.partition("://")
            if scheme not in ("http", "https") or not separator or not host or "/" in host:
                raise ValueError(f"origins: {origin!r} is none: write https://app.example")
        if self.bodies_bytes < self.body_bytes:
            raise ValueError("bodies_bytes is all bodies together: it cannot be less than body_bytes")

    def addresses(self) -> Iterator[tuple[str, int]]:
        """What is listened on, as hosts and ports."""
        if not self.listen:
            raise ValueError("listen names no address: write 127.0.0.1:8467")
        for one in self.listen:
            host, colon, port = one.rpartition(":")
            if not (colon and host and port.isascii() and port.isdecimal() and int(port) < 1 << 16):
                raise ValueError(f"listen: {one!r} is no address: write HOST:PORT, as in 127.0.0.1:8467 or [::1]:8467")
            yield host.removeprefix("[").removesuffix("]"), int(port)

    def limits_in_time(self) -> Limits:
        """The limits, with closing bounded by what draining leaves for it."""
        return attrs.evolve(self.limits, close_s=min(self.limits.close_s, max(0.1, self.drain_s * CLOSING_SHARE)))


CLOSING_SHARE: Final = 0.6
"""Of `drain_s` for the runtime; requests have the rest."""


def is_loopback(host: str) -> bool:
    """Whether nobody outside of this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# -- where it comes from ---------------------------------------------------------------------


def load(file: str | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None) -> ServeConfig:
    """The configuration that these say; names and values in *flags* as they stand behind `--set`.

    Raises:
      Misuse: a name that there is not, a value that does not fit, a file that is none, a certificate that cannot be loaded.
    """
    table: dict[str, Any] = {}
    _merge(table, _read(file) if file else {}, f"{file}", typed=True)
    _merge(table, _from_environment(environment or {}), "the environment")
    _merge(table, dict(flags or {}), "the command line")
    limits = table.pop("limits", {})
    try:
        bounds = Limits(**limits)
    except ValueError as error:
        raise Misuse(f"the configuration: limits.{error}") from error
    try:
        found = ServeConfig(**table, limits=bounds)
        tls_of(found.tls_cert, found.tls_key)
    except ValueError as error:
        raise Misuse(f"the configuration: {error}") from error
    return found


def _read(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as opened:
            return tomllib.load(opened)
    except OSError as error:
        raise Misuse(f"the configuration {file!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Misuse(f"the configuration {file!r} is not TOML: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in environment.items():
        short = name.removeprefix(PREFIX).lower()
        if not name.startswith(PREFIX):
            continue
        if short in NAMES:
            found[short] = text
        elif short.removeprefix("limits_") in LIMIT_NAMES and short.startswith("limits_"):
            found[f"limits.{short.removeprefix('limits_')}"] = text
    return found


def _merge(table: dict[str, Any], more: Mapping[str, Any], where: str, *, typed: bool = False) -> None:
    """Put *more* over *table*; where it is not *typed* itself, texts become what their field is."""
    for name, value in more.items():
        if name == "limits":
            if not isinstance(value, Mapping):
                raise Misuse(f"the configuration: limits is a table, in {where} it is {value!r}")
            for inner, limit in value.items():
                _put_limit(table, inner, limit, where, typed)
        elif name.startswith("limits."):
            _put_limit(table, name.removeprefix("limits."), value, where, typed)
        elif name in NAMES:
            table[name] = value if typed else _of_text(NAMES[name], value)
        else:
            raise Misuse(f"the configuration has no {name!r} ({where}); docs/serve.md lists what there is")


def _put_limit(table: dict[str, Any], name: str, value: Any, where: str, typed: bool) -> None:
    if name not in LIMIT_NAMES:
        raise Misuse(f"the configuration has no limits.{name} ({where}); docs/serve.md lists what there is")
    table.setdefault("limits", {})[name] = value if typed else _of_text(LIMIT_NAMES[name], value)


TRUTHS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _of_text(kind: Any, value: Any) -> Any:
    """A text as *kind*; what cannot be that as it is, for the validator to refuse."""
    if not isinstance(value, str):
        return value
    if kind is bool:
        return TRUTHS.get(value.lower(), value)
    try:
        return kind(value) if kind in (int, float) else value
    except ValueError:
        return value


NAMES: Final = {name: kind for name, kind in get_type_hints(ServeConfig).items() if name != "limits"}
LIMIT_NAMES: Final = get_type_hints(Limits)
RELOADED: Final = frozenset(field.name for field in attrs.fields(ServeConfig) if field.metadata["reload"])
"""What takes effect by SIGHUP; the rest at the next start."""


def reload(running: ServeConfig, wanted: ServeConfig) -> tuple[ServeConfig, tuple[str, ...], tuple[str, ...]]:
    """What runs from now on; the names of what changed by that, and of what would need a new start."""
    changed = [name for name in attrs.fields_dict(ServeConfig) if getattr(running, name) != getattr(wanted, name)]
    now = tuple(name for name in changed if name in RELOADED)
    return attrs.evolve(running, **{name: getattr(wanted, name) for name in now}), now, tuple(name for name in changed if name not in RELOADED)
