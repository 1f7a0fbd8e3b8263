import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sa3_engines import models
from sa3_engines.errors import InvalidRequest, Sa3Error
from sa3_engines.openvino import OpenVinoBackend
from sa3_runtime import audio, recipe, record, replay, sidecar
from sa3_runtime.audio import Sound
from sa3_runtime.cli import main
from sa3_runtime.command.arguments import parse
from sa3_runtime.command.jobs import Listener, generate, prepare
from sa3_runtime.pipeline import Pipeline
from sa3_runtime.recipe import Opening, Recipe
from sa3_runtime.request import AdapterUse, Request, plan

NULL = ["--model", "random:small-music", "--backend", "null", "--duration", "0.5", "--padding-seconds", "0"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> tuple[int, str, str]:
        code = main(["generate", *argv])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def samples(path: str | Path) -> np.ndarray:
    return audio.read(path).samples


def tone(path: Path, seconds: float, rate: int = 8000, pitch: float = 440) -> None:
    wave = np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * pitch / rate).astype(np.float32)
    audio.write(path, Sound(wave[None] * 0.5, rate))


# The same sound again, computed by a real engine


@pytest.fixture
def tiny(tiny_model: Path) -> list[str]:
    return ["--model", str(tiny_model), "--backend", "torch", "--threads", "1", "--padding-seconds", "1"]


def test_a_clip_is_made_again_to_the_bit(run: Run, tiny: list[str], tmp_path: Path) -> None:
    flags = ["-p", "warm pads", "--duration", "2", "--steps", "3", "--cfg-scale", "3", "--negative-prompt", "rain"]
    more = ["--sampler", "dpmpp", "--apg-scale", "0.5", "--cfg-interval", "0.2", "0.9", "--cfg-rescale", "0.3"]
    shape = ["--dist-shift", '{"type": "flux", "alpha_max": 2}', "--sample-rate", "8000", "--limiter", "-3"]
    out = ["-o", "first.flac", "--bits", "24", "--sidecar", "--autoencoder-noise", "--no-chunked-decode"]
    assert run(*tiny, *flags, *more, *shape, *out)[0] == 0
    assert run("--from", "first.json")[0] == 0
    assert run("--from", "first.flac", "-o", "third.flac")[0] == 0
    first = samples("first.flac")
    assert np.ptp(first) > 0.1
    assert np.array_equal(samples("output.flac"), first)  # the format comes along
    assert np.array_equal(samples("third.flac"), first)
    assert run("--from", "first.flac", "-o", "other.flac", "--seed", "1")[0] == 0
    assert not np.array_equal(samples("other.flac"), first)


@pytest.mark.parametrize("seeds", [["5"], ["5", "6"]])
def test_one_item_of_a_batch_is_made_again(run: Run, tiny: list[str], seeds: list[str], tmp_path: Path) -> None:
    batch = ["-p", "warm", "drums", "--duration", "1", "1.5", "--steps", "2", "--seed", *seeds]
    assert run(*tiny, *batch)[0] == 0
    assert run("--from", "output_1.wav", "-o", "again.wav")[0] == 0
    assert np.array_equal(samples("again.wav"), samples("output_1.wav"))
    assert not np.array_equal(samples("again.wav")[:, :1600], samples("output_0.wav"))
    assert not (tmp_path / "again_0.wav").exists()
    # Asking for several makes a batch of its own.
    assert run("--from", "output_1.wav", "-o", "new.wav", "--batch-size", "2")[0] == 0
    assert np.array_equal(samples("new_1.wav"), samples("output_1.wav"))


