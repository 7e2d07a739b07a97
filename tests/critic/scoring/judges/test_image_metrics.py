"""Classic metrics on pictures with known answers, and their table."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from critic.scoring.judges.image_metrics import BASELINES, PSNR_LIMIT, baseline_scores, blur, noise, psnr, ssim


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A smooth gradient with a sharp disc, 48 by 48."""
    y, x = np.mgrid[:48, :48]
    pixels = np.stack([4 * x + 20, 4 * y + 20, 2 * (x + y) + 20], axis=-1).astype(np.uint8)
    pixels[(x - 24) ** 2 + (y - 24) ** 2 < 100] = (220, 40, 40)
    return Image.fromarray(pixels)


def noisy(image: Image.Image, sigma: float) -> Image.Image:
    pixels = np.asarray(image) + np.random.default_rng(0).normal(0, sigma, (*image.size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image) -> dict[str, object]:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": "picture.png"}


def test_psnr_is_the_textbook_formula() -> None:
    black, grey = (Image.new("RGB", (8, 8), (level,) * 3) for level in (0, 10))
    assert psnr(black, grey) == pytest.approx(10 * np.log10(255**2 / 100))


def test_identical_pictures_have_a_finite_best_score(photo: Image.Image) -> None:
    assert psnr(photo, photo) == PSNR_LIMIT
    assert ssim(photo, photo) == pytest.approx(1.0)
    assert BASELINES["colour_difference"].score(photo, photo) == 0.0


@pytest.mark.parametrize("name", ["psnr", "ssim", "colour_difference", "noise"])
def test_more_noise_is_worse_in_the_documented_direction(photo: Image.Image, name: str) -> None:
    baseline = BASELINES[name]
    light, heavy = (baseline.score(photo, noisy(photo, sigma)) for sigma in (3, 30))
    assert (light > heavy) == baseline.scale.higher_is_better


def test_noise_is_estimated_in_grey_levels() -> None:
    flat = Image.new("RGB", (96, 96), (128, 128, 128))
    assert noise(flat, noisy(flat, 10)) == pytest.approx(10, rel=0.1)


def test_a_blurred_picture_is_more_blurred(photo: Image.Image) -> None:
    assert blur(photo, photo.filter(ImageFilter.GaussianBlur(3))) > blur(photo, photo)


@pytest.mark.parametrize("name", BASELINES)
def test_any_mode_any_size_and_a_flat_picture_give_a_number(photo: Image.Image, name: str) -> None:
    score = BASELINES[name].score
    flat = Image.new("L", (20, 30), 128)
    assert all(np.isfinite(score(photo, edited)) for edited in (photo.convert("P"), photo.resize((90, 31)), flat))


def test_the_table_has_a_row_an_edit_and_a_column_a_metric(photo: Image.Image) -> None:
    edits = pd.DataFrame(
        {
            "id": ["same", "noisy"],
            "images": [[encoded(photo)] * 2, [encoded(photo), encoded(noisy(photo, 9))]],
        }
    )
    scores = baseline_scores(edits)
    assert list(scores.columns) == ["id", *BASELINES]
    assert list(scores["id"]) == ["same", "noisy"]
    same, noisier = scores["psnr"]
    assert same == PSNR_LIMIT > noisier


def test_an_edit_that_cannot_be_scored_is_named(photo: Image.Image) -> None:
    tiny = encoded(Image.new("RGB", (3, 3)))
    with pytest.raises(ValueError, match="edit-7"):
        baseline_scores(pd.DataFrame({"id": ["edit-7"], "images": [[tiny, tiny]]}))


@pytest.mark.parametrize(("name", "decibels"), [("exif6.png", 100), ("p3.png", 50)])
def test_pictures_are_decoded_as_everywhere_else(name: str, decibels: float) -> None:
    """A rotation in the EXIF and a colour profile are applied, so the pictures look the same."""
    folder = Path(__file__).parents[2] / "pictures"
    pair = [{"bytes": (folder / file).read_bytes(), "path": file} for file in (name, "plain.png")]
    (row,) = baseline_scores(pd.DataFrame({"id": ["a"], "images": [pair]})).to_dict("records")
    assert row["psnr"] >= decibels
    assert row["ssim"] == pytest.approx(1, abs=0 if decibels == PSNR_LIMIT else 0.01)


def test_transparency_is_put_on_white() -> None:
    file = Path(__file__).parents[2] / "pictures/pal_trns.png"
    layer = Image.open(file).convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    pair = [{"bytes": file.read_bytes(), "path": None}, encoded(on_white)]
    assert baseline_scores(pd.DataFrame({"id": ["a"], "images": [pair]}))["psnr"][0] == PSNR_LIMIT


def test_pictures_without_a_source_get_the_metrics_of_one_picture(photo: Image.Image) -> None:
    pair = pd.DataFrame({"id": ["a"], "images": [[encoded(photo), encoded(noisy(photo, 9))]]})
    alone = pair.assign(images=[images[1:] for images in pair["images"]])
    scores = baseline_scores(alone)
    assert list(scores.columns) == ["id", "noise", "blur"]
    assert scores.equals(baseline_scores(pair)[["id", "noise", "blur"]])
