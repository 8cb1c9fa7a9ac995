"""Replays a trace through the decision code, against other ways to scale."""
