"""What the processes of a system use, read from /proc."""

import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

SYNCS = 500
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, float]:
    """What every figure here rests on: cores, and how often a second this disk makes 4 KiB durable."""
    with tempfile.NamedTemporaryFile(prefix="cairn-bench-") as file:
        begun = time.perf_counter()
        for _ in range(SYNCS):
            file.write(b"x" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
        seconds = time.perf_counter() - begun
    return {"cores": os.cpu_count() or 1, "fdatasync_per_s": round(SYNCS / seconds)}


def memory_mb(pid: int) -> int:
    """Resident memory of one process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024


def cpu_seconds(pid: int) -> dict[str, float]:
    """CPU time so far of a process (`own`) and of what it started, by program, with children that have ended."""
    used: dict[int, tuple[str, float]] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:  # it ended while we looked
            continue
        fields = rest.split()
        ticks = sum(map(int, fields[11:15])) if name == "postgres" else sum(map(int, fields[11:13]))
        used[int(entry.name)] = name, ticks * TICK_SECONDS
        children[int(fields[1])].append(int(entry.name))
    found: dict[str, float] = defaultdict(float, own=used[pid][1])
    front = list(children[pid])
    while front:
        child = front.pop()
        name, seconds = used[child]
        found[name] += seconds
        front += children[child]
    return found
