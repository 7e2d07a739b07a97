"""From a study's file or the feedback store to an increment: nothing is lost, taken twice or made up."""

import csv
import json
import shutil
import subprocess
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from dvc.repo import Repo

from critic.cli import main
from critic.edits import read_table, write_table
from critic.ratings import merge
from critic.ratings.importers import read_study, waiting
from critic.ratings.increments import read_increments
from critic.ratings.merge import add, collect, examine
from critic.ratings.picture_store import Keeper
from critic.ratings.receipts import Receipt
from critic.ratings.screening import RatingsError
from critic.ratings.store import Feedback

ROOT = Path(__file__).parents[3]
RATERS = ("ann", "bob", "cyn", "dan")
WORTH = np.linspace(1.2, 4.8, 12)
"""What the twelve edits of these tests are worth."""


@pytest.fixture
def project(tmp_path: Path, picture, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with params, a benchmark of one edit a split, and pictures of twelve more edits in `study`."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    Repo.init(str(folder), no_scm=True).close()
    for number, split in enumerate(("train", "validation", "test")):
        images = [{"bytes": picture(seed), "path": None} for seed in (500 + number, 600 + number)]
        row = {
            "id": f"{split}-0",
            "source_id": f"s{number}",
            "images": images,
            "instruction": "dye it",
            "mos": 2.0,
        }
        write_table(pd.DataFrame([row]), folder / f"data/validated/{split}.parquet")
    (tmp_path / "study").mkdir()
    for number in range(len(WORTH)):
        (tmp_path / f"study/{number}-source.png").write_bytes(picture(number))
        (tmp_path / f"study/{number}-edited.png").write_bytes(picture(100 + number))
    monkeypatch.chdir(folder)
    return folder


def said(rater: str, worth: float) -> int:
    return int(
        np.clip(round(6 - worth if rater == "mal" else worth + {"ann": 0.3, "bob": -0.3}.get(rater, 0)), 1, 5)
    )


def study(folder: Path, raters: tuple[str, ...] = RATERS, **more: str) -> Path:
    """A CSV file in which each rater has rated each edit."""
    path = folder / "study/ratings.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["rater", "source", "edited", "instruction", "score", *more])
        for number, worth in enumerate(WORTH):
            for rater in raters:
                pictures = f"{number}-source.png", f"{number}-edited.png"
                rows.writerow([rater, *pictures, "make it red", said(rater, worth), *more.values()])
    return path


def test_a_study_becomes_an_increment(project: Path) -> None:
    made = add(read_study(study(project.parent, edit_type="colour", quality="4"), project), project)
    assert made == project / "data/ratings/0001"
    (one,) = read_increments(made.parent)
    assert len(one.ratings) == 48 and len(one.edits) == 12
    assert one.edits["mos_quality"].tolist() == [4.0] * 12 and one.edits["mos_fidelity"].isna().all()
    assert {*one.edits["edit_type"]} == {"colour"}
    order = one.edits.set_index("id")["mos"]
    by_source = {sha256((project.parent / f"study/{n}-source.png").read_bytes()).hexdigest(): n for n in range(12)}
    numbers = [by_source[sha256(images[0]["bytes"]).hexdigest()] for images in one.edits["images"]]
    assert order.to_numpy() == pytest.approx(WORTH[numbers], abs=0.6)


def test_dvc_keeps_the_tables_and_the_report_is_for_git(project: Path) -> None:
    made = add(read_study(study(project.parent), project), project)
    assert {path.name for path in made.iterdir()} == {
        *("edits.parquet", "edits.parquet.dvc", "ratings.parquet", "ratings.parquet.dvc"),
        *("report.json", "report.md"),
    }
    report = json.loads((made / "report.json").read_text())
    assert report["counts"]["edits with a MOS"] == 12
    assert "| ann | 12 | counted |" in (made / "report.md").read_text()


def test_what_a_killed_maker_has_left_is_kept_by_dvc_before_anything_else(project: Path) -> None:
    made = add(read_study(study(project.parent), project), project)
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    for pointer in made.glob("*.dvc"):
        pointer.unlink()
    merge.keep(project)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_pictures_of_people_are_never_for_git() -> None:
    for path in ("data/ratings/0001/edits.parquet", "data/ratings/.0002.partial/report.json"):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0
    assert subprocess.run(["git", "check-ignore", "-q", "data/ratings/0001/report.json"], cwd=ROOT).returncode == 1


def test_an_edit_that_nobody_has_rated_anew_is_left_alone_unless_its_mos_moves(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ann thinks again of one edit, which moves her bias and so every MOS a little."""
    add(read_study(study(project.parent), project), project)
    path = study(project.parent, ("ann",))
    table = pd.read_csv(path).head(1)
    table["score"] += 0.25
    table.to_csv(path, index=False)
    again = read_study(path, project)
    assert examine(again, project)[0]["id"].tolist() == again.edits["id"].tolist()
    monkeypatch.setattr(merge, "MOVED", 0.0)
    assert len(examine(again, project)[0]) == 12


@pytest.mark.parametrize("given", ["50", "0", "nan", "inf"])
def test_sub_scores_off_the_scale_are_named_by_their_row(given: str, project: Path) -> None:
    with pytest.raises(RatingsError, match=r"ratings\.csv row 2, quality: .* isn't from 1 to 5"):
        read_study(study(project.parent, quality=given), project)


def test_the_same_ratings_make_the_same_bytes(project: Path) -> None:
    heard = read_study(study(project.parent), project)
    first = {path.name: path.read_bytes() for path in add(heard, project).iterdir()}
    shutil.rmtree(project / "data/ratings/0001")
    assert {path.name: path.read_bytes() for path in add(heard, project).iterdir()} == first


def test_a_rater_who_harms_is_named_and_not_counted(project: Path) -> None:
    made = add(read_study(study(project.parent, (*RATERS, "mal")), project), project)
    report = json.loads((made / "report.json").read_text())
    verdicts = {rater["rater"]: rater["verdict"] for rater in report["raters"]}
    assert verdicts == {**dict.fromkeys(RATERS, "counted"), "mal": "contrary"}
    (one,) = read_increments(made.parent)
    assert one.edits["ratings"].map(len).tolist() == [4] * 12
    assert report["agreement"]["counted"] > report["agreement"]["everybody"]


def test_too_few_raters_wait_and_come_in_with_later_ones(project: Path) -> None:
    add(read_study(study(project.parent, ("ann", "cyn")), project), project)
    assert read_increments(project / "data/ratings")[0].edits["mos"].isna().all()
    add(read_study(study(project.parent, ("dan",)), project), project)
    second = read_increments(project / "data/ratings")[1]
    assert second.edits["mos"].notna().all() and second.edits["ratings"].map(len).tolist() == [3] * 12
    assert len(second.ratings) == 12


def test_a_mos_that_changes_or_contradicts_is_named(project: Path) -> None:
    add(read_study(study(project.parent), project), project)
    path = study(project.parent, ("eve", "fay", "gus", "hal"))
    table = pd.read_csv(path)
    table.loc[table["source"] == "0-source.png", "score"] = 5
    table.to_csv(path, index=False)
    made = add(read_study(path, project), project)
    report = json.loads((made / "report.json").read_text())
    item = next(e.id for e in read_increments(made.parent)[0].edits.itertuples() if e.mos < 1.5)
    assert any(line.startswith(item) for line in report["changed"])
    assert any(line.startswith(item) and "in an earlier increment" in line for line in report["contradictions"])


def test_an_edit_of_the_benchmark_can_be_rated_by_its_id_and_contradict_it(project: Path) -> None:
    path = study(project.parent)
    table = pd.read_csv(path).groupby("rater").head(12)
    table["id"] = "train-0"
    by_id = project.parent / "study/by_id.csv"
    rows = [{"rater": rater, "id": "train-0", "score": 5} for rater in RATERS]
    pd.DataFrame(rows).to_csv(by_id, index=False)
    add(read_study(path, project), project)
    made = add(read_study(by_id, project), project)
    (line,) = json.loads((made / "report.json").read_text())["contradictions"]
    assert "and 2.00 in the benchmark (train-0)" in line


@pytest.fixture
def store(project: Path) -> str:
    return f"sqlite:///{project.parent}/feedback.db"


def rate_by_service(store: str, folder: Path, raters: tuple[str, ...] = RATERS) -> None:
    feedback = Feedback(store)
    for number, worth in enumerate(WORTH):
        digests = [
            sha256((folder / f"study/{number}-{role}.png").read_bytes()).hexdigest()
            for role in ("source", "edited")
        ]
        facts = {"request_id": "r", "pair_id": "0", "mode": "greedy", "status": "ok", "score": 3.0}
        facts |= {"model": "m", "version": "v", "contract": "c", "scored_at": datetime.now(UTC)}
        receipt = Receipt(source_sha256=digests[0], edited_sha256=digests[1], instruction="make it red", **facts)
        for rater in raters:
            feedback.add(receipt, rater, said(rater, worth))
    feedback.close()


def test_the_store_is_taken_once_and_pictures_come_from_where_they_were_kept(project: Path, store: str) -> None:
    kept = project.parent / "kept"
    for path in (project.parent / "study").glob("*.png"):
        Keeper(kept).keep(path.read_bytes(), "PNG")
    rate_by_service(store, project.parent)
    assert waiting(store, project) == 48
    assert collect(store, project, kept) == project / "data/ratings/0001"
    assert waiting(store, project) == 0 and collect(store, project, kept) is None
    rate_by_service(store, project.parent, ("dan",))
    assert waiting(store, project) == 12
    collect(store, project, kept)
    second = read_increments(project / "data/ratings")[1]
    assert len(second.ratings) == 12 and second.edits.empty, "dan has said the same again"


def test_another_database_begins_its_ids_anew_and_nothing_is_lost(project: Path, store: str) -> None:
    rate_by_service(store, project.parent)
    collect(store, project, None)
    moved = f"sqlite:///{project.parent}/moved.db"
    rate_by_service(moved, project.parent, ("eve", "fay"))
    assert waiting(moved, project) == 24


def test_ratings_of_lost_pictures_are_kept_and_the_edits_named(project: Path, store: str) -> None:
    rate_by_service(store, project.parent)
    made = collect(store, project, None)
    assert made is not None
    (one,) = read_increments(made.parent)
    assert len(one.ratings) == 48 and one.edits.empty
    assert len(json.loads((made / "report.json").read_text())["lost"]) == 12
    assert "CRITIC_KEEP_IMAGES" in (made / "report.md").read_text()


def test_a_kill_leaves_no_half_of_an_increment(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = read_study(study(project.parent), project)
    monkeypatch.setattr(merge.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        add(heard, project)
    assert read_increments(project / "data/ratings") == []
    monkeypatch.undo()
    monkeypatch.chdir(project)
    with monkeypatch.context() as patch:
        patch.setattr("critic.ratings.merge.Repo.add", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            add(heard, project)
    assert read_increments(project / "data/ratings") == []
    assert add(heard, project).name == "0001"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("score", "good", "row 3, score: 'good' is no number"),
        ("rater", "", "row 3 has no rater"),
        ("source", "nowhere.png", "row 3: the source picture nowhere.png can't be read"),
        ("edited", "ratings.csv", "row 3: the edited picture ratings.csv can't be read"),
        ("instruction", " ", "row 3 has no instruction"),
    ],
)
def test_a_row_of_a_study_that_cannot_be_read_is_named(
    project: Path, column: str, value: str, message: str
) -> None:
    path = study(project.parent)
    table = pd.read_csv(path, dtype=str)
    table.loc[1, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(RatingsError, match=message):
        read_study(path, project)


def test_a_study_without_its_columns_is_told_what_to_give(project: Path) -> None:
    path = project.parent / "odd.csv"
    path.write_text("who,score\nann,3\n")
    with pytest.raises(RatingsError, match=r"no column rater, source, edited, instruction: give a CSV"):
        read_study(path, project)
    path.write_text("rater,id,score\nann,nobody,3\n")
    with pytest.raises(RatingsError, match="row 2: no edit of data/validated has the id 'nobody'"):
        read_study(path, project)


def test_the_command_shows_first_and_writes_then(project: Path) -> None:
    path = str(study(project.parent, (*RATERS, "mal")))
    shown = CliRunner().invoke(main, ["rate", path, "--dry-run"])
    assert shown.exit_code == 0 and "| mal | 12 | contrary |" in shown.output
    assert not (project / "data/ratings").exists()
    made = CliRunner().invoke(main, ["rate", path])
    assert made.exit_code == 0 and "Made data/ratings/0001. Commit it" in made.output
    assert read_table(project / "data/ratings/0001/edits.parquet")["mos"].notna().all()


def test_the_command_wants_a_file_or_a_store(project: Path, store: str) -> None:
    for arguments in ([], [str(study(project.parent)), "--feedback", store]):
        assert CliRunner().invoke(main, ["rate", *arguments]).exit_code == 2
    empty = CliRunner().invoke(main, ["rate", "--feedback", store])
    assert empty.exit_code == 0 and "in an increment already" in empty.output