def test_given_sound_and_adapters_come_along(run: Run, tiny: list[str], tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    tone(tmp_path / "work" / "a.wav", 2)
    tone(tmp_path / "work" / "b.wav", 2, pitch=220)
    shutil.copy(tiny_model / "loras" / "lora.safetensors", tmp_path / "work")
    shutil.copy(tiny_model / "loras" / "bora.safetensors", tmp_path / "work")
    flags = ["-p", "rain", "--duration", "2", "--steps", "2", "--seed", "1"]
    given = ["--init-audio", "work/a.wav", "--init-noise-level", "0.7", "--inpaint-audio", "work/b.wav"]
    where = ["--inpaint-start", "0.5", "--inpaint-end", "1", "--resampler", "fast"]
    adapters = ["--lora-ckpt-path", "work/lora.safetensors", "--lora-ckpt-path", "work/bora.safetensors"]
    assert run(*tiny, *flags, *given, *where, *adapters, "--lora-strength", "0.5", "--lora-strength", "0.8")[0] == 0
    assert run("--from", "output.wav", "-o", "again.wav")[0] == 0
    first = samples("output.wav")
    assert np.array_equal(samples("again.wav"), first)
    for change in (["--lora-strength", "0.1", "--lora-index", "1"], ["--init-noise-level", "0.6"]):
        assert run("--from", "output.wav", "-o", "other.wav", *change)[0] == 0
        assert not np.array_equal(samples("other.wav"), first)


# What is in a record


def made(**settings: Any) -> dict[str, Any]:
    recipe = Recipe(opening=Opening(model="random:small-music", backend="null"), request=Request(**settings))
    with recipe.opening.open() as pipeline:
        generation = pipeline.generate(recipe.request)
        return record.make(recipe, generation, pipeline, 0, datetime(2026, 11, 21, tzinfo=UTC))


def test_everything_that_was_chosen_is_in_it() -> None:
    found = made(prompt=["a", "b"], seconds=0.5, padding_seconds=0.0, seed=-1, dist_shift="flux")
    assert found["created"] == "2026-11-21T00:00:00+00:00"
    assert (found["model"], found["backend"], found["device"]) == ("random:small-music", "null", "cpu")
    assert (found["item"], found["items"]) == (0, 2)
    assert {"sa3-runtime", "numpy"} <= set(found["versions"])
    request = found["request"]
    assert request["prompt"] == ["a", "b"]
    assert request["seconds"] == 0.5
    assert request["seed"] >= 0
    assert (request["sampler"], request["dist_shift"]) == ("pingpong", {"type": "flux"})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"seed": [3, 4], "seconds": [0.1, 0.5], "negative_prompt": "n", "cfg_scale": 2.5, "cfg_interval": (0.1, 0.8)},
        {
            "chunked_decode": False,
            "truncate": False,
            "truncate_prompt": True,
            "autoencoder_noise": True,
            "padding": "zero",
        },
        {"sampler": "euler", "steps": 3, "sample_size": 4096 * 40, "dist_shift": {"type": "logsnr", "rate": 0.5}},
        {"adapters": [AdapterUse(index=0, interval=(0.25, 1.0), skip_layers="to_q")]},
    ],
)
def test_a_request_comes_back_as_it_was_planned(settings: dict[str, Any]) -> None:
    loaded = settings.pop("adapters", None)  # which ones are loaded is for the pipeline to check
    found = made(prompt=["a", "b"], **({"seconds": 0.5, "padding_seconds": 0.0} | settings))
    if loaded:
        found["request"]["adapters"] = [{"index": 0, "interval": [0.25, 1.0], "skip_layers": "to_q"}]
    back = replay.from_record(json.loads(sidecar.dumps(found)))
    assert back.request.adapters == loaded
    with Pipeline.load("random:small-music", backend="null") as pipeline:
        again = plan(back.request, pipeline.config)
    assert again.items == 2
    assert again.prompts == ["a", "b"]
    assert again.request.chunking == Request(prompt="").chunking
    for name, value in settings.items():
        now = getattr(again.request, name)
        assert now == value or (name == "dist_shift" and again.shift == value)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "opus"])
def test_every_format_carries_it(run: Run, suffix: str) -> None:
    prompt = 'rain "on" tin, \\ 漢字 é'
    assert run(*NULL, "-p", prompt, "-o", f"clip.{suffix}", "--sidecar", "--seed", "9")[0] == 0
    found = record.read(Path(f"clip.{suffix}"))
    assert found == record.read(Path("clip.json"))
    assert found["request"]["prompt"] == prompt
    assert found["output"] == {"file": f"clip.{suffix}", "format": suffix, "bits": None}
    tags = audio.read_metadata(f"clip.{suffix}")
    assert (tags["title"], tags["date"]) == (prompt, found["created"][:10])


