"""Which cores a command stays on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sa3_engines.errors import InvalidRequest
from sa3_runtime.command import cores


def test_lists_and_ranges():
    assert cores.parse("0") == {0}
    assert cores.parse("0-3, 6") == {0, 1, 2, 3, 6}


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "-1", "0-", "99999"])
def test_what_is_no_list(text: str):
    with pytest.raises(InvalidRequest, match="write numbers and ranges, as in 0-3,6"):
        cores.parse(text)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no such call")
def test_the_process_stays_on_them():
    one = min(os.sched_getaffinity(0))
    code = f"import os; from sa3_runtime.command import cores; cores.pin('{one}'); print(os.sched_getaffinity(0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str({one})
    with pytest.raises(InvalidRequest, match="--cores 4095: 4095 cannot be used; this process has"):
        cores.pin("4095")
