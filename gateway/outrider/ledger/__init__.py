"""The append-only audit log, the system of record."""
