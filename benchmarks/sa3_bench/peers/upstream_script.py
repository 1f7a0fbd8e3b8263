"""Upstream's Python API, timed. Run by itself, under an interpreter that has upstream; imports nothing of ours."""

import json
import resource
import sys
import time


def main() -> None:
    wanted = json.loads(sys.argv[1])
    begun = time.perf_counter()
    import torch

    from stable_audio_3 import StableAudioModel

    if wanted["threads"]:
        torch.set_num_threads(wanted["threads"])
    device = None if wanted["device"] == "auto" else wanted["device"]
    model = StableAudioModel.from_pretrained(wanted["model"], device=device)
    loaded = time.perf_counter() - begun

    def generate(steps: int) -> tuple[float, int]:
        start = time.perf_counter()
        audio = model.generate(
            prompt=wanted["prompt"],
            duration=wanted["seconds"],
            steps=steps,
            seed=wanted["seed"],
            batch_size=wanted["batch"],
            duration_padding_sec=wanted["padding"],
        )
        samples = audio.detach().cpu().numpy().shape[-1]  # on the host before the clock stops
        return time.perf_counter() - start, samples

    generate(wanted["warmup_steps"])
    runs = []
    for _ in range(wanted["repeat"]):
        started = time.time()
        seconds, samples = generate(wanted["steps"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
        runs.append({"generate": seconds, "samples": samples, "started": started, "peak_rss_mb": peak})
    if torch.cuda.is_available():
        runs[-1]["device_peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    print(json.dumps({"runs": runs, "load": {"cold": loaded}, "device": str(model.device)}))


main()
