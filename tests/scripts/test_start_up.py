"""scripts/start_up.py: processor time is that of the process and of what it starts."""

from __future__ import annotations

import pytest

from scripts import start_up

SPIN = "import time\nwhile time.process_time() < 0.3: pass\n"


def test_time_of_children_counts() -> None:
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}], check=True)"
    assert 0.3 <= start_up.seconds(["-c", inner]) < 3


def test_another_status_may_be_the_right_one() -> None:
    assert start_up.seconds(["-c", "import sys; sys.exit(2)"], status=2) < 3


def test_a_process_that_fails_ends_the_measurement() -> None:
    with pytest.raises(SystemExit, match="out of luck"):
        start_up.seconds(["-c", "import sys; sys.exit('out of luck')"])


def test_the_table_tells_median_and_range() -> None:
    lines = start_up.table({"torch": [3.0, 1.0, 2.5]})
    assert lines[2:] == ["| torch | 2.50 | 1.00 to 3.00 |"]