def test_a_long_record_is_left_out_of_the_tags() -> None:
    found = made(prompt="a", seconds=0.5, padding_seconds=0.0)
    assert "comment" in record.to_tags(found)
    found["request"]["prompt"] = "x" * 40_000
    tags = record.to_tags(found)
    assert "comment" not in tags
    assert len(tags["title"]) == record.TITLE
    audio.encode(Sound(np.zeros((2, 100), np.float32), 44100), "opus", metadata=tags)


def test_a_record_that_another_tool_cut_off_is_damaged(run: Run) -> None:
    assert run(*NULL, "-p", "a")[0] == 0
    comment = audio.read_metadata("output.wav")["comment"]
    audio.write("cut.wav", audio.read("output.wav"), metadata={"comment": comment[:255]})
    code, _, err = run("--from", "cut.wav")
    assert (code, err) == (2, "sa3: the record in 'cut.wav' is damaged: it breaks off before its end\n")


def test_sound_that_was_in_no_file_cannot_be_used_again() -> None:
    found = made(prompt="a", seconds=0.5, padding_seconds=0.0, init_audio=Sound(np.ones((2, 100), np.float32), 44100))
    assert found["inputs"] == {"init_audio": {"path": None}}
    with pytest.raises(InvalidRequest, match="init_audio that is in no file"):
        replay.from_record(found)


# Another time, another place


