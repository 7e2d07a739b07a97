"""The trainings' samples come back from Parquet as they went in, with their pictures ready for the model."""

from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from critic.data.trl_datasets import PictureWriter, load_samples, write_samples
from critic.edits import Edit
from critic.pictures import decode_cell
from critic.prompts import Contract, load_contract

ANSWER = "<think>Clean, quality 5.0.</think>\n<answer>4.25</answer>"


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def contract() -> Contract:
    return load_contract("tiny")


def picture(seed: int, width: int, height: int) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


IMAGES = [[picture(1, 60, 60), picture(2, 90, 40)], [picture(3, 112, 112), picture(4, 700, 30)]]


def prompt(contract: Contract, number: int) -> list[dict[str, Any]]:
    blank = Image.new("RGB", (56, 56))
    return contract.messages(Edit(f"train-{number}", blank, blank, f"paint it <{number}> times, naïvely"))


@pytest.fixture
def sft(contract: Contract) -> list[dict[str, Any]]:
    return [
        {
            "id": f"train-{number}",
            "mode": mode,
            "prompt": prompt(contract, number),
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}],
            "images": IMAGES[number],
        }
        for number, mode in enumerate(["reasoning", "direct"])
    ]


@pytest.fixture
def rl(contract: Contract) -> list[dict[str, Any]]:
    return [
        {"id": f"train-{n}", "prompt": prompt(contract, n), "images": IMAGES[n], "mos": mos}
        for n, mos in enumerate([1.0, 3.7333])
    ]


def test_sft_samples_come_back_and_render_the_same(
    sft: list[dict[str, Any]], contract: Contract, tmp_path: Path
) -> None:
    write_samples(sft, tmp_path / "train.parquet")
    back = load_samples(tmp_path / "train.parquet", contract)
    assert back.column_names == ["id", "mode", "prompt", "completion", "images", "group"]
    assert len(back) == 2
    for sample, given in zip(back, sft, strict=True):
        assert (sample["id"], sample["mode"]) == (given["id"], given["mode"])
        assert sample["completion"] == given["completion"]
        assert [part["type"] for part in sample["prompt"][0]["content"]] == ["image", "image", "text"]
        assert contract.render(sample["prompt"]) == contract.render(given["prompt"])


def test_rl_samples_come_back_with_their_mos_and_no_completion(
    rl: list[dict[str, Any]], contract: Contract, tmp_path: Path
) -> None:
    write_samples(rl, tmp_path / "train.parquet")
    back = load_samples(tmp_path / "train.parquet", contract)
    assert back.column_names == ["id", "prompt", "images", "mos", "group"]
    assert back["mos"][:] == [1.0, 3.7333]
    assert [contract.render(sample["prompt"]) for sample in back] == [contract.render(s["prompt"]) for s in rl]


def test_samples_with_the_same_two_pictures_are_a_group(
    sft: list[dict[str, Any]], contract: Contract, tmp_path: Path
) -> None:
    swapped = {**sft[0], "images": IMAGES[0][::-1]}
    write_samples([sft[1], sft[0], swapped, sft[1], {**sft[0], "id": "other"}], tmp_path / "train.parquet")
    assert load_samples(tmp_path / "train.parquet", contract)["group"][:] == [0, 1, 2, 0, 1]


def test_pictures_are_in_the_order_of_the_contract(
    sft: list[dict[str, Any]], contract: Contract, tmp_path: Path
) -> None:
    write_samples(sft[:1], tmp_path / "train.parquet")
    (sample,) = load_samples(tmp_path / "train.parquet", contract)
    (turned,) = load_samples(
        tmp_path / "train.parquet", turned_contract := replace(contract, images=("edited", "source"))
    )
    assert [image.size for image in turned["images"]] == [image.size for image in sample["images"]][::-1]
    edit = Edit("1", *(decode_cell(image) for image in IMAGES[0]), "any")
    for image, scored in zip(turned["images"], turned_contract.pictures(edit), strict=True):
        assert np.array_equal(image, scored), "what the critic learns from and what it scores"


@pytest.mark.parametrize("name", ["tiny", "ie-critic"])
def test_pictures_are_resized_as_the_contract_says(name: str, rl: list[dict[str, Any]], tmp_path: Path) -> None:
    contract = load_contract(name)
    write_samples(rl, tmp_path / "train.parquet")
    for sample, files in zip(load_samples(tmp_path / "train.parquet", contract), IMAGES, strict=True):
        expected = [contract.resize(decode_cell(file)) for file in files]
        assert [image.size for image in sample["images"]] == [image.size for image in expected]
        for image, other in zip(sample["images"], expected, strict=True):
            assert image.mode == "RGB"
            assert np.array_equal(image, other)


