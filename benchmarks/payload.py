"""The payload that every side stores, and the fold that every side replays into.

Five fields, 99 bytes of msgpack. The fold adds up cents: about the cheapest there is, so that stores are measured and not folds.
"""

from collections.abc import Iterator

import attrs
import msgspec

ACCOUNTS_COUNT = 10_000
PAYLOAD_BYTES = 99


@attrs.frozen
class Payment:
    account: str
    cents: int
    currency: str
    reference: str
    note: str


encode_payment = msgspec.msgpack.Encoder().encode
decode_payment = msgspec.msgpack.Decoder(Payment).decode


def payment(index: int) -> Payment:
    """The payment number *index*: account by turns, cents between 1,001 and 2,000, so that all have one size."""
    return Payment(
        account=f"account-{index % ACCOUNTS_COUNT:05d}",
        cents=1_001 + index % 1_000,
        currency="EUR",
        reference=f"invoice-{index:012d}",
        note="monthly bill paid",
    )


def payments(count: int, *, start: int = 0) -> Iterator[Payment]:
    return (payment(index) for index in range(start, start + count))


def total_of(count: int) -> int:
    """What the fold over the first *count* payments must give."""
    whole, rest = divmod(count, 1_000)
    return whole * sum(range(1_001, 2_001)) + sum(range(1_001, 1_001 + rest))


def add_payment(total: int, data: Payment) -> int:
    """The step of the fold."""
    return total + data.cents
