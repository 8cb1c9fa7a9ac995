"""Routing: `Router` is the way in; see docs/routing.md."""

from workers.router.call import RetryPolicy
from workers.router.plan import Plan
from workers.router.router import Router
from workers.router.shared_state import SharedState
from workers.router.targets import BreakerPolicy, Target

__all__ = ["BreakerPolicy", "Plan", "RetryPolicy", "Router", "SharedState", "Target"]
