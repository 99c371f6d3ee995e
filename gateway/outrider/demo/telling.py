"""How an agent's process tells the demonstration what happens: lines of JSON on its standard output."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

_lock = threading.Lock()
_out = sys.stdout


def tell(event: str, **fields: Any) -> None:
    """One line of JSON for the demonstration, which watches."""
    with _lock:
        _out.write(json.dumps({"event": event, **fields}) + "\n")
        _out.flush()


def alone() -> None:
    """From now on nobody else writes there: what a framework prints goes to standard error."""
    global _out
    _out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
