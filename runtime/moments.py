"""A time as people write it: ISO 8601 with a zone, the same forms everywhere. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from perdure.backends.errors import Misuse


def moment_of(text: str, what: str) -> datetime:
    """The time that *text* says, in UTC; *what* names it in an error.

    Raises:
      Misuse: it is none, or has no zone.
    """
    try:
        moment = datetime.fromisoformat(text.upper())
        in_utc = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Misuse(f"{what} {text!r} is not ISO 8601: write 2026-03-01T12:00Z") from error
    if moment.tzinfo is None:
        raise Misuse(f"{what} {text!r} has no zone: write {moment.isoformat()}Z for UTC")
    return in_utc
