"""What the autoencoder is judged by: spectra at several resolutions, and a little of the waveform."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIZES = (4096, 2048, 1024, 512, 256)
FLOOR = 3e-4  # of a full-scale sine's magnitude: what is quieter counts as silence
VIEWS = ((0.5, 0.5), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.5, -0.5))  # middle twice, left, right, side


def magnitudes(audio: Tensor, size: int, offset: int) -> Tensor:
    """(rows, samples) to (rows, bins, times), one for a full-scale sine."""
    window = torch.hann_window(size, device=audio.device)
    padded = F.pad(audio, (size // 2 + offset, size // 2))
    spectrum = torch.stft(padded, size, size // 4, size, window, center=False, return_complex=True)
    return torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-12) * (2 / float(window.sum()))


def distance(made: Tensor, wanted: Tensor, size: int, offset: int) -> tuple[Tensor, Tensor]:
    """Relative error of the magnitudes, and the mean error of their logarithms."""
    with torch.no_grad():
        target = magnitudes(wanted, size, offset)
        # Loud or quiet, a clip counts the same; a silent one does not count without end.
        scale = target.square().sum((1, 2)).sqrt() + 0.02 * target[0].numel() ** 0.5 * 0.05
    found = magnitudes(made, size, offset)
    spectral = ((found - target).square().sum((1, 2)).add(1e-12).sqrt() / scale).mean()
    logarithmic = (torch.log(found + FLOOR) - torch.log(target + FLOOR)).abs().mean()
    return spectral, logarithmic


def loss(made: Tensor, wanted: Tensor, sizes: tuple[int, ...], draw: torch.Generator) -> dict[str, Tensor]:
    """(batch, 2, samples) each. Every item is looked at from one side, drawn anew at every step."""
    views = torch.tensor(VIEWS)[torch.randint(0, len(VIEWS), (len(made),), generator=draw)].to(made.device)
    seen_made, seen_wanted = ((views[:, :, None] * audio).sum(1) for audio in (made, wanted))
    spectral, logarithmic = made.new_zeros(()), made.new_zeros(())
    for size in sizes:
        offset = int(torch.randint(0, size // 4, (), generator=draw))
        s, g = distance(seen_made, seen_wanted, size, offset)
        spectral, logarithmic = spectral + s / len(sizes), logarithmic + g / len(sizes)
    waveform = (seen_made - seen_wanted).abs().mean() / (seen_wanted.abs().mean() + 0.01)
    return {"spectral": spectral, "logarithmic": logarithmic, "waveform": waveform}