def test_files_are_found_beside_the_record(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tone(tmp_path / "in.wav", 1)
    assert run(*NULL, "-p", "a", "--init-audio", "in.wav", "--sidecar")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("--from", "../output.json")[0] == 0
    assert np.array_equal(samples("output.wav"), samples("../output.wav"))
    tone(tmp_path / "elsewhere" / "in.wav", 1, pitch=100)  # of the same name, and not it
    assert run("--from", "../output.json")[0] == 0
    assert np.array_equal(samples("output.wav"), samples("../output.wav"))


@pytest.fixture
def made_elsewhere(run: Run, tmp_path: Path) -> Path:
    """The record of a clip in s/b, made in s with a sound and a model from there."""
    start, s = Path.cwd(), tmp_path / "s"
    for folder in ("s/b", "s/x", "other"):
        (tmp_path / folder).mkdir(parents=True)
    tone(s / "pad.wav", 1)
    (s / "x" / "all").symlink_to(Path(models.__file__).parent / "nano")
    os.chdir(s)
    flags = ["--model", "x/all", "--backend", "null", "--duration", "2"]
    assert run("-p", "a", "--continue", "pad.wav", *flags, "-o", "b/c.flac", "--sidecar")[0] == 0
    os.chdir(start)
    return s / "b" / "c.json"


def test_a_record_is_used_from_anywhere(run: Run, made_elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = record.read(made_elsewhere)
    assert (found["model"], found["inputs"]["inpaint_audio"]["path"]) == ("../x/all", "../pad.wav")
    monkeypatch.chdir(made_elsewhere.parents[2] / "other")
    for place in (made_elsewhere, Path("../s/b/c.json"), Path("../s/b/c.flac")):
        assert run("--from", str(place), "-o", "again.flac")[0] == 0
        again = record.read(Path("again.flac"))
        assert (again["model"], again["inputs"]["inpaint_audio"]["path"]) == ("../s/x/all", "../s/pad.wav")
    assert run("--from", "again.flac", "-o", "once.flac")[0] == 0


def test_a_record_is_moved_with_its_files(run: Run, made_elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    made_elsewhere.rename(tmp_path / "moved" / "c.json")
    for name in ("pad.wav", "x/all"):
        (tmp_path / "s" / name).rename(tmp_path / "moved" / Path(name).name)
    assert run("--from", "moved/c.json", "-o", "again.flac")[0] == 0
    again = record.read(Path("again.flac"))
    assert (again["model"], again["inputs"]["inpaint_audio"]["path"]) == ("./moved/all", "moved/pad.wav")
    (tmp_path / "moved" / "all").unlink()
    code, _, err = run("--from", "moved/c.json", "-o", "again.flac")
    assert code == 3
    assert err == (
        "sa3: there is no model '../x/all', the folder that the record names, as seen from its own folder or from "
        "here; name the model with --model\n"
    )


def test_paths_of_records_as_they_were_once_written(run: Run, made_elsewhere: Path, tmp_path: Path) -> None:
    found = record.read(made_elsewhere)
    for sound, model in (("s/pad.wav", "s/x/all"), ("s\\pad.wav", "s\\x\\all"), ("C:\\pad.wav", "C:\\m\\all")):
        given = found["inputs"]["inpaint_audio"] | {"path": sound}
        sidecar.write("old.json", found | {"model": model, "inputs": {"inpaint_audio": given}})
        if sound.startswith("C:"):
            shutil.copy(tmp_path / "s" / "pad.wav", tmp_path)
            (tmp_path / "s" / "x" / "all").rename(tmp_path / "all")
        assert run("--from", "old.json", "-o", "again.flac")[0] == 0


def test_an_absolute_path_stays_one(run: Run, made_elsewhere: Path, tmp_path: Path) -> None:
    given = [str(tmp_path / "s" / name) for name in ("pad.wav", "x/all")]
    assert run("--from", "s/b/c.json", "-o", "d.wav", "--continue", given[0], "--model", given[1])[0] == 0
    assert run("--from", "d.wav", "-o", "s/e.wav")[0] == 0
    for path in (Path("d.wav"), Path("s/e.wav")):
        again = record.read(path)
        assert [again["inputs"]["inpaint_audio"]["path"], again["model"]] == given


def test_what_a_flag_names_is_not_looked_for_beside_the_record(run: Run, made_elsewhere: Path) -> None:
    tone(made_elsewhere.parent / "new.wav", 1)
    (made_elsewhere.parent / "small").symlink_to(Path(models.__file__).parent / "nano")
    code, _, err = run("--from", "s/b/c.json", "--continue", "new.wav")
    assert (code, err) == (2, "sa3: there is no audio file 'new.wav'\n")
    assert run("--from", "s/b/c.json", "--model", "smal")[0] == 3


def test_a_folder_is_told_from_a_model_of_its_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "nano").symlink_to(Path(models.__file__).parent / "nano")
    flags = ["-p", "a", "--backend", "null", "--duration", "1"]
    for model in ("nano", "./nano"):
        assert run(*flags, "--model", model)[0] == 0
        assert record.read(Path("output.wav"))["model"] == model
        assert prepare(parse(["generate", "--from", "output.wav"])).recipe.opening.model == model


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_paths_from_behind_a_link(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "far" / "away")
    tone(tmp_path / "in.wav", 1)
    assert run(*NULL, "-p", "a", "--init-audio", "in.wav", "-o", "out/a.wav")[0] == 0
    assert record.read(Path("out/a.wav"))["inputs"]["init_audio"]["path"] == "../../in.wav"
    monkeypatch.chdir("/")
    assert run("--from", str(tmp_path / "out" / "a.wav"), "-o", str(tmp_path / "b.wav"))[0] == 0


def test_a_file_that_changed_is_refused_and_another_may_be_named(run: Run, tmp_path: Path) -> None:
    tone(tmp_path / "in.wav", 1)
    tone(tmp_path / "new.wav", 1, pitch=100)
    assert run(*NULL, "-p", "a", "--continue", "in.wav", "--duration", "2")[0] == 0
    shutil.copy(tmp_path / "new.wav", tmp_path / "in.wav")
    code, _, err = run("--from", "output.wav", "-o", "b.wav")
    assert code == 2
    assert "audio file 'in.wav' is not what it was when the record was made" in err
    (tmp_path / "in.wav").unlink()
    code, _, err = run("--from", "output.wav", "-o", "b.wav")
    assert code == 2
    assert err == (
        "sa3: there is no audio file 'in.wav', as seen from the record's folder or from here; name the file to use\n"
    )
    assert run("--from", "output.wav", "-o", "b.wav", "--continue", "new.wav")[0] == 0
    again = record.read(Path("b.wav"))
    assert again["inputs"]["inpaint_audio"] == {"path": "new.wav", "sha256": recipe.sha256(tmp_path / "new.wav")}
    assert again["request"]["continue_audio"] is True
    places = ["--inpaint-audio", "new.wav", "--inpaint-start", "0", "--inpaint-end", "1"]
    assert run("--from", "output.wav", "-o", "c.wav", *places)[0] == 0
    assert record.read(Path("c.wav"))["request"]["continue_audio"] is False


def test_sound_can_be_added_to_what_had_none(run: Run, tmp_path: Path) -> None:
    tone(tmp_path / "in.wav", 1)
    assert run(*NULL, "-p", "a")[0] == 0
    assert run("--from", "output.wav", "--init-audio", "in.wav")[0] == 0
    assert record.read(Path("output.wav"))["request"]["init_noise_level"] == 0.9
    assert run("--from", "output.wav", "--init-noise-level", "0.4")[0] == 0
    assert run("--from", "output.wav", "--init-audio", "in.wav")[0] == 0
    assert record.read(Path("output.wav"))["request"]["init_noise_level"] == 0.4


def test_flags_override_what_belongs_together() -> None:
    def opened(*flags: str) -> Opening:
        sidecar.write("/tmp/sa3-test-record.json", base)
        return prepare(
            parse(["generate", "--from", "/tmp/sa3-test-record.json", "-o", "/tmp/x.wav", *flags])
        ).recipe.opening

    from sa3_runtime.command.arguments import parse

    base = {
        "model": "small-music",
        "revision": "abc",
        "backend": "torch",
        "device": "cuda:0",
        "precision": "fp16",
        "threads": 3,
        "request": {"prompt": "a", "seconds": 1.0},
    }
    same = opened()
    assert (same.model, same.revision, same.backend) == ("small-music", "abc", "torch")
    assert (same.device, same.precision, same.threads) == ("cuda:0", "fp16", 3)
    other = opened("--model", "medium")
    assert (other.model, other.revision, other.device) == ("medium", None, "cuda:0")
    other = opened("--backend", "auto")
    assert (other.backend, other.device, other.precision, other.revision) == ("auto", "auto", "auto", "abc")
    assert opened("--no-half").precision == "fp32"


def test_a_rate_that_was_once_resampled_is_made_again(run: Run) -> None:
    assert run(*NULL, "-p", "a", "-o", "a.mp3", "--sidecar")[0] == 0
    older = sidecar.read("a.json")
    older["request"]["finish"]["rate"] = 96000
    sidecar.write("a.json", older)
    assert run("--from", "a.json", "-o", "b.mp3")[0] == 0
    assert audio.read("b.mp3").rate == 48000
    assert run("--from", "a.json", "-o", "b.wav")[0] == 0
    assert audio.read("b.wav").rate == 96000
    code, _, err = run("--from", "a.json", "-o", "b.opus")  # which nobody has ever made
    assert code == 2 and err.startswith("sa3: opus does not hold 96000 Hz; choose from 8000, ")
    assert run("--from", "a.json", "-o", "b.opus", "--sample-rate", "48000")[0] == 0


def test_other_versions_are_pointed_out(run: Run, tmp_path: Path) -> None:
    assert run(*NULL, "-p", "a", "--sidecar")[0] == 0
    found = sidecar.read("output.json")
    found["versions"]["numpy"] = "0.1"
    sidecar.write("old.json", found)
    assert "numpy was 0.1 and is" in run("--from", "old.json")[2]
    assert "numpy" not in run("--from", "output.json")[2]


def test_what_a_record_chose_is_told_where_it_cannot_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(*NULL, "-p", "a", "--sidecar")[0] == 0
    whole = sidecar.read("output.json") | {"model": "nano"}
    reason = "OpenVINO is not installed; pip install 'sa3-runtime[openvino]'"
    monkeypatch.setattr(OpenVinoBackend, "why_not", lambda *_: reason)
    sidecar.write("other.json", whole | {"backend": "openvino", "precision": "bf16"})
    code, _, err = run("--from", "other.json")
    assert code == 4
    assert err == (
        f"sa3: backend openvino cannot run nano: {reason}; the record chose backend openvino, device cpu, "
        "precision bf16, and --backend auto runs it with what is here\n"
    )
    code, _, err = run("--from", "other.json", "--precision", "fp32", "--device", "cpu")
    assert code == 4 and "; the record chose backend openvino, and --backend auto" in err
    code, _, err = run("--from", "other.json", "--backend", "openvino")
    assert code == 4 and "the record" not in err
    assert run("--from", "other.json", "--backend", "auto")[0] == 0
    sidecar.write("other.json", whole | {"backend": "tpu"})
    code, _, err = run("--from", "other.json")
    assert code == 2 and err.startswith("sa3: no backend 'tpu'; ") and "the record chose backend tpu, " in err


# Records nobody should believe


def test_a_record_of_an_item_that_is_not_there(run: Run) -> None:
    assert run(*NULL, "-p", "a", "b", "--sidecar")[0] == 0
    found = sidecar.read("output_1.json")
    for item in (2, -1):
        sidecar.write("bad.json", found | {"item": item})
        code, _, err = run("--from", "bad.json", "-o", "c.wav")
        assert (code, err) == (2, f"sa3: the record is of item {item} in a batch of 2\n")


@pytest.mark.parametrize(
    "damage",
    [
        {"request": []},
        {"request": None},
        {"request": {"prompt": None}},
        {"request": {"prompt": "\udcff"}},
        {"request": {"prompt": "a", "cfg_interval": None}},
        {"request": {"prompt": "a", "mood": 1}},
        {"request": {"prompt": "a", "init_audio": "/etc/passwd"}},
        {"request": {"prompt": "a", "steps": "8"}},
        {"request": {"prompt": "a", "batch_size": "2"}},
        {"request": {"prompt": "a", "cfg_interval": [1]}},
        {"request": {"prompt": "a", "cfg_interval": "ab"}},
        {"request": {"prompt": "a", "chunking": {"size": "a"}}},
        {"request": {"prompt": "a", "finish": {"limiter": "loud"}}},
        {"request": {"prompt": "a", "finish": {"volume": 11}}},
        {"request": {"prompt": "a", "sampler": 3}},
        {"request": {"prompt": "a", "seconds": "long"}},
        {"request": {"prompt": "a", "seed": [[1]]}},
        {"request": {"prompt": "a", "dist_shift": [1]}},
        {"request": {"prompt": "a", "adapters": [1]}},
        {"request": {"prompt": "a", "adapters": [{"index": 0, "interval": None}]}},
        {"request": {"prompt": "a", "inpaint_regions": [1, 2]}},
        {"inputs": {"init_audio": {"path": 3}}},
        {"inputs": {"init_audio": "in.wav"}},
        {"inputs": {"title": {"path": "in.wav"}}},
        {"inputs": {"inpaint_mask": {"path": None}}},
        {"inputs": ["a"]},
        {"adapters": "abc"},
        {"adapters": [1]},
        {"adapters": [{"strength": 1}]},
        {"output": {"format": "exe"}},
        {"output": {"format": ["wav"]}},
        {"output": 3},
        {"model": 3},
        {"backend": ["torch"]},
        {"threads": "many"},
        {"item": "first", "items": 2},
    ],
)
def test_a_damaged_record_is_refused_in_a_sentence(run: Run, damage: dict[str, Any]) -> None:
    sidecar.write("bad.json", {"model": "random:small-music", "backend": "null", "request": {"prompt": "a"}} | damage)
    code, out, err = run("--from", "bad.json")
    assert (code, out) == (2, "")
    assert err.startswith("sa3: ")
    assert not list(Path().glob("output*"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"request": []}, "request is []; expected an object"),
        ({"request": {}}, None),
        ({"request": {"prompt": None}}, "request.prompt is null; expected a text or a list of texts"),
        ({"request": {"prompt": []}}, "request.prompt is []; expected a text or a list of texts"),
        ({"request": {"prompt": "a", "seconds": float("nan")}}, "request.seconds is NaN; expected a number or"),
        ({"request": {"prompt": "a", "seconds": [1, None]}}, "request.seconds is [1, null]; expected a number or"),
        ({"request": {"prompt": "a", "seconds": 10**400}}, "request.seconds is 1000"),
        ({"request": {"prompt": "a", "steps": True}}, "request.steps is true; expected a whole number"),
        (
            {"request": {"prompt": "a", "seed": "x" * 999}},
            f'request.seed is "{"x" * 59}...; expected a whole number or',
        ),
        ({"request": {"prompt": "a", "cfg_interval": [1]}}, "request.cfg_interval is [1]; expected two numbers"),
        (
            {"request": {"prompt": "a", "inpaint_regions": [1, 2]}},
            "request.inpaint_regions is [1, 2]; expected a list of two",
        ),
        ({"request": {"prompt": "a", "truncate": 1}}, "request.truncate is 1; expected true or false"),
        (
            {"request": {"prompt": "a", "chunking": {"size": "a"}}},
            'request.chunking.size is "a"; expected a whole number',
        ),
        ({"request": {"prompt": "a", "chunking": {"sise": 3}}}, "request.chunking.sise is unknown here"),
        ({"request": {"prompt": "a", "finish": {"limiter": []}}}, "request.finish.limiter is []; expected a number"),
        ({"request": {"prompt": "a", "dist_shift": {"type": "flux", "alpha_max": "x"}}}, "request.dist_shift is {"),
        ({"request": {"prompt": "a", "dist_shift": {"type": "flux", "alpha_max": 10**40}}}, "request.dist_shift is {"),
        ({"request": {"prompt": "a", "adapters": [{}]}}, "request.adapters[0].index is missing"),
        ({"request": {"prompt": "a", "adapters": [3]}}, "request.adapters is [3]; expected a list of objects"),
        ({"inputs": {"init_audio": "in.wav"}}, 'inputs.init_audio is "in.wav"; expected an object'),
        ({"inputs": {"init_audio": {"path": 3}}}, "inputs.init_audio.path is 3; expected a text"),
        ({"adapters": [{"strength": 1}]}, "adapters[0].path is missing"),
        ({"adapters": [{"path": "a", "strength": "1"}]}, 'adapters[0].strength is "1"; expected a number'),
        ({"output": {"format": ["wav"]}}, 'output.format is ["wav"]; expected a text'),
        ({"versions": {"numpy": 2}}, "versions.numpy is 2; expected a text"),
        ({"model": 3}, "model is 3; expected a text"),
        ({"threads": 1.5}, "threads is 1.5; expected a whole number"),
    ],
)
def test_the_field_that_is_damaged_is_named(run: Run, damage: dict[str, Any], said: str | None) -> None:
    whole = {"model": "random:small-music", "backend": "null", "request": {"prompt": "a"}, "schema": 1}
    Path("bad.json").write_text(json.dumps(whole | damage))
    code, out, err = run("--from", "bad.json")
    start = "sa3: the record in 'bad.json' is damaged: " if said else "sa3: the record has no prompt; give one with -p"
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(start + (said or "")), err


