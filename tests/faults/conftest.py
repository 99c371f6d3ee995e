"""Real processes: a gateway and a scripted upstream for each test."""

from outrider.testing.pytest_plugin import outrider_gateway, scripted_upstream

__all__ = ["outrider_gateway", "scripted_upstream"]
