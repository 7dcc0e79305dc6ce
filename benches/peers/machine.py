"""What the system tells of the machine; None where it doesn't."""

import time
from pathlib import Path


def processor():
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    names = (line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    return next(names, None)


def busy_share(seconds):
    """Waits so long; how much of all processors' time was used meanwhile."""
    before = processor_times()
    time.sleep(seconds)
    after = processor_times()
    if before is None or after is None:
        return None
    idle, total = after[0] - before[0], after[1] - before[1]
    return 1 - idle / total if total else None


def processor_times():
    """(idle, all) time of all processors together, in ticks."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    times = [int(field) for field in first.split()[1:9]]
    return times[3] + times[4], sum(times)
