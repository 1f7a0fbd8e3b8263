import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile as sf

from sa3_engines import models, null
from sa3_engines.errors import OutputError
from sa3_runtime import audio, pipeline
from sa3_runtime.audio import Sound
from sa3_runtime.cli import main
from sa3_runtime.command import outputs
from sa3_runtime.command.arguments import parse
from sa3_runtime.command.jobs import prepare
from sa3_runtime.request import plan

Run = Callable[..., tuple[int, str, str]]
COMMANDS = ["generate", "encode", "decode", "models", "doctor"]
MODEL = ["--model", "random:small-music", "--backend", "null"]
SHORT = ["--duration", "0.5", "--padding-seconds", "0"]
SA3 = [sys.executable, "-c", "import sys; from sa3_runtime.cli import main; sys.exit(main())"]
RATE = 44100


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in an empty folder: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in argv])
        except SystemExit as e:
            code = int(str(e.code))
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a model is opened or downloaded."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(pipeline.Pipeline, "load", refuse)
    monkeypatch.setattr(models, "_download", refuse)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tone(path: Path, seconds: float = 0.5, rate: int = RATE) -> Path:
    time_line = np.arange(int(seconds * rate)) / rate
    audio.write(path, Sound(np.sin(440 * time_line)[None].repeat(2, 0).astype(np.float32) * 0.5, rate))
    return path


# Help


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_at_once_and_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys, atexit; from sa3_runtime.cli import main\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"main({[*command.split(), '--help']})"
    )
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - start)
        assert not {"torch", "numpy", "soundfile", "tqdm", "huggingface_hub", "onnxruntime"} & set(done.stderr.split())
        assert "exit codes:" in done.stdout
    assert best < 0.5


def test_version(run: Run) -> None:
    assert run("--version") == (0, "sa3-runtime 0.1.0\n", "")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["sing"],
        ["generate", "--promt", "x"],
        ["generate", "--prom", "x"],
        ["generate", "-p", "x", "--steps", "8.5"],
        ["generate", "-p", "x", "--limiter", "loud"],
        ["generate", "-p", "x", "--dist-shift", "{"],
        ["generate", "-p", "x", "--inpaint-audio", "a.wav", "--continue", "b.wav"],
        ["encode"],
    ],
)
def test_usage_errors_exit_2(run: Run, argv: list[str]) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    command = " ".join(["sa3", *argv[:1]]) if argv[:1] != ["sing"] else "sa3"
    assert re.fullmatch(f"{command}: .+[;.?] [sS]ee {command} --help\n", err)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--steps", "abc"], "argument --steps: 'abc' is not a whole number"),
        (["--cfg-scale", "much"], "argument --cfg-scale: 'much' is not a number"),
        (["--limiter", "loud"], "argument --limiter: 'loud' is neither a number of dBTP nor off"),
        (["--dist-shift", "{"], "argument --dist-shift: '{' is neither a name nor JSON"),
        (["--bits", "8"], "argument --bits: no choice '8'; choose from 16, 24, 32f"),
    ],
)
def test_a_value_that_is_none_is_told_in_one_sentence(run: Run, argv: list[str], said: str) -> None:
    assert run("generate", *argv) == (2, "", f"sa3 generate: {said}; see sa3 generate --help\n")


# generate


