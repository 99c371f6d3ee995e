"""The functions that the clerks have as tools. They know no framework and no Outrider, and they count themselves."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from outrider.demo.clerks.duties import DONE

TALLY = "CLERKS_TALLY"
"""The environment variable with the file to which every execution adds a line, before anything else happens."""
REMIND_S = 0.3


class Functions:
    """Of one clerk. The names are the tools' names."""

    def __init__(self, clerk: str) -> None:
        self._clerk = clerk
        self._searches = 0

    def __getitem__(self, tool: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(self, tool)
        return function

    def find_parcel(self, number: int) -> str:
        """Where a parcel is."""
        self._tally("find_parcel")
        self._searches += 1
        if self._searches <= 2:
            raise ConnectionRefusedError("the tracker is not up yet")
        return f"{DONE}parcel {number} is in Bremen"

    def weigh_parcel(self, number: int) -> str:
        """What a parcel weighs."""
        self._tally("weigh_parcel")
        raise ConnectionRefusedError(f"the scale is off, parcel {number} stays unweighed")

    def pay_back(self, number: int) -> str:
        """Pays an order back. The money is gone when the connection breaks."""
        self._tally("pay_back")
        raise ConnectionResetError(f"the bank's answer to order {number} was lost")

    def remind(self, number: int) -> str:
        """Reminds a customer, which takes a moment."""
        self._tally("remind")
        time.sleep(REMIND_S)
        return f"{DONE}customer {number} is reminded"

    def _tally(self, tool: str) -> None:
        line = json.dumps({"clerk": self._clerk, "tool": tool}) + "\n"
        with Path(os.environ[TALLY]).open("ab", buffering=0) as file:  # one write: the processes' lines do not mix
            file.write(line.encode())
