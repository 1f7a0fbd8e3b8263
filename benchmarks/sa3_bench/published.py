"""Numbers others published, quoted with where they stand. None of them was measured here."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "README of Stability-AI/stable-audio-3 at commit 62d70c5 (2026)"
NOTES = (
    "Mac CPU is CoreML for the transformer and TFLite for the decoder; the chip is not named.",
    "The peak is allocated device memory on an H200, decoding in one pass.",
    "Whether the optimised columns make the 6 s of padding that the reference makes is not said; ours do.",
)
COLUMNS = ("H200", "H200 + TensorRT", "Mac CPU", "Mac CoreML")


@dataclass(frozen=True)
class Row:
    """Seconds per column, and the H200's peak in GB."""

    model: str
    seconds: float
    times: tuple[float | None, ...]
    peak_gb: float


TABLE = (
    Row("small", 5, (0.41, 0.017, 0.70, 0.23), 1.69),
    Row("small", 30, (0.46, 0.022, 1.72, 0.63), 1.89),
    Row("small", 120, (0.45, 0.044, 5.92, 3.09), 2.40),
    Row("medium", 5, (0.60, 0.02, None, None), 5.07),
    Row("medium", 30, (0.65, 0.05, None, None), 5.49),
    Row("medium", 120, (0.78, 0.13, None, None), 6.49),
    Row("medium", 380, (1.31, 0.43, None, None), 6.52),
)
# Released models under the names of that table.
NAMES = {
    "small": "small",
    "small-music": "small",
    "small-sfx": "small",
    "medium": "medium",
}


def row(model: str, seconds: float) -> Row | None:
    name = NAMES.get(model)
    return next((one for one in TABLE if one.model == name and one.seconds == seconds), None)


@dataclass(frozen=True)
class Other:
    hardware: str
    stack: str
    small: str
    medium: str
    memory: str
    source: str


OTHERS = (
    Other(
        "H100 SXM", "TensorRT", "about 25 / 30 / 50 ms (3 / 30 / 120 s)", "about 45 / 75 / 150 ms (3 / 30 / 120 s)",
        "8 GB / 14 GB resident", "optimized/tensorRT/README of upstream at 8826597",
    ),
    Other(
        "M4 Pro 48 GB", "MLX", "0.80 / 1.53 / 4.12 s (5 / 30 / 120 s)", "2.20 / 5.06 / 14.68 / 47.78 s",
        "1.62-2.58 / 3.82-5.21 GB", "optimized/mlx/README of upstream",
    ),
    Other("M1 8 GB", "MLX", "10 s: about 1 s", "10 s: about 5 s", "1.6 / 3.8 GB", "optimized/mlx/README of upstream"),
    Other(
        "RTX 5090 (not named on these rows)", "audio.cpp, ggml CUDA", "120 s: 1.41-1.49 s", "120 s: 3.85 s",
        "3.66 / 10.4 GiB", "reports/memory_saver.md of 0xShug0/audio.cpp",
    ),
    Other(
        "RTX 5070 Laptop 8 GB", "sa3.cpp, CUDA f16, with the load", "", "12 s: 3.6 s, 30 s: 4.4 s, 120 s: 9.1 s",
        "5.7 GB", "docs/BENCHMARKS.md of betweentwomidnights/sa3.cpp",
    ),
    Other(
        "RTX 2080 Ti", "MNN, CUDA int8", "10 s: 2.07 s, 30 s: 1.56 s, 120 s: 3.68 s", "", "1.6 GB",
        "README of cgisky1980/stable-audio-3-rs",
    ),
    Other(
        "M5 Max", "eacp, Metal fp32", "12 s: 0.36 s", "30 s: 1.6 s", "15 / 19 GB resident",
        "PERFORMANCE.md of jamierpond/StableAudio3",
    ),
    Other(
        "Core Ultra 9 275HX, 24 threads", "sa3.cpp, CPU, 4 steps", "5 s: 2.86 s, 60 s: 9.4 s", "", "",
        "docs/BENCHMARKS.md of betweentwomidnights/sa3.cpp",
    ),
    Other(
        "2 virtual cores with AMX", "PyTorch fp32 (reference), random weights", "6.4 / 15.5 / 57 s (5 / 30 / 120 s)",
        "", "3.0 GB", "measured before this project began; not repeated here",
    ),
    Other(
        "2 virtual cores with AMX", "sa3.cpp f32, same runs interleaved", "1.6 / 1.5 / 1.7 times slower than PyTorch",
        "", "3.4 GB", "measured before this project began; not repeated here",
    ),
)  # fmt: skip
