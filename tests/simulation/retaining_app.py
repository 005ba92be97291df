"""The app that most simulations run, with retention."""

from __future__ import annotations

import attrs
from app import APP as PLAIN

from perdure.backends.limits import Limits
from perdure.runtime import Retention

APP = attrs.evolve(PLAIN, retention=[Retention(streams=["order-1"], age_s=2), Retention(categories=["order"], count=2)])
LIMITS = Limits(page_records=8, commit_s=2)
"""What has been cut is swept soon."""
