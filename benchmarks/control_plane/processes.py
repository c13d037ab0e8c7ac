"""What processes weigh."""

from __future__ import annotations

from pathlib import Path


def resident_mb(pid: int) -> float:
    """Resident set size now, in megabytes (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