def test_names_no_file_can_have(run: Run) -> None:
    for damage in ({"inputs": {"init_audio": {"path": "x" * 5000}}}, {"adapters": [{"path": "x" * 5000}]}):
        sidecar.write("bad.json", {"model": "nano", "request": {"prompt": "a"}} | damage)
        code, _, err = run("--from", "bad.json")
        assert code == 2 and err.startswith('sa3: cannot read "xxx') and len(err) < 200
    sidecar.write("bad.json", {"model": "x" * 5000, "request": {"prompt": "a"}})
    code, _, err = run("--from", "bad.json")
    assert code == 3 and err.endswith("cannot be read: File name too long\n")


PYTHONS_OWN = "argument|attribute|NoneType|subscript|iterable|operand|unpack|convert|instances|ufunc|literal|Error"


def test_records_damaged_at_random_never_end_in_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(*NULL, "-p", "a", "b", "--sidecar", "--steps", "1")[0] == 0
    whole = json.loads(Path("output_0.json").read_text())
    values = [
        None,
        True,
        -1,
        0,
        1.5,
        "",
        "x",
        [],
        {},
        [1],
        {"a": 1},
        [[1, 2]],
        1e300,
        10**40,
        float("nan"),
        "1",
        ["a", "b", "c"],
    ]
    chance = random.Random(1)

    def places(value: Any) -> list[tuple[Any, Any]]:
        found: list[tuple[Any, Any]] = []
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            found += [(value, key), *places(value[key])]
        return found

    for _ in range(400):
        bad = json.loads(json.dumps(whole))
        for _ in range(chance.randint(1, 2)):
            where, key = chance.choice(places(bad))
            where[key] = chance.choice(values)
        Path("bad.json").write_text(json.dumps(bad))
        try:
            prepare_and_run("bad.json")
        except Sa3Error as e:
            assert str(e) and not re.search(PYTHONS_OWN, str(e)), f"{bad}: {e}"
        except Exception as e:
            raise AssertionError(f"{bad}: {e!r}") from e


