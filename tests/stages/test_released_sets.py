"""The sets of IE-Critic-R1 in their released shapes: from the hub to the trainings' samples, in both splits."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import released
import yaml
from local_hub import COMMIT

from critic.data.features import source_facts
from critic.data.near_duplicates import find_shared
from critic.data.readers.hub import Snapshot
from critic.data.trl_datasets import load_samples
from critic.edits import SPLITS
from critic.prompts import load_contract
from critic.tables import read_parquet
from stages import build, download, validate

pytestmark = pytest.mark.usefixtures("compiled_templates")
ROOT = Path(__file__).parents[2]
SETS = released.make(sources=8)
NUMBERS = {split: len(columns["images"]) for split, columns in SETS.splits.items()}


@pytest.fixture(scope="module", params=["official", "by_source"])
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A split, and a project's folder in which the stages have made it from the sets."""
    folder = tmp_path_factory.mktemp(request.param)
    SETS.write(folder / "hub")

    def fetch(dataset: str, revision: str) -> Snapshot:
        return Snapshot(dataset, revision, COMMIT, folder / "hub" / dataset)

    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    profiles = content["profiles"]
    profiles["tiny"] |= {part: profiles["full"][part] for part in ("download", "build")}
    profiles["tiny"]["download"]["hub"]["split"] = request.param
    profiles["tiny"]["download"]["learn_contract"] = None
    content["validate"]["validation_fraction"] = 0.3
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        for module in ("stages.download", "critic.data.readers.hub"):
            patch.setattr(f"{module}.fetch", fetch)
        for stage in (download.main, validate.main, build.main):
            stage()
        yield request.param


def report() -> dict[str, Any]:
    return json.loads(Path("data/validation.json").read_text())


def tables() -> dict[str, pd.DataFrame]:
    return {name: read_parquet(f"data/validated/{name}.parquet") for name in (*SPLITS, "rationales")}


def test_the_leak_is_counted_in_the_official_split_and_absent_from_ours(split: str) -> None:
    assert SETS.leak["edits"] > 0
    assert SETS.leak["same_edits"] == 1
    leak = SETS.leak if split == "official" else {"edits": 0, "sources": 0}
    assert report()["split"] == {"name": split, "leak": leak}

    sizes = {name: one["edits"] for name, one in report()["splits"].items()}
    assert sum(sizes.values()) == sum(NUMBERS.values())
    assert abs(sizes["test"] - NUMBERS["test"]) <= (0 if split == "official" else 6)

    found = tables()
    sft = dict([*found.pop("rationales").groupby("split")])
    for name in ("train", "validation"):
        columns = ["images", "source_id"]
        found[name] = pd.concat([found[name][columns], sft[name][["images"]]], ignore_index=True)
    if split == "official":
        del found["test"]
    shared = find_shared(source_facts(found).assign(id=""), 24)
    assert shared[["same_source_id", "same_pixels", "looks_like"]].isna().all(axis=None)


def test_what_the_file_names_tell_is_kept(split: str) -> None:
    edits = pd.concat([tables()[name] for name in SPLITS])
    names = [images[1]["path"].removesuffix(".png").split("_") for images in edits["images"]]
    told = [(editor, f"IEB_{source}", number.removeprefix("prompt")) for _, editor, _, source, number in names]
    assert [*edits[["editor", "source_id", "prompt_number"]].itertuples(index=False, name=None)] == told
    assert edits["source_id"].nunique() == 8


def test_each_row_of_the_sft_set_is_kept_or_counted(split: str) -> None:
    """It was made from the published train split, of which our own split has other edits in test."""
    counts, rationales = report()["rationales"], tables()["rationales"]
    of_test, same_edits = (counts["dropped"][name] for name in ("test_sources", "test_edits"))
    assert (of_test > 0) == (split == "by_source")
    assert same_edits == (2 if split == "official" else 0)
    assert counts["train"] + counts["validation"] + of_test + same_edits == len(SETS.sft["images"])
    assert counts["train"] and counts["validation"]
    assert counts["bare_numbers"] == len(rationales) / 2


def test_its_texts_come_through_to_the_letter(split: str) -> None:
    rationales = tables()["rationales"]
    modes = {
        (user["content"], answer["content"]): "reasoning" if "<think>" in answer["content"] else "direct"
        for user, answer in SETS.sft["messages"]
    }
    for row in rationales.itertuples():
        said = row.response.removeprefix("<think></think>\n<answer>").removesuffix("</answer>")
        given = row.response if row.mode == "reasoning" else said
        assert modes[row.problem, given] == row.mode
        assert row.problem == released.user_text(row.instruction, row.mode)


def test_samples_are_made_of_them(split: str) -> None:
    contract, rationales = load_contract("tiny"), tables()["rationales"]
    for name in ("train", "validation"):
        sft = load_samples(f"data/sft/{name}.parquet", contract)
        assert sft["id"][:] == [*rationales[rationales["split"] == name]["id"]]
        assert {*sft["mode"][:]} == {"direct", "reasoning"}
        rl = load_samples(f"data/rl/{name}.parquet", contract)
        assert len(rl) == report()["splits"][name]["edits"]
