"""From a study's file or the feedback store to an increment: no rating is lost, taken twice or invented."""

import csv
import json
import shutil
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from dvc.repo import Repo

from critic.cli import main
from critic.edits import TYPES
from critic.files import OutputError
from critic.ratings import collect as collecting
from critic.ratings.collect import add, preview
from critic.ratings.importers import count_new, read_store, read_study
from critic.ratings.increments import IncrementError, read_increments
from critic.ratings.picture_store import PictureStore
from critic.ratings.receipts import Receipt
from critic.ratings.store import Feedback, Vote
from critic.tables import TableError, read_parquet, write_parquet

ROOT = Path(__file__).parents[3]
RATERS = ("ann", "bob", "cyn", "dan")
TRUTH = np.linspace(1.2, 4.8, 12)
"""The true scores of the twelve edits of these tests."""


@pytest.fixture
def project(tmp_path: Path, picture, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with params, a benchmark of one edit per split, and pictures of twelve more edits in `study`."""
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
        write_parquet(pd.DataFrame([row]), folder / f"data/validated/{split}.parquet", TYPES)
    (tmp_path / "study").mkdir()
    for number in range(len(TRUTH)):
        (tmp_path / f"study/{number}-source.png").write_bytes(picture(number))
        (tmp_path / f"study/{number}-edited.png").write_bytes(picture(100 + number))
    monkeypatch.chdir(folder)
    return folder


def score_of(rater: str, truth: float) -> int:
    return int(
        np.clip(round(6 - truth if rater == "mal" else truth + {"ann": 0.3, "bob": -0.3}.get(rater, 0)), 1, 5)
    )


def study(folder: Path, raters: tuple[str, ...] = RATERS, **more: str) -> Path:
    """A CSV file in which each rater has rated each edit."""
    path = folder / "study/ratings.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["rater", "source", "edited", "instruction", "score", *more])
        for number, truth in enumerate(TRUTH):
            for rater in raters:
                pictures = f"{number}-source.png", f"{number}-edited.png"
                rows.writerow([rater, *pictures, "make it red", score_of(rater, truth), *more.values()])
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
    assert order.to_numpy() == pytest.approx(TRUTH[numbers], abs=0.6)


def test_dvc_keeps_the_tables_and_the_report_is_for_git(project: Path) -> None:
    made = add(read_study(study(project.parent), project), project)
    assert {path.name for path in made.iterdir()} == {
        *("edits.parquet", "edits.parquet.dvc", "ratings.parquet", "ratings.parquet.dvc"),
        *("report.json", "report.md"),
    }
    report = json.loads((made / "report.json").read_text())
    assert report["counts"]["edits with a MOS"] == 12
    assert "| ann | 12 | counted |" in (made / "report.md").read_text()


def test_tables_of_a_killed_command_are_tracked_by_dvc(project: Path) -> None:
    made = add(read_study(study(project.parent), project), project)
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    for pointer in made.glob("*.dvc"):
        pointer.unlink()
    collecting.track(project)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_git_ignores_pictures() -> None:
    for path in ("data/ratings/0001/edits.parquet", "data/ratings/.0002.partial/report.json"):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0
    assert subprocess.run(["git", "check-ignore", "-q", "data/ratings/0001/report.json"], cwd=ROOT).returncode == 1


def test_an_edit_without_new_ratings_is_left_out_unless_its_mos_changes(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ann rates one edit again, which changes her bias and so every MOS a little."""
    add(read_study(study(project.parent), project), project)
    path = study(project.parent, ("ann",))
    table = pd.read_csv(path).head(1)
    table["score"] += 0.25
    table.to_csv(path, index=False)
    again = read_study(path, project)
    assert preview(again, project)[0]["id"].tolist() == again.edits["id"].tolist()
    monkeypatch.setattr(collecting, "MIN_CHANGE", 0.0)
    assert len(preview(again, project)[0]) == 12


@pytest.mark.parametrize("given", ["50", "0", "nan", "inf"])
def test_sub_scores_off_the_scale_are_named_by_their_line(given: str, project: Path) -> None:
    with pytest.raises(TableError, match=r"ratings\.csv line 2 has the quality '.*', not a number from 1 to 5"):
        read_study(study(project.parent, quality=given), project)


def test_the_same_ratings_make_the_same_bytes(project: Path) -> None:
    batch = read_study(study(project.parent), project)
    first = {path.name: path.read_bytes() for path in add(batch, project).iterdir()}
    shutil.rmtree(project / "data/ratings/0001")
    assert {path.name: path.read_bytes() for path in add(batch, project).iterdir()} == first


def test_a_malicious_rater_is_named_and_not_counted(project: Path) -> None:
    made = add(read_study(study(project.parent, (*RATERS, "mal")), project), project)
    report = json.loads((made / "report.json").read_text())
    statuses = {rater["rater"]: rater["status"] for rater in report["raters"]}
    assert statuses == {**dict.fromkeys(RATERS, "counted"), "mal": "inverted"}
    (one,) = read_increments(made.parent)
    assert one.edits["ratings"].map(len).tolist() == [4] * 12
    assert report["agreement"]["counted"] > report["agreement"]["everybody"]


def test_an_edit_with_too_few_raters_waits_for_later_ones(project: Path) -> None:
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


# --- votes on pairs


def ballots(folder: Path, raters: tuple[str, ...] = RATERS) -> Path:
    """A CSV file in which each rater has voted on all pairs of six edits of the first source."""
    path = folder / "study/votes.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["rater", "source", "edited_a", "edited_b", "instruction", "winner", "editor_a", "editor_b"])
        for place, (one, other) in enumerate(combinations(range(6), 2)):
            for turn, rater in enumerate(raters):
                a, b = (one, other) if (place + turn) % 2 else (other, one)
                wins = (TRUTH[a] > TRUTH[b]) != (rater == "mal")
                edited = f"{a}-edited.png", f"{b}-edited.png"
                rows.writerow([rater, "0-source.png", *edited, "dye", "a" if wins else "b", f"e{a}", f"e{b}"])
    return path


def test_votes_become_an_increment_without_a_mos(project: Path) -> None:
    made = add(read_study(ballots(project.parent, (*RATERS, "mal")), project), project)
    assert {path.name for path in made.iterdir()} >= {"votes.parquet", "votes.parquet.dvc"}
    (one,) = read_increments(made.parent)
    assert len(one.edits) == 6 and one.edits["mos"].isna().all() and one.ratings.empty
    assert one.votes is not None and len(one.votes) == 75
    report = json.loads((made / "report.json").read_text())["pairs"]
    statuses = {rater["rater"]: rater["status"] for rater in report["raters"]}
    assert statuses == {**dict.fromkeys(RATERS, "counted"), "mal": "inverted"}
    assert [row["editor"] for row in report["editors"]] == [f"e{number}" for number in reversed(range(6))]
    page = (made / "report.md").read_text()
    assert "0 wait for more raters. 6 edits have votes alone." in page
    assert "| mal | 15 | inverted | 0.00 |" in page and "So votes give no MOS; they are kept as votes." in page


def test_earlier_votes_are_pooled_again_and_a_missing_table_is_named(project: Path) -> None:
    add(read_study(ballots(project.parent, RATERS[:2]), project), project)
    report = preview(read_study(ballots(project.parent, RATERS[2:]), project), project)[1]["pairs"]
    assert (report["votes"], report["pairs"]) == (60, 15)
    (project / "data/ratings/0001/votes.parquet").unlink()
    with pytest.raises(IncrementError, match=r"dvc pull .*0001/votes\.parquet\.dvc"):
        read_increments(project / "data/ratings")


def test_the_editors_of_known_edits_are_learnt_and_votes_without_them_counted(project: Path) -> None:
    path = ballots(project.parent)
    named = pd.read_csv(path)
    named.drop(columns=["editor_a", "editor_b"]).to_csv(path, index=False)
    first = add(read_study(path, project), project)
    assert "60 votes aren't in the table of editors" in (first / "report.md").read_text()
    named.loc[20:, ["editor_a", "editor_b"]] = None
    named.to_csv(path, index=False)
    made = add(read_study(path, project), project)
    report = json.loads((made / "report.json").read_text())
    assert report["pairs"]["without editor"] == 0 and len(report["pairs"]["editors"]) == 6
    assert read_increments(made.parent)[1].edits["editor"].notna().all() and not report["changed"]
    assert preview(read_study(path, project), project)[0].empty


def test_ratings_of_some_edits_give_the_others_a_mos(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anchors = []
    for rater, number in product(RATERS, (0, 2, 3, 5)):
        pictures = {"source": "0-source.png", "edited": f"{number}-edited.png"}
        anchors.append({"rater": rater, **pictures, "instruction": "dye", "score": score_of(rater, TRUTH[number])})
    path = project.parent / "study/anchors.csv"
    pd.DataFrame(anchors).to_csv(path, index=False)
    text = (project / "params.yaml").read_text()
    text = text.replace("min_anchors: 10", "min_anchors: 3").replace("min_ratings: 8", "min_ratings: 5")
    (project / "params.yaml").write_text(text.replace("min_correlation: 0.75", "min_correlation: -0.9"))
    study(project.parent)
    both = pd.concat([pd.read_csv(path), pd.read_csv(project.parent / "study/ratings.csv")])
    both.to_csv(path, index=False)
    add(read_study(path, project), project)
    made = add(read_study(ballots(project.parent), project), project)
    edits = read_increments(made.parent)[1].edits.set_index("editor")
    assert {*edits.index} == {f"e{number}" for number in range(6)}
    by_votes = edits["mos"][edits["ratings"].isna()]
    assert {*by_votes.index} == {"e1", "e4"} and 1 < by_votes["e1"] < by_votes["e4"] < 5


@pytest.fixture
def store(project: Path) -> str:
    return f"sqlite:///{project.parent}/feedback.db"


def test_votes_of_the_service_are_taken_once(project: Path, store: str, picture) -> None:
    kept, digests = project.parent / "kept", {}
    for seed, name in enumerate(("source", "left", "right")):
        digests[f"{name}_sha256"] = sha256(picture(seed)).hexdigest()
        PictureStore(kept).add(picture(seed), "PNG")
    facts = {"instruction": "dye", "left_editor": "brush", "right_editor": "pen", "pair_id": "p", "rater": "ann"}
    facts |= {"left_score": 3.0, "right_score": None, "at": datetime.now(UTC), "seconds": 2.0, "choice": "left"}
    with closing(Feedback(store)) as feedback:
        feedback.add_vote(Vote(ballot="1", **facts, **digests))
        feedback.add_vote(Vote(ballot="0", **facts | {"left_editor": None}, **digests))
    batch = read_store(store, project, kept)
    assert {*batch.edits["editor"]} == {"brush", "pen"} and batch.votes["choice"].tolist() == ["left"] * 2
    add(batch, project)
    assert read_store(store, project, kept).votes.empty
    with closing(Feedback(store)) as feedback:
        feedback.add_vote(Vote(ballot="2", **facts, **digests))
    assert read_store(store, project, None).votes["vote_id"].tolist() == [3]


def collect(store: str, project: Path, pictures: Path | None) -> Path | None:
    """The increment of a store's new ratings."""
    batch = read_store(store, project, pictures)
    return None if batch.ratings.empty else add(batch, project)


def rate_by_service(
    store: str,
    folder: Path,
    raters: tuple[str, ...] = RATERS,
    instructions: tuple[str, ...] = ("make it red",),
) -> None:
    feedback = Feedback(store)
    for number, truth in enumerate(TRUTH):
        digests = [
            sha256((folder / f"study/{number}-{role}.png").read_bytes()).hexdigest()
            for role in ("source", "edited")
        ]
        facts = {"request_id": "r", "pair_id": "0", "mode": "greedy", "status": "ok", "score": 3.0}
        instruction = instructions[number % len(instructions)]
        facts |= {"model": "m", "version": "v", "contract": "c", "scored_at": datetime.now(UTC)}
        receipt = Receipt(source_sha256=digests[0], edited_sha256=digests[1], instruction=instruction, **facts)
        for rater in raters:
            feedback.add(receipt, rater, score_of(rater, truth))
    feedback.close()


def test_ratings_are_taken_once_and_pictures_come_from_the_picture_store(project: Path, store: str) -> None:
    kept = project.parent / "kept"
    for path in (project.parent / "study").glob("*.png"):
        PictureStore(kept).add(path.read_bytes(), "PNG")
    rate_by_service(store, project.parent)
    assert count_new(store, project) == 48
    assert collect(store, project, kept) == project / "data/ratings/0001"
    assert count_new(store, project) == 0 and collect(store, project, kept) is None
    rate_by_service(store, project.parent, ("dan",))
    assert count_new(store, project) == 12
    collect(store, project, kept)
    second = read_increments(project / "data/ratings")[1]
    assert len(second.ratings) == 12 and second.edits.empty, "dan gave the same scores again"


def test_ids_of_another_database_start_again_and_no_rating_is_lost(project: Path, store: str) -> None:
    rate_by_service(store, project.parent)
    collect(store, project, None)
    moved = f"sqlite:///{project.parent}/moved.db"
    rate_by_service(moved, project.parent, ("eve", "fay"))
    assert count_new(moved, project) == 24


def test_ratings_of_missing_pictures_are_kept_and_the_edits_named(project: Path, store: str) -> None:
    rate_by_service(store, project.parent)
    made = collect(store, project, None)
    assert made is not None
    (one,) = read_increments(made.parent)
    assert len(one.ratings) == 48 and one.edits.empty
    assert len(json.loads((made / "report.json").read_text())["lost"]) == 12
    assert "CRITIC_KEEP_IMAGES" in (made / "report.md").read_text()


def test_an_increment_that_another_command_makes_meanwhile_is_not_replaced(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = project / "data/ratings/0001/report.md"

    def render(report: object) -> str:
        other.parent.mkdir()
        other.write_text("the other's")
        return "ours"

    monkeypatch.setattr(collecting, "render", render)
    with pytest.raises(OutputError, match=r"0001 is there already: another command made it\. Run this one again"):
        add(read_study(study(project.parent), project), project)
    assert [*project.glob("data/ratings/**/*.*")] == [other] and other.read_text() == "the other's"


def test_a_failure_leaves_no_partial_increment(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = read_study(study(project.parent), project)
    monkeypatch.setattr("critic.files.os.rename", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        add(batch, project)
    assert read_increments(project / "data/ratings") == []
    monkeypatch.undo()
    monkeypatch.chdir(project)
    with monkeypatch.context() as patch:
        patch.setattr("critic.ratings.collect.Repo.add", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            add(batch, project)
    assert read_increments(project / "data/ratings") == []
    assert add(batch, project).name == "0001"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("score", "good", "line 3 has the score 'good', not a number from 1 to 5"),
        ("rater", "", "line 3 has no rater"),
        ("source", "nowhere.png", "line 3: the source picture nowhere.png can't be read"),
        ("edited", "ratings.csv", "line 3: the edited picture ratings.csv can't be read"),
        ("instruction", " ", "line 3 has no instruction"),
    ],
)
def test_an_invalid_row_of_a_study_is_named(project: Path, column: str, value: str, message: str) -> None:
    path = study(project.parent)
    table = pd.read_csv(path, dtype=str)
    table.loc[1, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(TableError, match=message):
        read_study(path, project)


def test_an_error_of_missing_columns_shows_an_example(project: Path) -> None:
    path = project.parent / "odd.csv"
    path.write_text("who,score\nann,3\n")
    with pytest.raises(
        TableError, match=r"no column rater, source, edited, instruction; it has who, score: give a CSV"
    ):
        read_study(path, project)
    path.write_text("rater,id,score\nann,nobody,3\n")
    with pytest.raises(TableError, match="line 2 has the id 'nobody', and no edit of data/validated has it"):
        read_study(path, project)


def test_the_command_shows_the_report_and_writes_without_dry_run(project: Path) -> None:
    path = str(study(project.parent, (*RATERS, "mal")))
    shown = CliRunner().invoke(main, ["rate", path, "--dry-run"])
    assert shown.exit_code == 0 and "| mal | 12 | inverted |" in shown.output
    assert not (project / "data/ratings").exists()
    made = CliRunner().invoke(main, ["rate", path])
    assert made.exit_code == 0 and "Made data/ratings/0001. Commit it" in made.output
    assert read_parquet(project / "data/ratings/0001/edits.parquet")["mos"].notna().all()


def test_the_command_wants_a_file_or_a_store(project: Path, store: str) -> None:
    for arguments in ([], [str(study(project.parent)), "--feedback", store]):
        assert CliRunner().invoke(main, ["rate", *arguments]).exit_code == 2
    missing = CliRunner().invoke(main, ["rate", "--feedback", store])
    file = project.parent / "feedback.db"
    assert missing.exit_code != 0 and f"there is no {file}. Give the URL" in missing.output and not file.exists()
    Feedback(store).close()
    empty = CliRunner().invoke(main, ["rate", "--feedback", store])
    assert empty.exit_code == 0 and "no new ratings" in empty.output


OPEN_QUOTE = """\
rater,source,edited,instruction,score
r0,0-source.png,0-edited.png,"Open the door,5
r0,0-source.png,0-edited.png,two,4
r1,0-source.png,0-edited.png,two,4
r1,0-source.png,0-edited.png,four" wide,1
"""


def test_a_quote_that_is_not_closed_is_named_by_its_line(project: Path) -> None:
    path = project.parent / "study/ratings.csv"
    path.write_text(OPEN_QUOTE)
    with pytest.raises(TableError, match=r"ratings\.csv line 2: the row that begins here is not CSV"):
        read_study(path, project)
    shown = CliRunner().invoke(main, ["rate", str(path), "--dry-run"])
    assert shown.exit_code == 1 and "ratings.csv line 2" in shown.output


def test_a_study_of_the_benchmarks_edit_with_other_whitespace_is_of_the_same_edit(project: Path) -> None:
    """The benchmark's instruction ends with a space, and so do some of the study's."""
    images = [(project.parent / f"study/0-{role}.png").read_bytes() for role in ("source", "edited")]
    row = {"id": "train-0", "source_id": "s0", "instruction": "make it red ", "mos": 4.9}
    row["images"] = [{"bytes": image, "path": None} for image in images]
    write_parquet(pd.DataFrame([row]), project / "data/validated/train.parquet", TYPES)
    path = study(project.parent)
    path.write_text(path.read_text().replace("make it red", "make it red ", 6))
    edits, report = preview(read_study(path, project), project)
    assert len(edits) == len(TRUTH)
    (line,) = report["contradictions"]
    assert "and 4.90 in the benchmark (train-0)" in line


def test_a_study_without_rows_is_an_error(project: Path) -> None:
    path = project.parent / "empty.csv"
    path.write_text("rater,source,edited,instruction,score\n")
    with pytest.raises(TableError, match=r"empty\.csv has no rows"):
        read_study(path, project)