def prepare_and_run(path: str) -> None:
    job = prepare(parse(["generate", "--from", path, "-o", "x.wav"]))
    if job.recipe.opening.backend == "null":
        generate(job, Listener(progress=lambda _: None, warn=lambda _: None))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "{}", '{"schema": 99}', '{"schema": 1}'])
def test_what_is_no_record(run: Run, text: str) -> None:
    Path("bad.json").write_text(text)
    code, _, err = run("--from", "bad.json")
    assert code == 2
    assert err.startswith("sa3: ")


# From Python


@pytest.fixture
def opened(tiny_model: Path) -> Iterator[Pipeline]:
    with Pipeline.load(tiny_model, backend="torch", threads=1) as pipeline:
        yield pipeline


def again(path: Path) -> np.ndarray:
    """The clip made anew from its record, to the bits of the file."""
    assert main(["generate", "--from", str(path), "-o", str(path.with_name("again.wav")), "-q"]) == 0
    return audio.read(path.with_name("again.wav")).samples


def test_a_clip_from_python_is_made_again_from_its_tags(opened: Pipeline, tmp_path: Path) -> None:
    lora = Path(__file__).parents[1] / "golden/tiny-small/loras/lora.safetensors"
    audio.write(tmp_path / "in.wav", Sound(np.full((2, 1600), 0.1, np.float32), 1600))
    opened.load_adapter(lora, 0.5)
    settings: dict[str, Any] = {"init_audio": tmp_path / "in.wav", "seed": [3, -1], "steps": 2}
    made = opened.generate(Request(prompt=["warm", "drums"], **settings))
    opened.adapters.set_strength(1.0)  # what comes after is not its
    for index in (0, 1):
        record.write(tmp_path / "out.wav", made, opened, index, bits="32f")
        assert np.array_equal(again(tmp_path / "out.wav"), made.clip(index).samples)
    found = record.read(str(tmp_path / "out.wav"))
    assert (found["inputs"]["init_audio"]["path"], found["item"], found["threads"]) == (str(tmp_path / "in.wav"), 1, 1)
    assert found["adapters"][0]["strength"] == 0.5


def test_what_no_record_can_make_again(opened: Pipeline, tmp_path: Path) -> None:
    sound = Sound(np.full((2, 1600), 0.1, np.float32), 1600)
    record.write(tmp_path / "x.wav", opened.generate(Request(prompt="warm", init_audio=sound, steps=1)), opened)
    assert main(["generate", "--from", str(tmp_path / "x.wav"), "-o", str(tmp_path / "y.wav"), "-q"]) == 2
    opened.load_adapter(Path(__file__).parents[1] / "golden/tiny-small/loras/lora.safetensors")
    opened.adapters.set_strength(0.5, target="dit")
    made = opened.generate(Request(prompt="warm", seconds=1, steps=1))
    with pytest.raises(InvalidRequest, match="a record holds one strength"):
        record.write(tmp_path / "z.wav", made, opened)
    with pytest.raises(InvalidRequest, match="Pipeline and Generation were given"):
        record.write(tmp_path / "z.wav", opened, made)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "z.wav").exists()
