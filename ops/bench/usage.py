"""What the processes of a system use, read from /proc."""

import hashlib
import json
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

SYNCS = 500
LOOPS = 20_000
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, float]:
    """What every figure here rests on: cores, how often a second this disk makes 4 KiB durable, and how long a little
    Python takes (JSON and sha256 of a small object), which on shared machines is not the same from minute to minute."""
    with tempfile.NamedTemporaryFile(prefix="cairn-bench-") as file:
        begun = time.perf_counter()
        for _ in range(SYNCS):
            file.write(b"x" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
        seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    for number in range(LOOPS):
        hashlib.sha256(json.dumps({"position": number, "type": "task.started", "actor": "bench"}).encode()).digest()
    python_us = (time.perf_counter() - begun) / LOOPS * 1e6
    return {
        "cores": os.cpu_count() or 1, "fdatasync_per_s": round(SYNCS / seconds), "python_us": round(python_us, 2)
    }  # fmt: skip


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
