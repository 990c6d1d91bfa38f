"""The cards that the image is for: memory, price, and what others say of their speed."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec

TABLE = Path(__file__).with_name("cards.toml")


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A card.

    Attributes:
        name: as it is sold.
        match: parts of the names that NVIDIA's driver gives it.
        memory_gb: of it.
        claimed: audio tokens a second, by who claims them; nobody here has measured them.
        dollars_per_hour: price of a machine with it; None: not known.
        source: of the price.
        date: of the price.
    """

    name: str
    match: list[str]
    memory_gb: int
    claimed: dict[str, int]
    dollars_per_hour: float | None = None
    source: str = ""
    date: datetime.date | None = None


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    card: list[Card]


def cards() -> list[Card]:
    """Return all cards of the table."""
    return msgspec.toml.decode(TABLE.read_bytes(), type=_Table).card


def find(product: str) -> Card | None:
    """Return the card with a product name, such as `NVIDIA L40S`."""
    words = product.split()
    found = [
        (len(part), card)
        for card in cards()
        for part in card.match
        if product and f" {part} " in f" {' '.join(words)} "
    ]
    return max(found, key=lambda x: x[0])[1] if found else None
