"""Alignment methods as data: sampler settings, advantage and loss, and the update they share."""

from methods.catalog import CATALOG, difference, method_named
from methods.method import Method

__all__ = ["CATALOG", "Method", "difference", "method_named"]
