"""Classic image metrics on the critic's own task: the baseline that a trained critic has to beat.

    baseline_scores(edits)    # one row for each edit: id, psnr, ssim, colour_difference, noise, blur
    MetricJudge("ssim")       # one of them as a judge

Each metric takes the source and the edited picture and ignores the instruction. Full-reference metrics measure how
little changed, no-reference metrics how clean the result is. All but PSNR come from scikit-image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from critic.results import Failure, Result
from critic.scoring.judges import Judge, Kind, Scale

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from PIL import Image

    from critic.edits import Edit

PSNR_LIMIT = 100.0


def psnr(source: "Image.Image", edited: "Image.Image") -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels; higher is closer.

    10 log10(255^2 / MSE), in 0..`PSNR_LIMIT`: identical pictures, for which it is infinite, score 100 dB.
    """
    import numpy as np

    reference, result = _aligned(source, edited)
    error = np.mean((reference.astype(float) - result.astype(float)) ** 2)
    return PSNR_LIMIT if error == 0 else float(min(PSNR_LIMIT, 10 * np.log10(255**2 / error)))


def ssim(source: "Image.Image", edited: "Image.Image") -> float:
    """Structural similarity, the mean over the three channels: -1..1, higher is closer, 1 identical.

    Wang et al. 2004 with a 7x7 window.

    Raises:
        ValueError: a side has less than 7 pixels.
    """
    from skimage.metrics import structural_similarity

    reference, result = _aligned(source, edited)
    return float(structural_similarity(reference, result, channel_axis=-1, data_range=255))


def colour_difference(source: "Image.Image", edited: "Image.Image") -> float:
    """Mean CIEDE2000 colour difference of the pixels: 0 (identical) to about 100, lower is closer."""
    import numpy as np
    from skimage.color import deltaE_ciede2000, rgb2lab

    reference, result = _aligned(source, edited)
    return float(np.mean(deltaE_ciede2000(rgb2lab(reference), rgb2lab(result))))


def noise(source: "Image.Image", edited: "Image.Image") -> float:
    """Std of the edited picture's noise, in grey levels 0..255; lower is cleaner.

    The wavelet estimate of Donoho and Johnstone 1994, averaged over channels. Fine texture counts as noise.
    """
    from skimage.restoration import estimate_sigma

    return float(estimate_sigma(_pixels(edited).astype(float), channel_axis=-1, average_sigmas=True))


def blur(source: "Image.Image", edited: "Image.Image") -> float:
    """Blur of the edited picture: 0 (sharp) to 1 (blurred, or without any detail), lower is better.

    Crete et al. 2007: how little a second blur changes the picture.
    """
    from skimage.measure import blur_effect

    return float(blur_effect(_pixels(edited), channel_axis=-1))


@dataclass(frozen=True)
class Baseline:
    """A classic metric as a critic: `score(source, edited)` on its own `scale`."""

    label: str
    score: "Callable[[Image.Image, Image.Image], float]"
    scale: Scale
    pictures: str


_BOTH, _EDITED = "the edited picture, compared with the source", "the edited picture alone"
BASELINES: dict[str, Baseline] = {
    "psnr": Baseline("PSNR", psnr, Scale(0, PSNR_LIMIT), _BOTH),
    "ssim": Baseline("SSIM", ssim, Scale(-1, 1), _BOTH),
    "colour_difference": Baseline(
        "Colour difference", colour_difference, Scale(0, inf, higher_is_better=False, halfway=10), _BOTH
    ),
    "noise": Baseline("Noise estimate", noise, Scale(0, inf, higher_is_better=False, halfway=10), _EDITED),
    "blur": Baseline("Blur effect", blur, Scale(0, 1, higher_is_better=False), _EDITED),
}


def baseline_scores(edits: "pd.DataFrame") -> "pd.DataFrame":
    """Score every edit of a validated table (`id`, `images`): `id`, then a column for each baseline.

    Pictures without a source (`critic.data.generated.as_edits`) get those that look at the edited picture alone.

    Raises:
        ValueError: an edit can't be scored; the message has its id.
    """
    import pandas as pd

    from critic.pictures import decode_cell

    rows = []
    has_sources = all(len(images) == 2 for images in edits["images"])
    used = {name: baseline for name, baseline in BASELINES.items() if has_sources or baseline.pictures == _EDITED}
    for edit_id, images in zip(edits["id"], edits["images"], strict=True):
        try:
            *_, edited = pictures = [decode_cell(image) for image in images]
            scores = {name: baseline.score(pictures[0], edited) for name, baseline in used.items()}
        except ValueError as error:
            raise ValueError(f"edit {edit_id}: the classic metrics can't score it: {error}") from error
        rows.append({"id": edit_id, **scores})
    return pd.DataFrame(rows, columns=["id", *used])


class MetricJudge(Judge):
    """One of `BASELINES` as a judge, by its name."""

    def __init__(self, name: str):
        self.name, self.scale = name, BASELINES[name].scale

    def judge(self, edit: "Edit") -> Result:
        try:
            native = BASELINES[self.name].score(*edit.pair)
        except ValueError as error:  # see `ssim`
            return self.failure(edit.id, Failure.BAD_INPUT, f"{self.name} can't score these pictures: {error}")
        return self.result(edit.id, native)


JUDGES = {
    name: Kind(f"{baseline.label} of {baseline.pictures}.", baseline.scale, partial(MetricJudge, name))
    for name, baseline in BASELINES.items()
}


def _pixels(image: "Image.Image") -> "np.ndarray":
    import numpy as np

    return np.asarray(image.convert("RGB"))


def _aligned(source: "Image.Image", edited: "Image.Image") -> "tuple[np.ndarray, np.ndarray]":
    """Both as uint8 [height, width, 3], the edited one resized (bicubic) to the source's size."""
    from PIL import Image

    if edited.size != source.size:
        edited = edited.convert("RGB").resize(source.size, Image.Resampling.BICUBIC)
    return _pixels(source), _pixels(edited)
