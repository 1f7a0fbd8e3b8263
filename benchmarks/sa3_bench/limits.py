"""What this machine can do at most: matrix products per second and bytes per second, measured on the spot."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sa3_engines import processor

SHAPES = ((512, 1024, 4096), (2048, 1024, 4096), (452, 1024, 8192))  # rows, inner, columns: a transformer's
TASTE, SLOW = (128, 1024, 1024), 5.0  # a small product, and the GFLOP/s below which no larger one is tried
SECONDS = 0.25  # for each probe
BYTES = 1 << 28  # per array of the bandwidth probe: far more than any cache


def measure(threads: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """gemm: GFLOP/s by library and precision; bandwidth: GB/s. Best of several tries each."""
    count = threads or processor.cores()
    gemm: dict[str, float] = {}
    problems: dict[str, str] = {}
    if device == "cpu":
        gemm["numpy fp32"] = _best(_numpy)
        bandwidth = _bandwidth(count)
    else:
        bandwidth = math.nan
    if importlib.util.find_spec("torch") is not None:
        bandwidth = _torch(count, device, gemm, problems, bandwidth)
    if device == "cpu" and importlib.util.find_spec("onnx") is not None:
        gemm["onnxruntime fp32"] = _best(lambda *shape: _onnx(count, *shape))
    return {
        "device": device,
        "threads": count,
        "gemm_gflops": gemm,
        "bandwidth_gb_s": bandwidth,
        "not_measured": problems,
    }


def peak(limits: Mapping[str, Any], precision: str) -> tuple[float, str]:
    """The best product in a precision over all libraries, and which it was; fp32's where that precision has none, or
    is only imitated and slower. Weights of four bits are multiplied as bytes.
    """
    gemm: Mapping[str, float] = limits["gemm_gflops"]
    if not gemm:
        return math.nan, "none"
    kind = "int8" if precision == "int4" else precision
    chosen = {name: value for name, value in gemm.items() if name.split()[-1] in (kind, "fp32")} or gemm
    name = max(chosen, key=lambda n: chosen[n])
    return chosen[name], name


def seconds(limits: Mapping[str, Any], work: Mapping[str, float], precision: str) -> float:
    """The least time for some work: whichever of arithmetic and memory takes longer."""
    gflops, _ = peak(limits, precision)
    return max(work["flops"] / gflops / 1e9, work["bytes"] / limits["bandwidth_gb_s"] / 1e9)


def _best(make: Callable[[int, int, int], Callable[[], None]], *, emulated: bool = False) -> float:
    """GFLOP/s of the best try over the shapes. What may be emulated is tasted first: it could take minutes."""
    if emulated:
        m, k, n = TASTE
        rate = 2 * m * k * n / _fastest(make(m, k, n), 0.05) / 1e9
        if rate < SLOW:
            return rate
    return max(2 * m * k * n / _fastest(make(m, k, n), SECONDS) / 1e9 for m, k, n in SHAPES)


def _fastest(work: Callable[[], None], seconds: float = SECONDS) -> float:
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _numpy(m: int, k: int, n: int) -> Callable[[], None]:
    a, b, out = np.ones((m, k), np.float32), np.ones((k, n), np.float32), np.empty((m, n), np.float32)

    def work() -> None:
        np.matmul(a, b, out=out)

    return work


def _bandwidth(threads: int) -> float:
    """GB/s of adding two arrays into a third, each thread its own part."""
    count = BYTES // 4 // threads
    parts = [tuple(np.ones(count, np.float32) for _ in range(3)) for _ in range(threads)]

    def add(part: tuple[np.ndarray, ...]) -> None:
        np.add(part[0], part[1], out=part[2])

    with ThreadPoolExecutor(threads) as pool:

        def work() -> None:
            list(pool.map(add, parts))

        return 3 * 4 * count * threads / _fastest(work) / 1e9


def _torch(threads: int, device: str, gemm: dict[str, float], problems: dict[str, str], bandwidth: float) -> float:
    import torch as imported

    torch: Any = imported
    torch.set_num_threads(threads)
    settle = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)

    def product(dtype: Any) -> Callable[[int, int, int], Callable[[], None]]:
        def make(m: int, k: int, n: int) -> Callable[[], None]:
            a, b = (torch.ones(shape, device=device).to(dtype) for shape in ((m, k), (k, n)))

            def work() -> None:
                torch._int_mm(a, b) if dtype == torch.int8 else torch.mm(a, b)
                settle()

            return work

        return make

    for name, dtype in (
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
        ("int8", torch.int8),
    ):
        try:
            with torch.inference_mode():
                gemm[f"torch {name}"] = _best(product(dtype), emulated=name != "fp32")
        except (RuntimeError, NotImplementedError) as e:
            problems[f"torch {name}"] = str(e).partition("\n")[0]
    if not device.startswith("cuda"):
        return bandwidth
    a, b, out = (torch.ones(1 << 28, device=device) for _ in range(3))

    def add() -> None:
        torch.add(a, b, out=out)
        settle()

    return 3 * a.numel() * 4 / _fastest(add) / 1e9


def _onnx(threads: int, m: int, k: int, n: int) -> Callable[[], None]:
    import onnx
    from onnx import TensorProto, helper

    from sa3_engines.onnx import runtime

    onnxruntime = runtime()
    shapes = {"a": [m, k], "b": [k, n], "c": [m, n]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    weight = helper.make_tensor("b", TensorProto.FLOAT, shapes["b"], np.ones(k * n, np.float32).tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [values["a"]], [values["c"]], [weight]
    )
    model: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    a = np.ones((m, k), np.float32)

    def work() -> None:
        session.run(None, {"a": a})

    return work
