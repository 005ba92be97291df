"""Backends that are broken on purpose, each in one way: the laws must catch every one of them."""

from .writing import LIARS, Liar, LiarStores

__all__ = ["LIARS", "Liar", "LiarStores"]
