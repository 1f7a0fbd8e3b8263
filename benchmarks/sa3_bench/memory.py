"""Memory of this process: what is resident, its peak, and a device's peak. MB are 10^6 bytes."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_mb() -> float | None:
    return _status("VmRSS")


def peak_mb() -> float | None:
    """Since the process began, or since `reset`."""
    found = _status("VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return _windows_peak_mb()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def reset() -> bool:
    """Lets the peak start anew, where Linux allows it; elsewhere it is the process's for good."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> float | None:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 / 1e6 if found else None


def _windows_peak_mb() -> float | None:
    with contextlib.suppress(ImportError, AttributeError):
        import psutil

        info: Any = psutil.Process().memory_info()
        return info.peak_wset / 1e6
    return None


class Device:
    """An NVIDIA GPU as PyTorch sees it; nothing where the model runs on a processor or without PyTorch."""

    def __init__(self, device: str) -> None:
        torch: Any = sys.modules.get("torch")
        self._cuda: Any = torch.cuda if torch is not None and device.startswith("cuda") else None
        self._device = device

    def settle(self) -> None:
        """Waits until everything asked of the device is done."""
        if self._cuda is not None:
            self._cuda.synchronize(self._device)

    def reset(self) -> None:
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats(self._device)

    def peak_mb(self) -> float | None:
        """Allocated, as the published table counts it."""
        return None if self._cuda is None else self._cuda.max_memory_allocated(self._device) / 1e6

    def reserved_mb(self) -> float | None:
        """What PyTorch holds of the device, its own spare included."""
        return None if self._cuda is None else self._cuda.max_memory_reserved(self._device) / 1e6
