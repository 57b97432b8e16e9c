"""What a run cost: seconds a step, and peak memory where the system tells it."""

import ctypes
import statistics
import time
from pathlib import Path

import torch

WARM_UP_STEPS = 5
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class StepClock:
    """Seconds of whole training steps: batch, forward, miner, loss, backward and optimizers."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self._since = 0.0

    def resume(self) -> None:
        """Start counting the next step here."""
        self._since = self._now()

    def step(self) -> None:
        """A step ends here and the next one starts."""
        now = self._now()
        self.seconds.append(now - self._since)
        self._since = now

    def median(self) -> float | None:
        """After the warm-up; None where no step is left."""
        counted = self.seconds[WARM_UP_STEPS:]
        return statistics.median(counted) if counted else None

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class PeakMemory:
    """Largest memory between ``start`` and ``stop`` over all such spans.

    On CUDA what torch allocated; on Linux what the whole process held in RAM, Python, libraries and
    data included (VmHWM, which writing 5 to clear_refs resets). None elsewhere.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mib: float | None = None
        self._started = False

    def start(self) -> None:
        """Forget the peak so far."""
        self._started = True
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        _give_back_free_memory()
        try:
            _CLEAR_REFS.write_text("5")
        except OSError:  # not Linux, or not allowed: an older peak would be reported
            self._started = False

    def stop(self) -> None:
        """Keep the peak since ``start`` if it is the largest one."""
        mib = self._read() if self._started else None
        if mib is not None:
            self.mib = max(mib, self.mib or 0.0)

    def _read(self) -> float | None:
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device)) / 2**20
        return _of_process("VmHWM")


def resident_mib() -> float | None:
    """What the process holds in RAM now; None where the system does not tell."""
    return _of_process("VmRSS")


def _of_process(name: str) -> float | None:
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024  # kB -> MiB
    return None


def _give_back_free_memory() -> None:
    """What earlier runs freed and glibc kept would count as this run's; glibc only."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library
        return
