"""The frameworks' own test suites, run through the adapters: see ``docs/coverage.md``."""
