"""`critic probe`, `critic pick` and `critic filter` as people run them, with judges that need no model."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from datasets import Dataset

from critic import cli
from critic.cli import probe as probe_command
from critic.data.minibench.benchmark import make_table
from critic.edits import TYPES, Edit, normalise
from critic.results import Result as Scored
from critic.scoring.judges import Judge, Kind, Scale, kinds
from critic.scoring.probes import PROBES
from critic.tables import read, read_parquet, write_parquet


def critic(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [*map(str, arguments)], terminal_width=100)


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edits") / "edits.parquet"
    write_parquet(normalise(make_table("test", 30, 64, seed=5), "test"), path, TYPES)
    return path


class Constant(Judge):
    name, scale = "constant", Scale(1, 5)

    def judge(self, edit: Edit) -> Scored:
        return self.result(edit.id, 3)


def test_a_constant_judge_fails_loudly(edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds(), "constant", Kind("Always 3.", Constant.scale, Constant))
    result = critic("probe", "--judge", "constant", edits, "--out", tmp_path / "c.jsonl", "--edits", 20)
    assert result.exit_code == 1
    assert "Every score is 3.00, whatever the pictures and the instruction are" in " ".join(result.output.split())


def test_ssim_is_blind_to_the_instruction_and_likes_an_edit_that_does_nothing(edits: Path, tmp_path: Path) -> None:
    out, found = tmp_path / "ssim.jsonl", tmp_path / "ssim.json"
    result = critic("probe", "--judge", "ssim", edits, "--out", out, "--edits", 40, "--json", found)
    assert result.exit_code == 1, result.output
    probes = {one["probe"]: one for one in json.loads(found.read_text())["probes"]}
    assert {name for name, one in probes.items() if one["passed"] is False} >= {"swapped", "unedited"}
    assert probes["black"]["passed"] and probes["mirrored"]["passed"] and probes["swapped"]["same"] == 1
    lines = out.read_bytes()
    out.write_bytes(lines[: len(lines) // 2])  # as a kill leaves it
    critic("probe", "--judge", "ssim", edits, "--out", out, "--edits", 40)
    assert out.read_bytes() == lines
    other = critic("probe", "--judge", "ssim", edits, "--out", out, "--edits", 41)
    assert "edits was 40 and is 41" in " ".join(other.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give -m, a critic, or --judge"),
        (["--judge", "nobody"], "there is no judge 'nobody': choose"),
        (["--judge", ""], "there is no judge '': choose"),
        (["--judge", "viescore '"], "can't be read: No closing quotation"),
        (["--judge", "ssim", "-m", "models/grpo", "--mode", "expected"], "--model, --mode is of a critic: leave"),
        (["--judge", "viescore"], "Missing option '-m' / '--model'"),
    ],
)
def test_a_judge_must_be_given(
    edits: Path, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CRITIC_MODEL", raising=False)
    result = critic("probe", edits, "--out", tmp_path / "p.jsonl", *arguments)
    assert result.exit_code == 2 and message in result.output


def test_opinions_of_a_datasets_folder_are_used(edits: Path, tmp_path: Path) -> None:
    table = read_parquet(edits)[["images", "instruction", "mos"]].assign(source_id="one")
    table["images"] = [[dict(image) for image in pair] for pair in table["images"]]
    Dataset.from_pandas(table).save_to_disk(tmp_path / "set")
    result = critic(
        "probe",
        "--judge",
        "ssim",
        tmp_path / "set",
        "--out",
        tmp_path / "s.jsonl",
        "--edits",
        2,
        "--probe",
        "black",
    )
    assert "2 edits of 1 source images" in result.output and "No MOS" not in result.output


def write_scores(path: Path, scores: dict[str, float | None]) -> Path:
    """As `critic score` writes them."""
    for file, is_scored in ((path, True), (path.with_suffix(".failures.jsonl"), False)):
        results = [
            Scored(id, score, "ok" if is_scored else "no_answer")
            for id, score in scores.items()
            if (score is not None) == is_scored
        ]
        file.write_text("".join(f"{result.to_json()}\n" for result in results))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_best_of_each_request_is_picked_if_its_probes_are_worse(tmp_path: Path, suffix: str) -> None:
    rows = [
        ("a", "x.png", "red, please"),
        ("b", "x.png", "red, please"),
        ("c", "x.png", "blue"),
        ("d", "y.png", "blue"),
    ]
    table, pairs = pd.DataFrame(rows, columns=["id", "source", "instruction"]), tmp_path / f"edits{suffix}"
    {".csv": table.to_csv, ".parquet": table.to_parquet}.get(suffix, table.to_json)(
        pairs, **({"orient": "records", "lines": True} if suffix == ".jsonl" else {"index": False})
    )
    scores = write_scores(tmp_path / "scores.jsonl", {"a": 2.0, "b": 4.0, "c": 4.5, "d": None})
    asked = ("pick", scores, "--pairs", pairs, "--out", tmp_path / f"best{suffix}")
    assert (
        "2 of 4 edits picked, one for each request; 0 requests with tied edits, 1 without" in critic(*asked).output
    )
    pd.testing.assert_frame_equal(
        read(tmp_path / f"best{suffix}").reset_index(drop=True), read(pairs).iloc[1:3].reset_index(drop=True)
    )
    unchanged = {"unchanged:b": 3.0, "unchanged:c": 2.0}  # in another mode than `scores`
    probes = unchanged | {"unedited:b": 1.0, "other_edit:b": 1.0, "unedited:c": 2.0, "other_edit:c": 1.0}
    asked += ("--probes", write_scores(tmp_path / "probes.jsonl", probes))
    assert "1 best edits dropped by their probes" in critic(*asked).output
    assert [*read(tmp_path / f"best{suffix}")["id"]] == ["b"]
    write_scores(tmp_path / "probes.jsonl", unchanged | {"unedited:b": 1.0})
    assert "has no score and no failure of 'unedited:c'" in critic(*asked).output


def test_what_is_kept_stays_in_the_tables_folder_and_format(tmp_path: Path) -> None:
    (tmp_path / "edits.csv").write_text("id,source,instruction\na,x.png,red\n")
    scores = write_scores(tmp_path / "scores.jsonl", {"a": 2.0})
    asked = ("pick", scores, "--pairs", tmp_path / "edits.csv", "--out")
    assert "isn't in the folder of" in critic(*asked, tmp_path / "new/best.csv").output
    assert "must be a .csv" in critic(*asked, tmp_path / "best.jsonl").output
    for read_file in ("edits.csv", "../" + tmp_path.name + "/scores.csv"):
        scores_csv = tmp_path / "scores.csv"
        scores_csv.write_text("id,score\na,2\n")
        kept = (tmp_path / read_file).read_text()
        asked_for = ("pick", scores_csv, "--pairs", tmp_path / "edits.csv", "--out", tmp_path / read_file)
        assert "is a file that is read, and would be replaced" in critic(*asked_for).output
        assert (tmp_path / read_file).read_text() == kept
    assert "edits.csv has no column editor" in critic(*asked, tmp_path / "b.csv", "--by", "editor").output


def test_a_filter_keeps_what_its_threshold_promises(edits: Path, tmp_path: Path) -> None:
    table = read_parquet(edits)
    noise = np.random.default_rng(0).normal(0, 0.1, len(table))
    scores: dict[str, float | None] = dict(zip(table["id"], np.clip(table["mos"] + noise, 1, 5), strict=True))
    scores[table["id"][0]] = None
    file, out, found = write_scores(tmp_path / "s.jsonl", scores), tmp_path / "kept.parquet", tmp_path / "f.json"
    asked = ("filter", file, "--pairs", edits, "--rated", edits, "--mos", 3, "--precision", 0.6, "--out", out)
    result = critic(*asked, "--json", found)
    assert result.exit_code == 0, result.output
    figures = json.loads(found.read_text())
    kept = read_parquet(out)
    assert [*kept["id"]] == [id for id, score in scores.items() if score is not None and score >= figures["score"]]
    assert figures["at_least"] >= 0.6 and figures["edits_kept"] == figures["kept"] == len(kept)
    assert figures["precision"]["value"] == pytest.approx((kept["mos"] >= 3).mean()) != figures["asked_precision"]
    assert "1 have no score" in result.output
    impossible = critic(*asked[:-4], "--precision", 0.999, "--out", tmp_path / "none.parquet")
    assert impossible.exit_code == 1 and "no threshold has a precision of 0.999" in impossible.output
    assert not (tmp_path / "none.parquet").exists()


def test_the_commands_choose_among_all_probes() -> None:
    assert (*PROBES,) == probe_command.NAMES
