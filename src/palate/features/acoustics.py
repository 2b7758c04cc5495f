"""Sound described without learned weights: statistics over time of spectrum, cepstrum, shape and rhythm.

Log-mel spectrum and mel-frequency cepstral coefficients as in Davis and Mermelstein (1980), the description by
mean and deviation and the spectral shape as in Tzanetakis and Cook, "Musical genre classification of audio
signals" (2002), onset strength as the spectral flux of log-mel bands (Böck and Widmer, 2013).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from palate.schema import Floats

RATE = 22_050
"""Samples a second that `describe` expects by default: hears up to 11 kHz."""
FRAME, HOP = 1024, 512
"""Samples of a frame and from one to the next: 46 ms and 23 ms."""
MELS, CEPSTRA, SHAPES = 64, 20, 7
RHYTHM = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Edges in Hz of the octaves in which the loudness may beat."""
FLOOR = 1e-7
"""Power added to every band, full scale being 1: what is 70 dB below a full tone counts as silence."""
WIDTH = 2 * MELS + 3 * CEPSTRA + 2 * SHAPES + len(RHYTHM) - 1


def describe(samples: Floats, rate: int = RATE) -> Floats:
    """Mono samples [S] in [-1, 1] at `rate` Hz as one vector, float32 [WIDTH]; silence is the zero vector.

    In order: mean and deviation over time of 64 log-mel bands (powers of ten above the floor); mean, deviation
    and mean change from frame to frame of 20 cepstral coefficients; mean and deviation of loudness, centroid,
    spread, roll-off, flatness, zero crossings and onset strength; how strongly the loudness beats in five
    octaves from 0.5 to 16 Hz. Spectral shape counts only where there is sound. A sound shorter than one frame
    is filled up with silence.
    """
    from scipy.fft import dct

    power = _power(samples)
    mel = np.log10(power @ _bank(rate) + FLOOR) - np.log10(FLOOR)  # [T, 64], from 0 to about 7
    cepstra = dct(mel, axis=1, norm="ortho")[:, :CEPSTRA]
    change = np.abs(np.diff(cepstra, axis=0)).mean(axis=0) if len(cepstra) > 1 else np.zeros(CEPSTRA)
    shape = _shape(samples, power, mel, rate)
    parts = (
        mel.mean(axis=0), mel.std(axis=0),
        cepstra.mean(axis=0), cepstra.std(axis=0), change,
        shape.mean(axis=0), shape.std(axis=0),
        _rhythm(shape[:, 0], rate / HOP),
    )  # fmt: skip
    return np.concatenate(parts).astype(np.float32)


def _frames(samples: Floats) -> Floats:
    """Overlapping frames [T, FRAME], T >= 1."""
    missing = max(0, FRAME - len(samples))
    whole = np.pad(samples, (0, missing)).astype(np.float32)
    frames: Floats = np.lib.stride_tricks.sliding_window_view(whole, FRAME)[::HOP]
    return frames


def _power(samples: Floats) -> Floats:
    """Power spectrum of each frame [T, FRAME // 2 + 1]; a full-scale tone peaks at 1."""
    from scipy.fft import rfft

    window = np.hanning(FRAME + 1)[:-1].astype(np.float32)
    spectrum = rfft(_frames(samples) * window, axis=1)
    power: Floats = np.square(np.abs(spectrum) * (2.0 / window.sum()), dtype=np.float32)
    return power


@lru_cache(maxsize=8)
def _bank(rate: int) -> Floats:
    """Triangular mel filters [FRAME // 2 + 1, 64]."""
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(FRAME // 2 + 1, MELS, 0.0, rate / 2, rate, norm=None, mel_scale="slaney")
    return np.asarray(bank, dtype=np.float32)


def _shape(samples: Floats, power: Floats, mel: Floats, rate: int) -> Floats:
    """Per frame [T, 7]: loudness, centroid, spread, roll-off, flatness, zero crossings, onset strength.

    Each is of the order of 1: powers of ten for loudness and flatness, octaves above 62.5 Hz for pitch.
    """
    octaves = np.log2(np.maximum(np.fft.rfftfreq(FRAME, 1 / rate), 62.5) / 62.5).astype(np.float32)
    total = power.sum(axis=1)
    loudness = np.log10(total + FLOOR) - np.log10(FLOOR)
    share = power / np.maximum(total, FLOOR)[:, None]
    centroid = share @ octaves
    spread = np.sqrt(np.maximum(share @ np.square(octaves) - np.square(centroid), 0.0))
    rolloff = octaves[np.argmax(np.cumsum(share, axis=1) >= 0.85 * share.sum(axis=1, keepdims=True), axis=1)]
    flatness = np.log10(power + FLOOR).mean(axis=1) - np.log10(power.mean(axis=1) + FLOOR)
    signs = np.signbit(_frames(samples))
    crossings = (signs[:, 1:] != signs[:, :-1]).mean(axis=1)
    flux = np.maximum(np.diff(mel, axis=0, prepend=mel[:1]), 0.0).mean(axis=1)
    shape = np.stack([loudness, centroid, spread, rolloff, flatness, crossings, flux], axis=1)
    shape[total < FLOOR] = 0.0  # a frame of silence has no pitch
    return np.asarray(shape, dtype=np.float32)


def _rhythm(loudness: Floats, frames_a_second: float) -> Floats:
    """Deviation of the loudness [T] within each octave of `RHYTHM` [5]: slow swells to fast trills."""
    spectrum = np.abs(np.fft.rfft(loudness - loudness.mean())) / len(loudness)
    speed = np.fft.rfftfreq(len(loudness), 1 / frames_a_second)
    energy = np.bincount(np.searchsorted(RHYTHM, speed, side="right"), spectrum**2, minlength=len(RHYTHM) + 1)
    return np.asarray(np.sqrt(2.0 * energy[1:-1]), dtype=np.float32)
