"""Classic image metrics, put to the critic's own task: the floor a learned critic has to clear.

Each metric takes the picture before and after the edit and knows nothing of the instruction.
Full-reference metrics measure how little changed, no-reference metrics how clean the result is.
All come from scikit-image.

    baseline_scores(edits)    one row an edit: id, psnr, ssim, colour_difference, noise, blur
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pandas as pd
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.measure import blur_effect
from skimage.metrics import structural_similarity
from skimage.restoration import estimate_sigma

PSNR_LIMIT = 100.0


def psnr(source: Image.Image, edited: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels: higher is closer.

    10 log10(255^2 / MSE), in 0..`PSNR_LIMIT`. Identical pictures, for which that is infinite, score
    `PSNR_LIMIT` = 100 dB, as does anything closer than 100 dB.
    """
    reference, result = _aligned(source, edited)
    error = np.mean((reference.astype(float) - result.astype(float)) ** 2)
    return PSNR_LIMIT if error == 0 else float(min(PSNR_LIMIT, 10 * np.log10(255**2 / error)))


def ssim(source: Image.Image, edited: Image.Image) -> float:
    """Structural similarity, the mean of the three channels: -1..1, higher is closer, 1 identical.

    Wang et al. 2004 with a 7x7 window; a side of less than 7 pixels raises ValueError.
    """
    reference, result = _aligned(source, edited)
    return float(structural_similarity(reference, result, channel_axis=-1, data_range=255))


def colour_difference(source: Image.Image, edited: Image.Image) -> float:
    """Mean CIEDE2000 colour difference of a pixel: 0 (identical) to about 100, lower is closer."""
    reference, result = _aligned(source, edited)
    return float(np.mean(deltaE_ciede2000(rgb2lab(reference), rgb2lab(result))))


def noise(source: Image.Image, edited: Image.Image) -> float:
    """Standard deviation of the edited picture's noise, in grey levels 0..255: lower is cleaner.

    The wavelet estimate of Donoho and Johnstone 1994, averaged over channels. Fine texture counts
    as noise.
    """
    return float(estimate_sigma(_rgb(edited).astype(float), channel_axis=-1, average_sigmas=True))


def blur(source: Image.Image, edited: Image.Image) -> float:
    """Blur of the edited picture: 0 (sharp) to 1 (blurred, or without any detail), lower is better.

    Crete et al. 2007: how little a second blur changes the picture.
    """
    return float(blur_effect(_rgb(edited), channel_axis=-1))


@dataclass(frozen=True)
class Baseline:
    """A classic metric as a critic: `score(source, edited)`, and whether higher means better."""

    label: str
    score: Callable[[Image.Image, Image.Image], float]
    higher_is_better: bool


BASELINES: dict[str, Baseline] = {
    "psnr": Baseline("PSNR", psnr, higher_is_better=True),
    "ssim": Baseline("SSIM", ssim, higher_is_better=True),
    "colour_difference": Baseline("Colour difference", colour_difference, higher_is_better=False),
    "noise": Baseline("Noise estimate", noise, higher_is_better=False),
    "blur": Baseline("Blur effect", blur, higher_is_better=False),
}


def baseline_scores(edits: pd.DataFrame) -> pd.DataFrame:
    """Every baseline on every edit of a validated table (`id`, `images`): `id`, then a float column
    for each of `BASELINES`, in its own unit and direction.

    Raises ValueError with the id of an edit that can't be scored.
    """
    rows = []
    for edit_id, images in zip(edits["id"], edits["images"], strict=True):
        try:
            source, edited = (Image.open(BytesIO(image["bytes"])) for image in images)
            scores = {name: baseline.score(source, edited) for name, baseline in BASELINES.items()}
        except (OSError, ValueError) as error:
            raise ValueError(f"edit {edit_id}: the classic metrics can't score it: {error}") from error
        rows.append({"id": edit_id, **scores})
    return pd.DataFrame(rows, columns=["id", *BASELINES])


def _rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def _aligned(source: Image.Image, edited: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Both as uint8 [height, width, 3], the edited one resized (bicubic) to the source's size."""
    if edited.size != source.size:
        edited = edited.convert("RGB").resize(source.size, Image.Resampling.BICUBIC)
    return _rgb(source), _rgb(edited)