def test_one_clip(run: Run, tmp_path: Path) -> None:
    code, out, err = run("generate", *MODEL, *SHORT, "-p", "rain on tin", "--seed", "7")
    assert code == 0
    assert re.fullmatch(r"output\.wav: 0\.50 s, seed 7; null on cpu in fp32, [\d.]+ s, [\d.]+x real time\n", out)
    assert err == "sa3: random weights: for measuring, not for listening\n"
    assert files(tmp_path) == ["output.wav"]
    sound = audio.read("output.wav")
    assert (sound.rate, sound.samples.shape) == (RATE, (2, RATE // 2))
    assert audio.read_metadata("output.wav")["title"] == "rain on tin"


def test_a_chosen_seed_is_told(run: Run) -> None:
    seeds: set[str] = set()
    for _ in range(3):
        _, out, _ = run("generate", *MODEL, *SHORT, "-p", "x", "--seed", "-1")
        found = re.search(r"seed (\d+);", out)
        assert found
        assert json.loads(audio.read_metadata("output.wav")["comment"])["request"]["seed"] == int(found[1])
        seeds.add(found[1])
    assert len(seeds) > 1


def test_a_batch_is_numbered_and_every_item_is_as_long_as_asked(run: Run, tmp_path: Path) -> None:
    argv = ["generate", *MODEL, "-p", "a", "b", "--duration", "0.5", "0.25", "--padding-seconds", "0"]
    code, out, _ = run(*argv, "-o", "two.take.flac", "--sidecar", "--save-latents", "z.npy", "--seed", "3")
    assert code == 0
    assert files(tmp_path) == [
        "two.take_0.flac",
        "two.take_0.json",
        "two.take_1.flac",
        "two.take_1.json",
        "z_0.npy",
        "z_1.npy",
    ]
    assert [audio.read(f"two.take_{i}.flac").seconds for i in (0, 1)] == [0.5, 0.25]
    assert np.load("z_1.npy").shape == (256, 6)
    lines = out.splitlines()
    assert lines[:2] == ["two.take_0.flac: 0.50 s, seed 3", "two.take_1.flac: 0.25 s, seed 3"]
    assert lines[2].startswith("null on cpu in fp32, ")


def test_json_is_all_there_is_on_stdout(run: Run) -> None:
    code, out, _ = run("generate", *MODEL, *SHORT, "-p", "a", "b", "--seed", "1", "2", "--json", "--sidecar")
    assert code == 0
    told = json.loads(out)
    assert told["files"] == ["output_0.wav", "output_1.wav"]
    assert told["sidecars"] == ["output_0.json", "output_1.json"]
    assert told["seed"] == [1, 2]
    assert (told["backend"], told["device"], told["precision"]) == ("null", "cpu", "fp32")
    assert told["warnings"] == ["random weights: for measuring, not for listening"]
    assert set(told["seconds"]) == {"load", "text", "encode", "sample", "decode", "finish", "write"}


def failure(run: Run, *argv: str) -> tuple[str, int]:
    """What a failing command says in JSON, which is what it says on stderr and how it exits."""
    code, out, err = run(*argv, "--json")
    told = json.loads(out)
    assert (set(told), out.count("\n"), told["exit_code"]) == ({"error", "exit_code"}, 1, code)
    assert told["error"] in err.splitlines()[-1]
    return told["error"], code


def test_what_fails_is_told_in_json_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(run, "encode", "missing.wav") == ("there is no audio file 'missing.wav'", 2)
    assert failure(run, "decode", "missing.npy")[1] == 2
    assert failure(run, "generate", "-p", "x", "-o", "nowhere/a.wav")[1] == 6
    assert failure(run, "generate", "-p", "x", *MODEL, "--device", "cuda")[1] == 4
    assert failure(run, "doctor", "--model", "~nobody-here/x")[1] == 3
    assert failure(run, "generate", "--steps", "x") == ("argument --steps: 'x' is not a whole number", 2)
    assert failure(run, "encode") == ("missing: AUDIO", 2)
    assert failure(run, "generate", "-p", "x", "--cores", "")[1] == 2
    assert failure(run, "sing")[1] == 2
    for reason, code in ((KeyboardInterrupt(), 130), (OutputError("the disk is full"), 6)):
        monkeypatch.setattr(null.NullEngine, "run", Mock(side_effect=reason))
        assert failure(run, "generate", *MODEL, *SHORT, "-p", "a") == (str(reason) or "interrupted", code)


def test_a_bug_is_told_in_json_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(null.NullEngine, "run", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        run("generate", *MODEL, *SHORT, "-p", "a", "--json")
    assert json.loads(capsys.readouterr().out) == {"error": "RuntimeError: a bug", "exit_code": 1}


def test_quiet_says_nothing(run: Run, tmp_path: Path) -> None:
    assert run("generate", *MODEL, *SHORT, "-p", "a", "-q") == (0, "", "")
    assert files(tmp_path) == ["output.wav"]


def test_progress_names_the_stages(run: Run) -> None:
    _, out, err = run("generate", *MODEL, *SHORT, "-p", "a", "--progress", "--json")
    assert json.loads(out)["files"] == ["output.wav"]
    assert [stage in err for stage in ("load", "text", "sample", "decode")] == [True] * 4
    assert "sample" not in run("generate", *MODEL, *SHORT, "-p", "a")[2]


def test_how_the_sound_is_written(run: Run) -> None:
    argv = ["generate", *MODEL, *SHORT, "-p", "a", "--sample-rate", "22050", "--channels", "1"]
    assert run(*argv, "-o", "clip", "--format", "wav", "--bits", "32f")[0] == 0
    sound = audio.read("clip")
    assert (sound.rate, sound.samples.shape) == (22050, (1, 11025))
    assert run("generate", *MODEL, "--padding-seconds", "1", "-p", "a", "--duration", "0.5", "--keep-tail")[0] == 0
    assert audio.read("output.wav").seconds > 1.4
    for name, rate, flags in (("a.mp3", 22050, ["--sample-rate", "22050"]), ("a.opus", 48000, [])):
        assert run("generate", *MODEL, *SHORT, "-p", "a", "-o", name, *flags)[0] == 0
        assert audio.read(name).rate == rate


def test_what_a_flag_leaves_open_depends_on_the_model() -> None:
    def asked(model: str, *flags: str) -> Any:
        job = prepare(parse(["generate", "-p", "x", "--model", model, *flags, "-o", "/tmp/x.wav"]))
        return plan(job.recipe.request, models.released_config(model)).request

    trained, base = asked("medium"), asked("medium-base")
    assert (trained.seconds, trained.steps, trained.cfg_scale) == (30.0, 8, 1.0)
    assert (base.seconds, base.steps, base.cfg_scale) == (30.0, 50, 7.0)
    chosen = asked("medium-base", "--steps", "3", "--cfg-scale", "1", "--duration", "4", "--limiter", "off")
    assert (chosen.seconds, chosen.steps, chosen.cfg_scale, chosen.finish.limiter) == ([4.0], 3, 1.0, None)
    assert trained.finish.limiter == -1.0


def test_a_short_model_makes_what_it_can(run: Run, tiny_model: Path) -> None:
    assert run("generate", "--model", str(tiny_model), "--backend", "null", "-p", "warm pads")[0] == 0
    assert audio.read("output.wav").seconds == 24.0


def test_a_clip_is_as_long_as_what_it_starts_from(run: Run, tmp_path: Path) -> None:
    audio.write("in.wav", Sound(np.full((2, 3 * RATE), 0.1, np.float32), RATE))
    argv = ["generate", *MODEL, "-p", "x", "--steps", "1", "-o", "out.wav"]
    inpaint = ["--inpaint-audio", "in.wav", "--inpaint-start", "1", "--inpaint-end", "2"]
    for flags in ["--init-audio", "in.wav"], inpaint:
        code, _, err = run(*argv, *flags)
        assert (code, audio.read("out.wav").seconds, "silence" in err) == (0, 3.0, False)
    assert "the 6 s that are made keep silence after it" in run(*argv, *inpaint, "--duration", "6")[2]
    covered = ["--inpaint-audio", "in.wav", "--inpaint-start", "2", "--inpaint-end", "6"]
    assert "silence" not in run(*argv, *covered, "--duration", "6")[2]
    assert "leave out what follows" in run(*argv, "--init-audio", "in.wav", "--duration", "2")[2]


def test_nano_makes_no_more_than_it_learned_unless_told(run: Run) -> None:
    code, _, err = run("generate", "-p", "C major chord on a warm synth pad", "--seed", "1")
    assert (code, err) == (0, "")
    sound = audio.read("output.wav")
    assert sound.seconds == 9.0
    assert np.sqrt((sound.samples[:, -RATE:] ** 2).mean()) > 0.05  # to the end
    assert "learned from sounds of up to 9 s" in run("generate", "-p", "rain", "--duration", "12")[2]


def test_weights_that_were_not_trained_are_announced(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    def said(trained: bool | None) -> str:
        folder = tmp_path / "small"
        folder.mkdir(exist_ok=True)
        config = json.loads((tiny_model / "model_config.json").read_text())
        if trained is not None:
            config["sa3_trained"] = trained
        (folder / "model_config.json").write_text(json.dumps(config))
        if not (folder / "t5gemma-b-b-ul2").exists():
            (folder / "t5gemma-b-b-ul2").symlink_to(tiny_model / "t5gemma-b-b-ul2")
        return run("generate", "--model", "small/", "--backend", "null", "-p", "a", "--duration", "1")[2]

    assert said(False) == "sa3: small's weights are random until it is trained: expect noise, not music\n"
    assert "random" not in said(True) + said(None)


def test_a_negative_prompt_without_guidance_is_pointed_out(run: Run) -> None:
    argv = ["generate", *MODEL, *SHORT, "-p", "a", "--negative-prompt", "b"]
    assert "negative prompt does nothing" in run(*argv)[2]
    assert "negative prompt" not in run(*argv, "--cfg-scale", "2")[2]


def test_sound_to_start_from(run: Run, tmp_path: Path) -> None:
    tone(tmp_path / "in.wav")
    start = ["generate", *MODEL, "-p", "x", "--padding-seconds", "0", "--seed", "1"]
    assert run(*start, "--duration", "0.5", "--init-audio", "in.wav", "-o", "a.wav")[0] == 0
    assert json.loads(audio.read_metadata("a.wav")["comment"])["request"]["init_noise_level"] == 0.9
    inpaint = ["--inpaint-audio", "in.wav", "--inpaint-start", "0.1", "--inpaint-end", "0.2"]
    more = ["--inpaint-start", "0.3", "--inpaint-end", "0.4", "--resampler", "fast"]
    assert run(*start, "--duration", "0.5", *inpaint, *more, "-o", "b.wav")[0] == 0
    request = json.loads(audio.read_metadata("b.wav")["comment"])["request"]
    assert request["inpaint_regions"] == [[0.1, 0.2], [0.3, 0.4]]
    assert run(*start, "--duration", "1", "--continue", "in.wav", "-o", "c.wav")[0] == 0
    assert json.loads(audio.read_metadata("c.wav")["comment"])["request"]["continue_audio"] is True


# What is refused, and when


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["-o", "clip.xyz"], 2, "'clip.xyz' has no known suffix; choose from .wav, .flac, .mp3, .ogg, .opus"),
        (["-o", "clip"], 2, "no known suffix"),
        (["-o", ".wav"], 2, "'.wav' is an ending without a name; write NAME.wav"),
        (["-o", "clip.wav", "--format", "mp3"], 2, "ends in .wav but the format asked for is mp3"),
        (["--format", "m4a"], 2, "unknown format 'm4a'"),
        (["-o", "a.mp3", "--bits", "24"], 2, "mp3 has no bit depth '24'"),
        (["-o", "a.flac", "--bits", "32f"], 2, "flac has no bit depth '32f'"),
        (["-o", "a.mp3", "--sample-rate", "96000"], 2, "mp3 does not hold 96000 Hz; choose from 16000, .*, 48000, or"),
        (["-o", "a.opus", "--sample-rate", "44100"], 2, "opus does not hold 44100 Hz; choose from 8000, .*, 48000, or"),
        (["-o", "a.flac", "--sample-rate", "700000"], 2, "flac does not hold 700000 Hz; it holds up to 65535 Hz"),
        (["-o", "a.flac", "--sample-rate", "70001"], 2, "flac does not hold 70001 Hz; .*, and tens of Hz up to 655350"),
        (["-o", "nowhere/a.wav"], 6, "the folder '.*/nowhere' does not exist"),
        (["-o", "/proc/a.wav"], 6, "cannot write '/proc/a.wav'"),
        (["-o", "folder.wav"], 6, "it is a folder"),
        (["--batch-size", "2", "-o", "taken.wav"], 6, "cannot write 'taken_1.wav': it is a folder"),
        (["--save-latents", "z.npz"], 2, "'z.npz' does not end in .npy"),
        (["--save-latents", "nowhere/z.npy"], 6, "does not exist"),
        (["-o", "a.json", "--format", "wav", "--sidecar"], 2, "suffix|would be written twice"),
        (["-p", "\udcff"], 2, "a prompt holds bytes that are no text"),
        (["--duration", "0"], 2, "duration 0 s; it must be more than 0"),
        (["--duration", "nan"], 2, "duration nan is not a number"),
        (["--duration", "121"], 2, "this model makes up to 120 s"),
        (["--duration", "1", "2", "3", "--batch-size", "2"], 2, "3 values of seconds for 2 items"),
        (["-p", "b", "--duration", "1", "2", "3"], 2, "3 values of seconds for 2 items"),
        (["-p", "b", "--batch-size", "3"], 2, "2 values of prompt for 3 items"),
        (["--negative-prompt", "b", "c", "--batch-size", "3"], 2, "2 values of negative prompt for 3 items"),
        (["--seed", "1", "2", "--batch-size", "3"], 2, "2 seeds for 3 items"),
        (["--seed", "-2"], 2, "seed -2; it must be a whole number from 0 to 2.63 - 1"),
        (["--batch-size", "0"], 2, "batch size 0"),
        (["--steps", "0"], 2, "steps 0; it must be a whole number from 1"),
        (["--sampler", "euler_a"], 2, "no sampler 'euler_a'; choose from"),
        (["--dist-shift", "sideways"], 2, "no distribution shift 'sideways'"),
        (["--dist-shift", '{"type": "flux", "x": 1}'], 2, "distribution shift flux has no option x; it has"),
        (["--cfg-interval", "0.9", "0.1"], 2, "the first must not exceed the second"),
        (["--limiter", "3"], 2, "the limiter's ceiling is 3.0 dBTP"),
        (["--sample-rate", "10"], 2, "output rate is 10 Hz"),
        (["--init-audio", "missing.wav"], 2, "there is no audio file 'missing.wav'"),
        (["--init-audio", "folder.wav"], 2, "'folder.wav' is a folder, not an audio file"),
        (["--continue", "/dev/null"], 2, "'/dev/null' is a pipe or a device, and an audio file is read more than once"),
        (["--lora-ckpt-path", "folder.wav"], 2, "'folder.wav' is a folder, not an adapter"),
        (["--init-audio", "text.wav"], 2, "cannot read .*text.wav"),
        (["--inpaint-audio", "in.wav"], 2, "--inpaint-audio needs --inpaint-start and --inpaint-end"),
        (["--inpaint-start", "1", "--inpaint-end", "2"], 2, "need --inpaint-audio"),
        (["--inpaint-audio", "in.wav", "--inpaint-start", "1"], 2, "1 --inpaint-start and 0 --inpaint-end"),
        (["--inpaint-audio", "in.wav", "--inpaint-start", "2", "--inpaint-end", "1"], 2, "is reversed or empty"),
        (["--continue", "in.wav", "--inpaint-start", "2", "--inpaint-end", "3"], 2, "--continue makes what follows"),
        (["--lora-strength", "1"], 2, "--lora-strength needs an adapter"),
        (["--init-noise-level", "0.5"], 2, "give that too: --init-audio"),
        (["--lora-index", "0"], 2, "--lora-index says which adapter"),
        (["--lora-ckpt-path", "a", "--lora-strength", "1", "--lora-index", "1"], 2, "numbered from 0 to 0"),
        (["--lora-ckpt-path", "a", "--lora-strength", "1", "--lora-strength", "2"], 2, "2 --lora-strength for 1 adap"),
        (["--lora-ckpt-path", "missing.safetensors"], 3, "there is no adapter 'missing.safetensors'"),
        (
            ["--batch-size", "2", "-o", "out.wav", "--init-audio", "out_1.wav"],
            2,
            "out_1.wav is both the output and init",
        ),
        (["--model", ""], 3, "no model '': the name is empty"),
        (["--model", "~nobody-here/x"], 3, "no model '~nobody-here/x': ~nobody-here is nobody's home here"),
        (["--model", "nano", "--revision", "main"], 2, "only repositories on the hub have revisions"),
        (["--cores", ""], 2, "--cores '': write numbers and ranges"),
        (["--backend", "tpu"], 2, "no backend 'tpu'; choose from auto"),
        (["--backend", ""], 2, "no backend ''; choose from auto"),
        (["--precision", ""], 2, "no precision ''; choose from auto"),
        (["--duration", "1e308"], 2, "duration 1e\\+308 s is longer than any sound"),
        (["--save-latents", ".npy"], 2, "'.npy' is an ending without a name"),
        (["--precision", "fp8"], 2, "no precision 'fp8'; choose from auto, exact"),
        (["--threads", "0"], 2, "threads 0; it must be a whole number from 1"),
        (
            ["--dist-shift", '{"type": "flux", "alpha_max": "x"}'],
            2,
            "expected a name, or an object with a type and numbers",
        ),
        (["--init-audio", "x" * 5000], 2, 'cannot read "xxx.*: File name too long'),
        (["--from", "missing.json"], 2, "cannot read 'missing.json'"),
        (["--from", "in.wav"], 2, "'in.wav' does not carry a record"),
        (["--from", "text.wav"], 2, "cannot read"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_opened(
    run: Run, tmp_path: Path, argv: list[str], code: int, said: str
) -> None:
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "taken_1.wav").mkdir()
    (tmp_path / "text.wav").write_text("not sound")
    tone(tmp_path / "in.wav")
    tone(tmp_path / "out_1.wav")
    before = files(tmp_path)
    got, out, err = run("generate", *MODEL, "-p", "a", *argv)
    assert (got, out) == (code, "")
    assert re.fullmatch(f"sa3: .*({said}).*\n", err)
    assert files(tmp_path) == before


@pytest.mark.usefixtures("unopened")
def test_nothing_to_make(run: Run) -> None:
    assert run("generate") == (
        2,
        "",
        "sa3: there is nothing to make: give -p/--prompt, or a clip to make again with --from\n",
    )


@pytest.mark.usefixtures("unopened")
def test_a_released_model_is_not_downloaded_for_what_it_cannot_do(run: Run) -> None:
    code, _, err = run("generate", "--model", "small", "-p", "a", "--duration", "200")
    assert code == 2
    assert "up to 120 s" in err


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--model", "smal"], 3, "no model 'smal'; did you mean small?"),
        (["--model", "random:small-music", "--backend", "tpu"], 2, "no backend 'tpu'; choose from auto"),
        ([*MODEL, "--device", "cuda"], 4, "backend null cannot run random:small-music"),
        ([*MODEL, "--threads", "0"], 2, "threads 0"),
        ([*MODEL, "--lora-ckpt-path", "a.safetensors"], 4, "cannot run adapters"),
    ],
)
def test_what_the_model_or_the_backend_refuses(run: Run, tmp_path: Path, argv: list[str], code: int, said: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    got, out, err = run("generate", "-p", "a", "--duration", "1", *argv)
    assert (got, out) == (code, "")
    assert said in err
    assert err.splitlines()[-1].startswith("sa3: ")
    assert files(tmp_path) == ["a.safetensors"]


def test_a_sound_file_that_is_cut_short_is_told_of(run: Run) -> None:
    audio.write("in.wav", Sound(np.full((2, RATE), 0.5, np.float32), RATE))
    Path("cut.wav").write_bytes(Path("in.wav").read_bytes()[: RATE * 2])
    said = "sa3: 'cut.wav' is cut short: it says 1.0 s and holds 0.5 s"
    for flags in ["--init-audio", "cut.wav"], ["--continue", "cut.wav"]:
        code, _, err = run("generate", "-p", "x", *MODEL, *flags, "--duration", "1", "-o", "out.wav")
        assert (code, said in err) == (0, True)
    code, _, err = run("encode", "cut.wav", *MODEL, "-o", "out.npy")
    assert (code, said in err) == (0, True)


def test_a_prompt_that_is_too_long_may_be_cut(run: Run) -> None:
    argv = ["generate", *MODEL, *SHORT, "-p", "drums " * 300]
    code, _, err = run(*argv)
    assert code == 2
    assert "--truncate-prompt" in err
    assert run(*argv, "--truncate-prompt")[0] == 0


def test_a_command_gives_networks_back_once_they_are_done_with(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[str] = []
    monkeypatch.setattr(null.NullEngine, "release", lambda _, names: released.extend(names), raising=False)
    code, _, said = run("generate", "-p", "rain", *MODEL, *SHORT, "--steps", "1")
    assert code == 0, said
    assert released == ["text", "encode", "prepare", "prepare", "step"]


def test_sound_that_is_none_is_not_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = null.NullEngine.run

    def nothing(self: Any, graph: str, inputs: Any) -> Any:
        found = broken(self, graph, inputs)
        return {"audio": found["audio"] * np.nan} if graph == "decode" else found

    monkeypatch.setattr(null.NullEngine, "run", nothing)
    code, out, err = run("generate", *MODEL, *SHORT, "-p", "a")
    assert (code, out) == (5, "")
    assert "the decoder produced NaN or infinity" in err
    assert files(tmp_path) == []


def test_other_exceptions_are_not_swallowed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(null.NullEngine, "run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run("generate", *MODEL, *SHORT, "-p", "a")


# Sidecars

ADVICE = "choose another name with -o, or leave --sidecar out: the sound's tags hold its record too\n"


@pytest.fixture
def sidecars(run: Run) -> Callable[..., tuple[int, str, str]]:
    return lambda *argv: run("generate", *MODEL, *SHORT, "--sidecar", "-q", *argv)


def test_the_record_of_another_sound_is_not_lost(sidecars: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sidecars("-p", "a", "-o", "song.wav")[0] == 0
    first = Path("song.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(null.NullEngine, "run", lambda *_: pytest.fail("it was computed first"))
        said = f"sa3: --sidecar would replace 'song.json', the record of 'song.wav', which is still there; {ADVICE}"
        assert sidecars("-p", "b", "-o", "song.flac") == (2, "", said)
        assert sidecars("-p", "b", "-o", "song", "--format", "wav") == (2, "", said)
        assert sidecars("--from", "song.json", "-o", "song.flac") == (2, "", said)
    older = json.loads(first)
    del older["output"]["file"]
    for written in (first, json.dumps(older).encode()):
        Path("song.json").write_bytes(written)
        assert sidecars("-p", "b", "-o", "song.flac")[0] == 2
        assert Path("song.json").read_bytes() == written
    Path("song.wav").unlink()
    assert sidecars("-p", "b", "-o", "song.flac")[0] == 0


@pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 5000, "a\0b", "other.wav"])
def test_a_record_that_names_no_sound_beside_it_may_go(sidecars: Run, name: str) -> None:
    Path("song.json").write_text(json.dumps({"schema": 1, "output": {"file": name, "format": name}}))
    tone(Path("other.wav"))
    assert sidecars("-p", "a", "-o", "song.wav")[0] == 0


def test_a_sidecar_takes_its_own_place(sidecars: Run) -> None:
    assert sidecars("-p", "a", "-o", "rain.flac")[0] == 0
    assert sidecars("-p", "a", "-o", "rain.flac")[0] == 0
    assert sidecars("--from", "rain.json", "-o", "rain.flac")[0] == 0
    Path("rain.flac").rename("hail.flac")
    Path("rain.json").rename("hail.json")
    assert sidecars("-p", "a", "-o", "hail.flac")[0] == 0
    assert sidecars("-p", "a", "-o", "clip", "--format", "wav")[0] == 0
    assert "the record of 'clip', which" in sidecars("-p", "a", "-o", "clip.wav")[2]


@pytest.mark.parametrize("content", [b"{}", b"", b"\xff", b'{"schema": 99}', b"[1]", b'{"schema": 1, "output": 3}'])
def test_a_json_that_is_no_record_is_not_lost(sidecars: Run, content: bytes) -> None:
    Path("song.json").write_bytes(content)
    said = f"sa3: --sidecar would replace 'song.json', which is no record of a sound; {ADVICE}"
    assert sidecars("-p", "a", "-o", "song.wav") == (2, "", said)
    assert Path("song.json").read_bytes() == content
    assert sidecars("-p", "a", "-o", "song.wav", "--batch-size", "2")[0] == 0  # song_0.json and song_1.json
    assert sidecars("-p", "a", "-o", "song.wav", "--no-sidecar")[0] == 0
    Path("song.json").unlink()
    Path("song_1.json").write_bytes(content)
    assert "replace 'song_1.json', which is no record" in sidecars("-p", "a", "b", "-o", "song.wav")[2]


# Writing


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(run: Run) -> None:
    code, out, err = run("generate", *MODEL, *SHORT, "-p", "a", "-o", "/dev/full", "--format", "wav")
    assert (code, out) == (6, "")
    assert err.endswith("sa3: cannot write '/dev/full': the disk is full\n")


@pytest.mark.parametrize(("reason", "code"), [(OutputError("the disk is full"), 6), (KeyboardInterrupt(), 130)])
def test_finished_items_of_a_batch_stay(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: BaseException, code: int
) -> None:
    write = outputs.write_atomic

    def second_fails(path: Path, data: bytes) -> None:
        if "_1" in path.name:
            raise reason
        write(path, data)

    monkeypatch.setattr(outputs, "write_atomic", second_fails)
    got, out, err = run("generate", *MODEL, *SHORT, "-p", "a", "b", "c", "--sidecar")
    assert (got, out) == (code, "")
    assert err.splitlines()[-1] == ("sa3: interrupted" if code == 130 else "sa3: the disk is full")
    assert files(tmp_path) == ["output_0.json", "output_0.wav"]


def test_a_record_too_long_for_tags_is_pointed_out(run: Run, tmp_path: Path) -> None:
    prompts = ["drums " * 100 + str(i) for i in range(60)]
    argv = ["generate", *MODEL, "--duration", "0.1", "--padding-seconds", "0", "-p", *prompts]
    code, _, err = run(*argv)
    assert code == 0
    assert err.count("--sidecar keeps it") == 60
    assert "comment" not in audio.read_metadata("output_0.wav")
    assert "--sidecar keeps it" not in run(*argv, "--sidecar")[2]


WAITING = """
import signal
from sa3_runtime.command import outputs

def interrupted(times):
    reached = []
    try:
        with outputs.not_interrupted():
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            reached.append("end")
    except KeyboardInterrupt:
        reached.append("interrupted")
    return reached

signal.signal(signal.SIGINT, signal.default_int_handler)
print(interrupted(1), interrupted(2), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_ctrl_c_waits_for_the_end_of_a_file_and_a_second_one_does_not() -> None:
    """In a process of its own: in one that holds every engine at once, a raised signal is theirs too."""
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, check=True)
    assert done.stdout == "['end', 'interrupted'] ['interrupted'] True\n"


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_a_generation_cleanly(tmp_path: Path) -> None:
    argv = ["generate", *MODEL, "-p", "a", "--duration", "120", "--steps", "1000", "--progress", "--sidecar"]
    process = subprocess.Popen([*SA3, *argv], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = b""
    while b"sample" not in said:
        said += os.read(process.stderr.fileno(), 4096)
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert rest.decode().splitlines()[-1].endswith("sa3: interrupted")
    assert b"Traceback" not in rest
    assert files(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="pipes")
@pytest.mark.parametrize("argv", [["models"], ["--help"], ["generate", *MODEL, *SHORT, "-p", "a", "--json"]])
def test_a_reader_that_went_away(tmp_path: Path, argv: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([*SA3, *argv], cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    # argparse keeps quiet about it where stdout is not buffered.
    assert done.returncode == 141 or argv == ["--help"]
    assert "Error" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_that_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*SA3, "models"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 6
    assert done.stderr == "sa3: cannot write to standard output: No space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="closes descriptors in a shell")
def test_standard_streams_that_are_closed() -> None:
    command = " ".join(f"'{word}'" for word in SA3)
    done = subprocess.run(f"{command} models >&-", shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (6, "sa3: cannot write to standard output: it is closed\n")
    done = subprocess.run(f"{command} models 2>&-", shell=True, capture_output=True, text=True)
    assert done.returncode == 0 and "nano" in done.stdout
    done = subprocess.run(f"{command} generate 2>&-", shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_cannot_be_said_loses_nothing(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        argv = [*SA3, "generate", *MODEL, *SHORT, "-p", "a", "-o", "a.wav"]  # random weights are warned of
        done = subprocess.run(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=full)
    assert done.returncode == 0 and audio.read(tmp_path / "a.wav").seconds == 0.5


def test_names_this_terminal_cannot_show(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xc3\xa9.wav")
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    argv = [*SA3, "generate", *MODEL, *SHORT, "-p", "a", "-o", name]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, env=env)
    assert done.returncode == 0
    assert done.stdout.startswith(b"\\udcff\\xe9.wav: 0.50 s")


# encode and decode


def test_sound_to_latents_and_back(run: Run, tmp_path: Path) -> None:
    tone(tmp_path / "in.wav", 1.0)
    code, out, _ = run("encode", "in.wav", *MODEL, "-o", "z.npy")
    assert code == 0
    assert re.match(r"z\.npy: 1\.00 s; null on cpu in fp32, ", out)
    latents = np.load("z.npy")
    assert (latents.dtype, latents.shape) == (np.float32, (256, 12))  # whole chunks
    code, out, _ = run("decode", "z.npy", *MODEL, "-o", "out.flac", "--bits", "24", "--duration", "0.75", "--json")
    assert code == 0
    assert json.loads(out)["durations"] == [0.75]
    assert audio.read("out.flac").seconds == 0.75
    assert audio.read_metadata("out.flac") == {"software": "sa3-runtime 0.1.0"}
    code, out, err = run("decode", "z.npy", *MODEL, "--duration", "9", "--json")
    assert code == 0 and "9 s were asked, and the latents hold 1.11 s" in err
    assert run("decode", "z.npy", *MODEL, "--duration", "1e308")[0] == 0
    assert set(json.loads(out)["seconds"]) == {"load", "decode", "finish", "write"}


def test_a_standalone_autoencoder(run: Run, tmp_path: Path) -> None:
    tone(tmp_path / "in.wav")
    flags = ["--model", "random:same-s", "--backend", "null"]
    assert run("encode", "in.wav", *flags, "--no-chunked")[0] == 0
    assert run("decode", "latents.npy", *flags, "--no-chunked")[0] == 0
    assert files(tmp_path) == ["in.wav", "latents.npy", "output.wav"]
    code, _, err = run("generate", *flags, "-p", "a")
    assert code == 2
    assert "same-s" in err


def test_latents_over_full_scale_are_pointed_out(run: Run, tmp_path: Path) -> None:
    latents = np.zeros((256, 8), np.float32)
    latents[:, 4:] = 20
    np.save(tmp_path / "z.npy", latents)
    assert "50.00% of the samples exceeded full scale" in run("decode", "z.npy", *MODEL)[2]
    assert "full scale" not in run("decode", "z.npy", *MODEL, "--limiter", "-1")[2]


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a .npy file, or a damaged one"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}", "is not a .npy file, or a damaged one"),
        (b"RIFF" * 100, "is not a .npy file, or a damaged one"),
        (np.array([{"a": 1}], object), "is not a .npy file, or a damaged one"),
        (np.zeros((256, 4), np.int16), "holds int16 values"),
        (np.zeros((256, 4), np.complex64), "holds complex64 values"),
        (np.zeros((64, 4), np.float32), r"shape \(64, 4\); \(256, frames\) was expected"),
        (np.zeros((2, 256, 4), np.float32), r"shape \(2, 256, 4\)"),
        (np.zeros((256,), np.float32), r"shape \(256,\)"),
        (np.float32(1), r"shape \(\)"),
        (None, "cannot read 'z.npy': No such file"),
    ],
)
def test_latents_that_are_none(run: Run, tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "z.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    code, out, err = run("decode", "z.npy", *MODEL)
    assert (code, out) == (2, "")
    assert re.fullmatch(f"sa3: .*{said}.*\n", err)


@pytest.mark.skipif(os.name == "nt", reason="pipes")
@pytest.mark.usefixtures("unopened")
def test_sound_from_a_pipe_is_refused(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")  # which waits for a writer if it is opened
    said = "'pipe.wav' is a pipe or a device, and an audio file is read more than once; save it as a file first\n"
    assert run("encode", "pipe.wav", *MODEL) == (2, "", f"sa3: {said}")
    assert run("generate", "-p", "a", *MODEL, "--init-audio", "pipe.wav") == (2, "", f"sa3: {said}")
    assert run("generate", "--from", "pipe.wav") == (2, "", f"sa3: {said}")


@pytest.mark.skipif(os.name == "nt", reason="pipes")
@pytest.mark.usefixtures("unopened")
def test_latents_from_a_pipe_are_refused(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "z.npy")
    said = "'z.npy' is a pipe or a device, and a .npy file is read more than once; save it as a file first\n"
    assert run("decode", "z.npy", *MODEL) == (2, "", f"sa3: {said}")


def test_a_header_cannot_claim_more_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "z.npy"
    np.save(path, np.zeros((256, 4), np.float32))
    path.write_bytes(path.read_bytes().replace(b"(256, 4), }      ", b"(256, 40000000) }"))
    with pytest.raises(outputs.InvalidRequest, match="damaged"):
        outputs.read_npy(path, 256)


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["encode", "missing.wav"], 2),
        (["encode", "in.wav", "-o", "z.txt"], 2),
        (["encode", "in.wav", "-o", "nowhere/z.npy"], 6),
        (["decode", "z.npy", "-o", "a.xyz"], 2),
        (["decode", "z.npy", "-o", "nowhere/a.wav"], 6),
        (["decode", "z.npy", "--duration", "-1"], 2),
        (["decode", "z.npy", "--limiter", "5"], 2),
        (["decode", "z.npy", "--duration", "inf"], 2),
        (["doctor", "--model", "~nobody-here/x"], 3),
        (["decode", "z.npy", "--threads", "0"], 2),
        (["decode", "z.npy", "-o", "a.mp3", "--sample-rate", "8000"], 2),
        (["decode", "z.npy", "--precision", "fp8"], 2),
        (["encode", "in.wav", "--backend", "tpu"], 2),
        (["encode", "in.wav", "--precision", "fp8"], 2),
    ],
)
def test_coding_is_refused_before_a_model_is_opened(run: Run, tmp_path: Path, argv: list[str], code: int) -> None:
    tone(tmp_path / "in.wav")
    np.save(tmp_path / "z.npy", np.zeros((256, 4), np.float32))
    null = [] if argv[0] == "doctor" else MODEL
    got, out, err = run(*argv[:2], *null, *argv[2:])
    assert (got, out) == (code, "")
    assert re.fullmatch("sa3: .+\n", err)


# models


def test_models_and_what_is_here(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit = "0" * 40
    folder = tmp_path / "models--stabilityai--SAME-S"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    code, out, err = run("models")
    assert (code, err) == (0, "")
    where = {line.split()[0].rstrip(","): line for line in out.splitlines() if line}
    assert re.search(r"same-s +- +here +stabilityai/SAME-S", where["same-s"])
    assert re.search(r"small-music, small +120 +gated +stabilityai/", where["small-music"])
    assert "Community License" in out
    told = {one["name"]: one for one in json.loads(run("models", "--json")[1])["models"]}
    assert [name for name, one in told.items() if one["here"] and name != "nano"] == ["same-s"]
    assert told["small-music"]["aliases"] == ["small"]
    assert told["medium"]["max_seconds"] == 380


def test_the_output_is_not_what_it_starts_from(run: Run, tmp_path: Path) -> None:
    sf.write(tmp_path / "same.wav", np.full((44100, 2), 0.1), 44100)
    before = (tmp_path / "same.wav").read_bytes()
    code, _, err = run("generate", "-p", "x", "--init-audio", "same.wav", "-o", "same.wav")
    assert code == 2 and "both the output and init_audio" in err
    assert (tmp_path / "same.wav").read_bytes() == before