def test_the_last_pictures_are_decoded_once(
    rl: list[dict[str, Any]], contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(
        "critic.data.trl_datasets.decode_cell", lambda cell: decoded.append(cell["bytes"]) or decode_cell(cell)
    )
    write_samples(rl, tmp_path / "train.parquet")
    kept, pair = (
        load_samples(tmp_path / "train.parquet", contract, keep=2),
        load_samples(tmp_path / "train.parquet", contract),
    )
    first, again = kept[[0, 0, 0]]["images"][::2]
    assert len(decoded) == 2 and first[0] is again[0]
    kept[1], kept[0]  # two others are kept now, so the first two are decoded again
    assert len(decoded) == 6
    pair[0], pair[0]
    assert len(decoded) == 10


def test_other_columns_can_be_looked_at_without_the_pictures(
    rl: list[dict[str, Any]], contract: Contract, tmp_path: Path
) -> None:
    write_samples([sample | {"images": [{"bytes": b"no picture", "path": None}]} for sample in rl], tmp_path / "t")
    back = load_samples(tmp_path / "t", contract)
    assert back.select_columns("id")[:] == {"id": ["train-0", "train-1"]}
    with pytest.raises(ValueError, match="not a PNG, JPEG or WebP file"):
        back[0]


def test_the_same_samples_give_the_same_bytes(sft: list[dict[str, Any]], tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        write_samples(sft, tmp_path / "train.parquet")
        made.append([(tmp_path / name).read_bytes() for name in ("train.parquet", "train.arrow")])
    assert made[0] == made[1]


def test_files_of_samples_share_a_file_of_pictures_that_has_each_once(
    sft: list[dict[str, Any]], rl: list[dict[str, Any]], contract: Contract, tmp_path: Path
) -> None:
    for name in ("sft", "rl", "pictures"):
        (tmp_path / name).mkdir()
    other = {**rl[1], "images": [IMAGES[0][0], picture(5, 64, 64)]}
    with PictureWriter(tmp_path / "pictures/train.arrow", "../pictures/train.arrow") as pictures:
        write_samples([*sft, *sft], tmp_path / "sft/train.parquet", pictures)
        write_samples([*rl, other], tmp_path / "rl/train.parquet", pictures)
    stored = Dataset.from_file(str(tmp_path / "pictures/train.arrow"))
    assert stored["bytes"][:] == [cell["bytes"] for cell in (*IMAGES[0], *IMAGES[1], other["images"][1])]
    assert stored["sha256"][:] == [sha256(file).hexdigest() for file in stored["bytes"]]
    assert max(len(file.read_bytes()) for file in tmp_path.glob("*/*.parquet")) < len(IMAGES[1][0]["bytes"])
    for name, samples in (("sft", [*sft, *sft]), ("rl", [*rl, other])):
        back = load_samples(tmp_path / name / "train.parquet", contract)
        for sample, given in zip(back, samples, strict=True):
            for image, cell in zip(sample["images"], given["images"], strict=True):
                assert np.array_equal(image, contract.resize(decode_cell(cell)))


def test_pictures_are_read_when_they_are_asked_for(
    rl: list[dict[str, Any]], contract: Contract, tmp_path: Path
) -> None:
    write_samples(rl, tmp_path / "train.parquet")
    back = load_samples(tmp_path / "train.parquet", contract)
    where = tmp_path / "train.arrow"
    file = where.read_bytes()
    damaged = file.replace(IMAGES[1][0]["bytes"], bytes(len(IMAGES[1][0]["bytes"])))
    with where.open("r+b") as same:
        same.write(damaged)
    assert back[0]["images"][0].size == contract.resize(decode_cell(IMAGES[0][0])).size
    with pytest.raises(ValueError, match="not a PNG, JPEG or WebP file"):
        back[1]


def test_a_file_that_is_made_again_is_read_again(
    rl: list[dict[str, Any]], contract: Contract, tmp_path: Path
) -> None:
    for mos in (2.0, 4.0):
        write_samples([sample | {"mos": mos} for sample in rl], tmp_path / "train.parquet")
        assert load_samples(tmp_path / "train.parquet", contract)["mos"][:] == [mos, mos]
