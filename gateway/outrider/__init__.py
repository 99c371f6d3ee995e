"""Outrider: a sidecar that rides beside AI agents and governs every tool call they make."""

__version__ = "0.1.0"
