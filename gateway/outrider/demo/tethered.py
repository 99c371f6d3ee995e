"""``outrider``, ended with whoever started it: ``python -m outrider.demo.tethered serve …``.

The demonstration may be killed in a way that lets it end nothing. Its agents and its tool server end when their
standard input does; a sidecar has no use for one, so here something reads it, and asks the sidecar to end as a person
would.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from outrider.cli import main

STDIN = 0


def tether() -> None:
    """Until the end of the input. The bare descriptor is read: a lock held in ``sys.stdin`` would disturb the exit."""
    while os.read(STDIN, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=tether, name="tether", daemon=True).start()
    sys.exit(main())
