"""Energy counters the machine has: the processor's (RAPL) and an NVIDIA GPU's. Where there is none, it says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """A running total in joules, which starts over at `wraps`."""

    name: str
    path: Path
    wraps: float

    def read(self) -> float:
        return int(self.path.read_text()) / 1e6


class Meter:
    """Joules between `start` and `stop`, per counter."""

    def __init__(self, device: str = "cpu") -> None:
        self.why_not: list[str] = []
        self._counters = self._processor()
        self._gpu = self._nvidia(device) if device.startswith("cuda") else None
        self._at: dict[str, float] = {}

    def start(self) -> None:
        self._at = self._now()

    def stop(self) -> Mapping[str, float]:
        wraps = {counter.name: counter.wraps for counter in self._counters}
        spent = {name: value - self._at[name] for name, value in self._now().items()}
        return {name: value if value >= 0 else value + wraps.get(name, 0.0) for name, value in spent.items()}

    def _now(self) -> dict[str, float]:
        found = {counter.name: counter.read() for counter in self._counters}
        if self._gpu is not None:
            nvml, handle = self._gpu
            found["gpu"] = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
        return found

    def _processor(self) -> list[Counter]:
        found: list[Counter] = []
        # Packages and memory; what lies inside a package is in its total already.
        for folder in sorted(POWERCAP.glob("*-rapl:*")):
            try:
                name = (folder / "name").read_text().strip()
                if not name.startswith(("package", "dram", "psys")):
                    continue
                counter = Counter(
                    f"{name} {folder.name}",
                    folder / "energy_uj",
                    int((folder / "max_energy_range_uj").read_text()) / 1e6,
                )
                counter.read()
            except OSError as e:
                self.why_not.append(f"{folder.name}: {e.strerror or e}")
                continue
            found.append(counter)
        if not found and not self.why_not:
            self.why_not.append("no energy counters of the processor are shown by this system")
        return found

    def _nvidia(self, device: str) -> tuple[Any, Any] | None:
        try:
            import pynvml  # pyright: ignore[reportMissingImports]
        except ImportError:
            self.why_not.append("the GPU's counter needs the package nvidia-ml-py")
            return None
        nvml: Any = pynvml
        try:
            nvml.nvmlInit()
            handle = nvml.nvmlDeviceGetHandleByIndex(int(device.partition(":")[2] or 0))
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except nvml.NVMLError as e:
            self.why_not.append(f"the GPU's counter: {e}")
            return None
        return nvml, handle
