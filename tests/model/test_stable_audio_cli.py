"""The `stable-audio` command, on a miniature checkpoint with real networks."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sa3_runtime import audio
from sa3_runtime.audio import Sound
from sa3_runtime.pipeline import Pipeline
from stable_audio_3 import StableAudioModel, cli

RATE = 1600
FLAGS = """
-h --help --model --device --no-half --backend -p --prompt --negative-prompt --duration --steps --cfg-scale --seed
--batch-size -o --output --init-audio --init-noise-level --inpaint-audio --inpaint-start --inpaint-end
--chunked-decode --no-chunked-decode --lora-ckpt-path --lora-strength --lora-index
"""
Run = Callable[..., int]


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """In the test's own folder, with the miniature as its model and a prompt."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object, prompt: tuple[str, ...] = ("warm drums",), model: object = folder) -> int:
        fixed = ("--backend", "torch", "--model", model, "--steps", 2, "--prompt", *prompt)
        return cli.main([str(arg) for arg in (*fixed, *args)])

    return run


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "given.wav"
    t = np.arange(3 * RATE) / RATE
    audio.write(path, Sound(0.3 * np.sin(2 * np.pi * np.array([[50], [80]]) * t).astype(np.float32), RATE))
    return path


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False, timeout=120)


def test_help_needs_nothing_heavy():
    code = """
import sys
from stable_audio_3 import cli
try:
    cli.main(["--help"])
finally:
    assert not {"torch", "numpy", "soundfile", "huggingface_hub"} & set(sys.modules)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    flags = {option for action in cli.parser()._actions for option in action.option_strings}
    assert flags == set(FLAGS.split())
    for flag in flags:
        assert flag in done.stdout


def test_upstreams_defaults():
    args = cli.parser().parse_args(["-p", "x"])
    assert (args.model, args.steps, args.cfg_scale, args.seed, args.init_noise_level) == ("medium", 8, 1.0, -1, 0.9)
    assert (args.output, args.batch_size, args.device, args.chunked_decode) == (Path("output.wav"), None, None, None)


def test_a_clip(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: Path):
    assert run("--duration", 2, "--seed", 7) == 0
    made = audio.read(tmp_path / "output.wav")
    assert (made.rate, made.samples.shape) == (RATE, (2, 2 * RATE))
    out, err = capsys.readouterr()
    assert out == "output.wav: 2.00 s, seed 7\n"
    assert "Traceback" not in err
    same = StableAudioModel.from_pretrained(folder).generate("warm drums", duration=2, steps=2, seed=7)
    assert np.abs(same[0].numpy() - made.samples).max() < 1e-4  # clamped, not limited


def test_nano_without_torch(tmp_path: Path):
    code = "import sys; sys.modules['torch'] = None; from stable_audio_3 import cli; sys.exit(cli.main(sys.argv[1:]))"
    path = tmp_path / "clip.ogg"
    done = python(code, "--model", "nano", "-p", "a warm pad", "--duration", "1", "--steps", "1", "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert audio.read(path).rate == 44100


def test_the_default_duration_gives_way_to_a_shorter_model(run: Run, tmp_path: Path):
    assert run() == 0
    assert audio.read(tmp_path / "output.wav").seconds == 24


def test_a_batch(run: Run, tmp_path: Path):
    assert run("--duration", 1, 2, "-o", "a.b.flac", "--seed", 3, prompt=("warm", "dark drums")) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.b_0.flac", "a.b_1.flac"]
    assert [audio.read(tmp_path / f"a.b_{i}.flac").seconds for i in (0, 1)] == [1, 2]
    assert run("--batch-size", 2, "--duration", 1, "--negative-prompt", "noise", "--cfg-scale", 3) == 0
    assert (tmp_path / "output_1.wav").is_file()


def test_given_sound(run: Run, tmp_path: Path, sound: Path):
    sounds: list[np.ndarray] = []
    for flags in (
        (),
        ("--init-audio", sound),
        ("--init-audio", sound, "--init-noise-level", 0.5),
        ("--inpaint-audio", sound, "--inpaint-start", 1, "--inpaint-end", 2),
        ("--inpaint-audio", sound, "--inpaint-start", 0, "--inpaint-end", 1, "--inpaint-start", 2, "--inpaint-end", 3),
    ):
        assert run("--duration", 3, "--seed", 1, *flags) == 0
        sounds.append(audio.read(tmp_path / "output.wav").samples)
    assert all(not np.array_equal(a, b) for i, a in enumerate(sounds) for b in sounds[:i])


def test_decoding_in_one_pass(run: Run, tmp_path: Path):
    for name, flag in (("a.wav", "--chunked-decode"), ("b.wav", "--no-chunked-decode")):
        assert run("--duration", 20, "--seed", 1, flag, "-o", name) == 0
    a, b = (audio.read(tmp_path / name).samples for name in ("a.wav", "b.wav"))
    assert np.abs(a - b)[:, :5000].max() < 1e-3


def test_adapters(run: Run, tmp_path: Path, folder: Path):
    lora, dora = folder / "loras" / "lora.safetensors", folder / "loras" / "dora-rows.safetensors"
    sounds: dict[str, np.ndarray] = {}
    for name, flags in {
        "none": (),
        "off": ("--lora-ckpt-path", lora, "--lora-strength", 0),
        "lora": ("--lora-ckpt-path", lora),
        "both": ("--lora-ckpt-path", lora, "--lora-ckpt-path", dora),
        "second off": ("--lora-ckpt-path", lora, "--lora-ckpt-path", dora, "--lora-strength", 0, "--lora-index", 1),
    }.items():
        assert run("--duration", 1, "--seed", 1, *flags) == 0
        sounds[name] = audio.read(tmp_path / "output.wav").samples
    assert np.array_equal(sounds["none"], sounds["off"])
    assert np.array_equal(sounds["lora"], sounds["second off"])
    assert not np.array_equal(sounds["none"], sounds["lora"])
    assert not np.array_equal(sounds["lora"], sounds["both"])


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--inpaint-start", 1), 2, "pairs"),
        (("--inpaint-audio", "given.wav", "--inpaint-start", 1, "--inpaint-end", 2, "--inpaint-end", 3), 2, "pairs"),
        (("--inpaint-start", 1, "--inpaint-end", 2), 2, "--inpaint-audio"),
        (("--inpaint-audio", "given.wav"), 2, "--inpaint-start"),
        (("-p", "dark", "--batch-size", 3), 2, "--batch-size 3 and 2 prompts"),
        (("--batch-size", 0), 2, "disagree|batch size"),
        (("--negative-prompt", "a", "b"), 2, "--negative-prompt has 2 values for 1 items"),
        (("--duration", 1, 2), 2, "--duration has 2 values for 1 items"),
        (("--duration", 1000), 2, "24 s"),
        (("--steps", 0), 2, "steps"),
        (("--init-audio", "nothing.wav"), 2, "nothing.wav"),
        (("--lora-index", 0), 2, "--lora-strength"),
        (("--lora-strength", 1), 2, "--lora-ckpt-path"),
        (("--lora-ckpt-path", "nothing.safetensors"), 3, "nothing.safetensors"),
        (("--lora-ckpt-path", "old.ckpt"), 3, "can run any code"),
        (("--device", "abacus"), 4, "choose from cuda, mps, cpu"),
        (("--backend", "abacus"), 2, "no backend 'abacus'"),
        (("-o", "nowhere/x.wav"), 6, "nowhere"),
        (("-o", "x.txt"), 2, "suffix"),
    ],
)
def test_errors(
    run: Run,
    sound: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[object, ...],
    code: int,
    said: str,
):
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x04.")
    assert run(*flags) == code
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("stable-audio: ")
    assert err.count("\n") == 1
    assert any(part in err for part in said.split("|"))
    assert not list(tmp_path.glob("output*"))


def test_an_unknown_model(run: Run, capsys: pytest.CaptureFixture[str]):
    assert run(model="small-musik") == 3
    assert "did you mean small-music?" in capsys.readouterr().err


def test_the_output_is_checked_before_the_model_is_opened(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def load(*_: object, **__: object) -> Pipeline:
        raise AssertionError("opened")

    monkeypatch.setattr(Pipeline, "load", load)
    assert run("-o", "nowhere/x.wav") == 6
    assert run("-o", "nowhere/x.wav", model="medium") == 6
    assert run("--init-audio", "nothing.wav", model="medium") == 2


def test_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def load(*_: object, **__: object) -> Pipeline:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "load", load)
    assert run("--duration", 1) == 130
    assert capsys.readouterr().err == "stable-audio: interrupted\n"


def test_ctrl_c_while_sampling(folder: Path, tmp_path: Path):
    command = [sys.executable, "-m", "stable_audio_3.cli", "--backend", "torch", "--model", str(folder), "-p", "warm"]
    code = f"import sys; from stable_audio_3 import cli; sys.exit(cli.main({[*command[3:], '--steps', '1000']!r}))"
    watched = code.replace("sys.exit", "print('on', flush=True); sys.exit", 1)
    with subprocess.Popen(
        [sys.executable, "-c", watched], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("stable-audio: interrupted\n")
    assert not list(tmp_path.iterdir())
