import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from sa3_engines.errors import AudioFileError, InvalidRequest, OutputError
from sa3_runtime import audio, files, tags
from sa3_runtime.audio import FORMATS, Sound

RATE = 44100
TAGS = {name: f"{name} é漢字" for name in tags.NAMES} | {"tracknumber": "7", "date": "2026-01-02"}


def tone(seconds: float = 0.5, rate: int = RATE, channels: int = 2) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    fade = np.minimum(1, (time[-1] - time) * 50)  # lossy formats smear an abrupt end
    rows = [np.sin(2 * np.pi * 440 * (i + 1) * time) * fade / (i + 2) for i in range(channels)]
    return np.array(rows, np.float32)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Tensor:
    """What torch tensors are to as_sound, without torch."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def detach(self) -> "Tensor":
        return self

    cpu = float = detach

    def is_floating_point(self) -> bool:
        return self.array.dtype.kind == "f"

    def numpy(self) -> np.ndarray:
        return self.array


# Reading


@pytest.mark.parametrize(
    ("container", "subtype", "suffix", "rate", "channels"),
    [
        ("WAV", "PCM_U8", "wav", 8000, 1),
        ("WAV", "PCM_24", "wav", 96000, 6),
        ("WAV", "DOUBLE", "wav", 44100, 2),
        ("WAVEX", "FLOAT", "wav", 48000, 2),
        ("RF64", "PCM_16", "wav", 44100, 2),
        ("FLAC", "PCM_24", "flac", 192000, 2),
        ("AIFF", "PCM_16", "aiff", 22050, 2),
        ("CAF", "PCM_32", "caf", 44100, 1),
        ("W64", "PCM_16", "w64", 32000, 2),
        ("AU", "ULAW", "au", 8000, 1),
        ("MP3", "MPEG_LAYER_III", "mp3", 44100, 2),
        ("OGG", "VORBIS", "ogg", 44100, 2),
        ("OGG", "OPUS", "opus", 48000, 2),
    ],
)
def test_reads_what_libsndfile_reads(
    tmp_path: Path, container: str, subtype: str, suffix: str, rate: int, channels: int
) -> None:
    path = tmp_path / f"in.{suffix}"
    samples = tone(0.5, rate, channels)
    sf.write(path, samples.T, rate, subtype=subtype, format=container)
    got = audio.read(path)
    assert (got.rate, got.samples.shape, got.samples.dtype) == (rate, samples.shape, np.float32)
    assert got.seconds == 0.5
    # libsndfile's own opus files end in noise; ours do not, see below.
    assert np.abs(got.samples - samples)[:, :-1000].max() < 0.05


def test_reads_by_content_not_by_suffix_and_only_as_much_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(audio.encode(Sound(tone(2), RATE), "flac"))
    assert audio.read(path).seconds == 2
    assert audio.read(str(path), seconds=0.25).samples.shape == (2, 11025)
    assert audio.read(path, seconds=9).seconds == 2


@pytest.mark.parametrize("suffix", ["wav", "mp3", "raw", "m4a"])
@pytest.mark.parametrize("content", [b"", b"hello\n" * 99, b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(9999)])
def test_what_is_not_audio_is_refused_with_a_way_out(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"in.{suffix}"
    path.write_bytes(content)
    with pytest.raises(AudioFileError, match=r"wav, flac, ogg, opus, mp3.*convert m4a, aac or video"):
        audio.read(path)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="there is no audio file"):
        audio.read(tmp_path / "none.wav")
    with pytest.raises(AudioFileError, match="is a folder"):
        audio.read(tmp_path)
    with pytest.raises(AudioFileError, match="null"):
        audio.read("a\0b")
    with pytest.raises(AudioFileError, match="too long"):
        audio.read("x" * 5000)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_numbers_are_refused(tmp_path: Path, value: Any) -> None:
    samples = tone()
    samples[1, 7] = value
    sf.write(tmp_path / "in.wav", samples.T, RATE, subtype="FLOAT")
    with pytest.raises(AudioFileError, match="NaN or infinite"):
        audio.read(tmp_path / "in.wav")
    with pytest.raises(AudioFileError, match="init_audio holds NaN"):
        audio.as_sound((RATE, samples), "init_audio")
    with pytest.raises(InvalidRequest, match="NaN"):
        audio.encode(Sound(samples, RATE), "wav")


def test_zero_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.wav").write_bytes(audio.encode(Sound(np.zeros((2, 0), np.float32), RATE), "wav"))
    with pytest.raises(AudioFileError, match="length is zero"):
        audio.read(tmp_path / "in.wav")
    for shape in [(0,), (0, 2), (2, 0)]:
        with pytest.raises(AudioFileError, match="init_audio holds no audio"):
            audio.as_sound((RATE, np.zeros(shape)), "init_audio")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_a_truncated_file_gives_its_start_or_is_refused(tmp_path: Path, format: str, share: float) -> None:
    path, whole = tmp_path / f"in.{format}", Sound(tone(1, 48000), 48000)
    content = audio.encode(whole, format)
    path.write_bytes(content[: int(len(content) * share)])
    try:
        got = audio.read(path)
    except AudioFileError as e:
        assert "damaged" in str(e) or "zero" in str(e)
        assert format != "wav"
    else:
        assert got.seconds < whole.seconds
        assert got.warning is not None and f"{format}' is cut short" in got.warning
        if format in ("wav", "mp3"):
            assert f"it says 1.0 s and holds {got.seconds:.1f} s" in got.warning
    path.write_bytes(content)
    assert audio.read(path).warning is None


def test_less_than_is_there_may_be_read_of_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "in.wav"
    path.write_bytes(audio.encode(Sound(tone(1), RATE), "wav")[:-8000])
    assert audio.read(path, seconds=0.5).warning is None
    assert audio.read(path, seconds=1).warning is not None


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_file_from_a_pipe_does_not_know_its_size(tmp_path: Path, size: int) -> None:
    content = bytearray(audio.encode(Sound(tone(1), RATE), "wav"))
    at = content.index(b"data") + 4
    content[at : at + 4] = size.to_bytes(4, "little")
    (tmp_path / "in.wav").write_bytes(content)
    got = audio.read(tmp_path / "in.wav")
    assert (got.seconds, got.warning) == (1, None)


# Arrays


def test_the_rate_is_the_integer_wherever_it_stands() -> None:
    samples = tone().T
    for pair in [(RATE, samples), (samples, RATE), (np.int64(RATE), samples), [samples, np.int32(RATE)]]:
        got = audio.as_sound(pair, "init_audio")
        assert (got.rate, got.samples.shape) == (RATE, (2, 22050))
        assert type(got.rate) is int


@pytest.mark.parametrize(
    "value",
    [(1, 2), (tone(), tone()), (RATE,), (RATE, tone(), 1), tone(), 5, None, (44100.0, tone()), (True, tone()), {}],
)
def test_what_is_not_a_pair_with_one_rate_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="inpaint_audio must be"):
        audio.as_sound(value, "inpaint_audio")


def test_arrays_are_samples_first_unless_that_is_absurd() -> None:
    for shape, expected in [
        ((500,), (1, 500)),
        ((500, 1), (1, 500)),
        ((500, 2), (2, 500)),
        ((2, 500), (2, 500)),
        ((1, 500), (1, 500)),
        ((2, 20), (20, 2)),  # upstream's reading, possible and so kept
        ((1, 500, 2), (2, 500)),
        ((1, 2, 500), (2, 500)),
    ]:
        samples = np.random.default_rng(0).random(shape, np.float32)
        got = audio.as_sound((RATE, samples), "x").samples
        assert got.shape == expected
        flat = samples.squeeze()
        assert np.array_equal(got.squeeze(), flat if flat.shape == got.squeeze().shape else flat.T)
    for shape in [(500, 40), (2, 2, 500), ()]:
        with pytest.raises(InvalidRequest, match="x has shape"):
            audio.as_sound((RATE, np.ones(shape)), "x")


def test_tensors_are_channels_first() -> None:
    for shape, expected in [((9,), (1, 9)), ((2, 9), (2, 9)), ((20, 2), (20, 2)), ((1, 2, 9), (2, 9))]:
        assert audio.as_sound((Tensor(np.ones(shape)), RATE), "x").samples.shape == expected
    with pytest.raises(InvalidRequest, match=r"x has shape \(500, 2\); expected \(channels, n\)"):
        audio.as_sound((Tensor(np.ones((500, 2))), RATE), "x")


def test_real_tensors() -> None:
    torch = pytest.importorskip("torch")
    samples = torch.linspace(-1, 1, 100).reshape(2, 50).requires_grad_()
    got = audio.as_sound((RATE, samples), "x").samples
    assert np.array_equal(got, samples.detach().numpy())
    assert audio.as_sound((RATE, samples.to(torch.bfloat16)), "x").samples.shape == (2, 50)
    assert audio.as_sound((RATE, torch.tensor([32767, -32767], dtype=torch.int16)), "x").samples.tolist() == [[1, -1]]


def test_integers_are_scaled_to_one() -> None:
    for dtype, values, expected in [
        (np.int16, [32767, -32767, 0], [1, -1, 0]),
        (">i2", [32767, 0], [1, 0]),
        (np.int32, [2147483647, -2147483647], [1, -1]),
        (np.uint8, [128, 0, 64], [0, -1, -0.5]),
        (np.float64, [0.25], [0.25]),
        (np.float16, [0.25], [0.25]),
    ]:
        got = audio.as_sound((RATE, np.array(values, dtype)), "x").samples
        assert got.dtype == np.float32
        assert got.tolist() == [expected]
    for dtype in (np.int64, np.int8, bool, complex):
        with pytest.raises(InvalidRequest, match="x has"):
            audio.as_sound((RATE, np.ones(9, dtype)), "x")
    with pytest.raises(AudioFileError, match="infinite"):
        audio.as_sound((RATE, np.array([1e300])), "x")


def test_sounds_and_paths_pass_and_bad_rates_do_not(tmp_path: Path) -> None:
    audio.write(tmp_path / "in.wav", Sound(tone(), RATE))
    assert audio.as_sound(tmp_path / "in.wav", "x").seconds == 0.5
    assert audio.as_sound(str(tmp_path / "in.wav"), "x").seconds == 0.5
    assert audio.as_sound(Sound(tone(), RATE), "x").seconds == 0.5
    for rate in (0, -1, 2_000_000):
        with pytest.raises(InvalidRequest, match="x has a rate"):
            audio.as_sound((rate, tone()), "x")


def test_fit_and_fix_channels() -> None:
    samples = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert audio.fit(samples, 2).tolist() == [[0, 1], [3, 4]]
    assert audio.fit(samples, 4).tolist() == [[0, 1, 2, 0], [3, 4, 5, 0]]
    assert audio.fix_channels(samples[:1]).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert audio.fix_channels(np.ones((3, 4))).shape == (2, 4)
    assert audio.fix_channels(samples, 1).tolist() == [[0, 1, 2]]


# Writing


@pytest.mark.parametrize("metadata", [TAGS, TAGS | {"comment": "漢" * 10_000}, {"title": "a\0b"}, {}, None])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_comes_back_with_its_metadata(
    tmp_path: Path, format: str, metadata: dict[str, str] | None
) -> None:
    path, samples = tmp_path / f"out.{format.upper()}", tone()
    audio.write(path, Sound(samples, RATE), metadata=metadata)
    got = audio.read(path)
    assert got.rate == (48000 if format == "opus" else RATE)
    assert abs(got.seconds - 0.5) < 1e-4
    if got.rate == RATE:
        assert np.abs(got.samples - samples).max() < (0.05 if format in ("mp3", "ogg") else 2e-5)
    expected = {name: text.replace("\0", "") for name, text in (metadata or {}).items()}
    found = audio.read_metadata(path)
    assert {name: found[name] for name in expected} == expected
    assert set(found) - set(expected) <= {"software"}  # encoders sign their work
    assert sf.info(path).frames == got.samples.shape[1]


def test_metadata_that_cannot_be_written_is_refused() -> None:
    sound = Sound(tone(), RATE)
    with pytest.raises(InvalidRequest, match="unknown metadata mood; choose from title"):
        audio.encode(sound, "wav", metadata={"mood": "x"})
    with pytest.raises(InvalidRequest, match="takes 100000 bytes"):
        audio.encode(sound, "opus", metadata={"comment": "x" * 100_000})


@pytest.mark.parametrize(("format", "bits"), [(name, bits) for name, made in FORMATS.items() for bits in made.bits])
def test_depths_saturate_and_round(tmp_path: Path, format: str, bits: audio.Bits) -> None:
    path = tmp_path / f"out.{format}"
    samples = np.array([[2.0, 1.0, -1.0, -2.0, 0.0, 0.3]], np.float32)
    audio.write(path, Sound(samples, RATE), bits=bits)
    step = 0 if bits == "32f" else 2.0 ** (1 - int(bits))
    got = audio.read(path).samples
    expected = samples if bits == "32f" else np.clip(samples, -1, 1 - step)
    assert np.abs(got - expected).max() <= step / 2
    assert sf.info(path).subtype == {"16": "PCM_16", "24": "PCM_24", "32f": "FLOAT"}[bits]


@pytest.mark.parametrize(("format", "bits"), [(name, bits) for name, made in FORMATS.items() for bits in made.bits])
def test_what_was_read_at_a_depth_is_written_bit_for_bit(tmp_path: Path, format: str, bits: audio.Bits) -> None:
    path = tmp_path / f"out.{format}"
    audio.write(path, Sound(tone(channels=1)[:, :-1] * 2, RATE), bits=bits)  # mono 24-bit: an odd number of bytes
    first = audio.read(path)
    assert audio.encode(first, format, bits) == path.read_bytes()
    assert np.array_equal(first.samples.T, sf.read(path, dtype="float32", always_2d=True)[0])


def test_dither_is_one_step_and_off_by_default() -> None:
    quiet = Sound(np.full((1, 1000), 0.3 / 32768, np.float32), RATE)
    plain = audio.encode(quiet, "wav")
    dithered = audio.encode(quiet, "wav", dither=np.random.default_rng(0))
    steps = np.frombuffer(dithered[-2000:], "<i2")
    assert set(np.frombuffer(plain[-2000:], "<i2")) == {0}
    assert set(steps) <= {-1, 0, 1}
    assert 0.2 < steps.mean() < 0.4


@pytest.mark.parametrize("rate", [1000, 8000, 12345, 96000, 500_000])
@pytest.mark.parametrize("format", FORMATS)
def test_rates_a_format_lacks_are_resampled(tmp_path: Path, format: str, rate: int) -> None:
    path = tmp_path / f"out.{format}"
    audio.write(path, Sound(tone(1, rate, 1), rate))
    got, rates = audio.read(path), FORMATS[format].rates
    assert got.rate == rate if not rates or rate in rates else got.rate in rates
    assert abs(got.seconds - 1) < 1e-3


@pytest.mark.parametrize("rate", [1000, 8000, 44100, 65535, 65536, 65540, 123450, 655350, 655360, 1_000_000])
@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_rate_is_held_or_refused(format: str, rate: int) -> None:
    sound = Sound(np.zeros((2, 64), np.float32), rate)
    try:
        audio.check_rate(rate, format)
    except InvalidRequest as e:
        assert str(e).startswith(f"{format} does not hold {rate} Hz; ")
    else:
        assert sf.info(io.BytesIO(audio.encode(sound, format))).samplerate == rate


@pytest.mark.parametrize("rate", FORMATS["opus"].rates)
def test_opus_ends_where_the_sound_does(tmp_path: Path, rate: int) -> None:
    for length in (1, 100, rate // 50, rate // 50 + 1, rate - 17, 2 * rate):
        samples = (np.sin(np.arange(length) * 3000 / rate)[None] * 0.5).astype(np.float32)
        audio.write(tmp_path / "out.opus", Sound(samples, rate), metadata={"title": "x"})
        got = audio.read(tmp_path / "out.opus").samples
        assert got.shape == samples.shape
        if length >= rate // 2:
            assert np.abs(got - samples)[:, -1000:].max() < 0.1


def test_long_sounds_do_not_crash_the_vorbis_encoder() -> None:
    assert len(audio.encode(Sound(np.zeros((2, RATE * 120), np.float32), RATE), "ogg")) > 1000


def test_formats_are_told_by_suffix_or_by_name() -> None:
    assert audio.format_for("a/b.WAV") == "wav"
    assert audio.format_for("a.b/c.Flac") == "flac"
    assert audio.format_for("/dev/stdout", "mp3") == "mp3"
    assert audio.format_for("x.opus", ".OPUS") == "opus"
    for path, format, message in [
        ("x.m4a", None, r"'x.m4a' has no known suffix; choose from .wav, .flac, .mp3, .ogg, .opus"),
        ("x", None, "choose from"),
        ("x.wav", "aac", "unknown format 'aac'"),
        ("x.wav", "mp3", "ends in .wav but the format asked for is mp3"),
    ]:
        with pytest.raises(InvalidRequest, match=message):
            audio.format_for(path, format)


def test_what_a_format_cannot_hold_is_refused() -> None:
    sound = Sound(tone(channels=3), RATE)
    refused: list[tuple[str, Any, str]] = [
        ("mp3", "16", "no bit depth '16': it is lossy"),
        ("flac", "32f", "choose from 16, 24"),
        ("wav", "8", "choose from 16, 24, 32f"),
        ("mp3", None, "cannot hold 3 channels"),
        ("aac", None, "unknown format"),
    ]
    for format, bits, message in refused:
        with pytest.raises(InvalidRequest, match=message):
            audio.encode(sound, format, bits)


# Files


@pytest.mark.parametrize("call", ["fsync", "open"])
@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "may not write")])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, reason: str
) -> None:
    path = tmp_path / "out.wav"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(OutputError, match=rf"cannot write '.*out\.wav': .*{reason}"):
        audio.write(path, Sound(tone(), RATE))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.wav"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        audio.write(tmp_path / "out.wav", Sound(tone(), RATE))
    assert names(tmp_path) == []


def test_a_file_that_stops_half_way_is_removed(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, hard))
    try:
        with pytest.raises(OutputError, match="too large"):
            audio.write(tmp_path / "out.wav", Sound(tone(), RATE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_devices_are_written_not_replaced() -> None:
    with pytest.raises(OutputError, match="disk is full"):
        files.write_atomic("/dev/full", b"x" * 99999)
    files.check_writable("/dev/null")
    files.write_atomic("/dev/null", b"x")
    assert Path("/dev/full").is_char_device()
    assert Path("/dev/null").is_char_device()


def test_check_writable_says_no_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.check_writable(tmp_path / "new.wav")
    assert names(tmp_path) == []
    with pytest.raises(OutputError, match=r"folder '.*missing' does not exist"):
        audio.check_writable(tmp_path / "missing" / "out.wav")
    with pytest.raises(OutputError, match="is a folder; add a file name"):
        audio.check_writable(tmp_path)
    with pytest.raises(OutputError, match="cannot write"):
        audio.check_writable("a\0b.wav")

    def deny(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.os, "open", deny)
    with pytest.raises(OutputError, match="may not write there"):
        audio.check_writable(tmp_path / "out.wav")


def test_the_file_a_link_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.wav").write_bytes(b"old")
    (tmp_path / "link.wav").symlink_to("real.wav")
    files.write_atomic(tmp_path / "link.wav", b"new")
    assert (tmp_path / "link.wav").is_symlink()
    assert (tmp_path / "real.wav").read_bytes() == b"new"
    assert names(tmp_path) == ["link.wav", "real.wav"]


# What a caller makes into a Sound


def test_a_sound_of_integers_or_of_a_tensor_is_what_it_would_be_in_a_pair(tmp_path: Path) -> None:
    import torch

    whole = (tone() * 32767).round().astype(np.int16)
    expected = audio.as_sound((RATE, whole), "x").samples
    for samples in (whole, torch.from_numpy(whole), expected.astype(np.float64)):
        assert np.array_equal(audio.as_sound(Sound(samples, RATE), "x").samples, expected)
        audio.write(tmp_path / "x.wav", Sound(samples, float(RATE)))  # pyright: ignore[reportArgumentType]
        assert np.abs(audio.read(tmp_path / "x.wav").samples - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("sound", "says"),
    [
        (tone(), "what is to be written is ndarray, not a Sound: give made.clip"),
        ((RATE, tone()), "not a Sound"),
        (None, "not a Sound"),
        (Sound(tone()[0], RATE), "has shape"),
        (Sound(tone().T, RATE), r"has shape .*; expected \(channels, n\)"),
        (Sound(tone(), 0), "rate of 0 Hz"),
        (Sound(tone(), 44100.5), "rate of 44100.5; a whole number"),  # pyright: ignore[reportArgumentType]
        (Sound(tone(), "x"), "rate of 'x'; a whole number"),  # pyright: ignore[reportArgumentType]
        (Sound(None, RATE), "samples"),  # pyright: ignore[reportArgumentType]
        (Sound(tone().astype(np.int64), RATE), "int64 samples"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, sound: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        audio.write(tmp_path / "x.wav", sound)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InvalidRequest):
        audio.as_sound(sound, "x") if isinstance(sound, Sound) else audio.as_sound(None, "x")


def test_formats_tags_and_lengths_of_the_wrong_kind(tmp_path: Path) -> None:
    path, clip = tmp_path / "x.wav", Sound(tone(), RATE)
    with pytest.raises(InvalidRequest, match="unknown format 44100"):
        audio.write(path, clip, 44100)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidRequest, match="metadata title is 5; a text"):
        audio.write(path, clip, metadata={"title": 5})  # pyright: ignore[reportArgumentType]
    audio.write(path, clip)
    for seconds in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="must be more than 0"):
            audio.read(path, seconds)
