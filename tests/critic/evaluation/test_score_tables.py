"""Files of scores and opinions: what is read, and what is refused with its row and its fix."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from critic.evaluation.score_tables import read_pairs, read_predictions, read_scores, read_truth
from critic.results import Failure, Result
from critic.tables import TableError

VERDICTS = [
    Result("a", 3.5, "ok", mode="average", spread=0.2, samples=[3.3, None, 3.7], reasoning="Fine.", raw="<think>"),
    Result("b", None, Failure.TIMED_OUT),
]


def written(tmp_path: Path, text: str, name: str = "scores.csv") -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


# --- scores


def test_verdicts_are_read_line_by_line(tmp_path: Path) -> None:
    tricky = Result("c\u2028", 1.0, "ok", reasoning="a line\u2028separator")
    lines = "".join(f"{verdict.to_json()}\n" for verdict in [*VERDICTS, tricky])
    table = read_predictions(written(tmp_path, lines, "scores.jsonl"))
    assert [*table["id"]] == ["a", "b", "c\u2028"]
    assert table["score"].tolist() == pytest.approx([3.5, np.nan, 1.0], nan_ok=True)
    assert [*table["status"]] == ["ok", "timed_out", "ok"]
    assert [*table["mode"]] == ["average", "greedy", "greedy"]
    assert table["spread"].tolist() == pytest.approx([0.2, np.nan, np.nan], nan_ok=True)
    assert table["samples"][0] == [3.3, None, 3.7]


def test_what_a_retry_leaves_is_read(tmp_path: Path) -> None:
    """No failures any more, all failed, or, after a kill, old failures of edits that have a score by now."""
    scored, failed = (f"{verdict.to_json()}\n" for verdict in VERDICTS)
    late = Result("b", 2.0, "ok").to_json() + "\n"
    for scores, failures, ids in ((scored, "", "a"), ("", failed, "b"), (scored + late, failed + failed, "ab")):
        written(tmp_path, failures, "scores.failures.jsonl")
        assert [*read_predictions(written(tmp_path, scores, "scores.jsonl"))["id"]] == [*ids]


def test_scores_alone_are_read_by_the_same_rules(tmp_path: Path) -> None:
    scored, failed = (f"{verdict.to_json()}\n" for verdict in VERDICTS)
    written(tmp_path, failed, "scores.failures.jsonl")
    assert read_scores(written(tmp_path, scored, "scores.jsonl")) == pytest.approx(
        {"a": 3.5, "b": np.nan}, nan_ok=True
    )


def test_failures_are_read_from_the_file_beside(tmp_path: Path) -> None:
    written(tmp_path, f"{VERDICTS[1].to_json()}\n", "scores.failures.jsonl")
    table = read_predictions(written(tmp_path, f"{VERDICTS[0].to_json()}\n", "scores.jsonl"))
    assert table[["id", "status"]].values.tolist() == [["a", "ok"], ["b", "timed_out"]]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_needs_only_ids_and_scores(tmp_path: Path, kind: str) -> None:
    table = pd.DataFrame({"id": ["a", "b"], "score": [3.25, None], "note": ["x", "y"]})
    file = tmp_path / f"scores.{kind}"
    table.to_csv(file, index=False) if kind == "csv" else table.to_parquet(file)
    found = read_predictions(file)
    assert found["score"].tolist() == pytest.approx([3.25, np.nan], nan_ok=True)
    assert [*found["status"]] == ["ok", "failed"]
    assert found["raw"].isna().all() and found["spread"].isna().all() and not found["samples"].map(len).any()


def test_the_predictions_of_the_evaluate_stage_are_read(tmp_path: Path) -> None:
    """They have their response under that name, and a nullable score."""
    table = pd.DataFrame({"id": ["a"], "score": [4.0], "status": ["ok"], "reasoning": [""], "response": ["4"]})
    table.astype({"score": "Float64"}).to_parquet(tmp_path / "grpo.parquet")
    table = read_predictions(tmp_path / "grpo.parquet")
    assert ([*table["raw"]], [*table["mode"]]) == (["4"], ["greedy"])


def test_ids_are_text_though_they_look_like_numbers(tmp_path: Path) -> None:
    assert [*read_predictions(written(tmp_path, "id,score\n007,3\n"))["id"]] == ["007"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,points\na,3\n", "no column score; it has id, points"),
        ("score\n3\n", "no column id"),
        ("", "is empty: give it a first line"),
        ("id,score\n", "no rows"),
        ("id,score\n,3\n", "scores.csv line 2 has no id: fill it in"),
        ("id,score\na,3\nb,3\na,4\n", "the id 'a' twice"),
        ("id,score\na,3\nb,good\n", "scores.csv line 3, id 'b' has the score 'good', not a number from 1 to 5"),
        ("id,score\na,nan\n", "the score 'nan', not a number"),
        ("id,score\na,7.5\n", "the score '7.5', not a number from 1 to 5: .* rescale numbers of another scale"),
        ("id,score,spread\na,3,wide\n", "the spread 'wide', not a number from 0 to 4"),
        ("id,score,status\na,3,truncated\n", "id 'a': status 'truncated' with score 3.0"),
        ("id,score,status\na,,ok\n", "id 'a': status 'ok' with score nan"),
    ],
)
def test_scores_that_can_not_be_used_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TableError, match=says) as caught:
        read_predictions(written(tmp_path, text))
    assert "scores.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2 is not a result"),
        (json.dumps({"id": "b"}), "line 2 is not a result"),
        (json.dumps({"id": "b", "score": 9, "status": "ok"}), "id 'b' has the score"),
        (json.dumps({"id": "b", "score": "good", "status": "ok"}), "id 'b' has the score 'good', not a number"),
        ('{"id": "b", "score": NaN, "status": "ok"}', "id 'b': status 'ok' with score nan"),
        (VERDICTS[0].to_json(), "the id 'a' twice"),
    ],
)
def test_verdicts_that_can_not_be_used_are_named(tmp_path: Path, line: str, says: str) -> None:
    lines = [VERDICTS[0].to_json(), line, Result("z", 3.0, "ok").to_json()]
    for read in (read_predictions, read_scores):
        with pytest.raises(TableError, match=says):
            read(written(tmp_path, "".join(f"{line}\n" for line in lines), "scores.jsonl"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"is not a \.csv, \.jsonl, \.json or \.parquet file"):
        read_predictions(written(tmp_path, "a 3", "scores.txt"))
    with pytest.raises(TableError, match="is not a whole Parquet file, make it again"):
        read_predictions(written(tmp_path, "no parquet", "scores.parquet"))


# --- opinions


def test_a_study_in_csv(tmp_path: Path) -> None:
    header = "id,source,edited,instruction,mos,editor,ratings"
    text = f"{header}\na,cat.png,x.png,make it red,3.5,elm,3 4\nb,cat.png,y.png,,2,oak,\n"
    table = read_truth(written(tmp_path, text))
    assert [*table.columns] == ["id", "mos", "source_id", "editor", "ratings"]
    assert table["mos"].tolist() == [3.5, 2]
    assert table["ratings"][0].tolist() == [3, 4] and table["ratings"][1] is None


def test_opinions_of_generated_pictures_go_from_0_and_are_grouped_by_prompt(tmp_path: Path) -> None:
    agiqa = written(
        tmp_path, "id,image,prompt,mos_quality,mos_alignment\na,a.png,a cat,0.2,4\nb,b.png,a dog,5,1\n"
    )
    table = read_truth(agiqa, mos_column="mos_quality")
    assert [*table.columns] == ["id", "mos", "prompt", "source_id"]
    assert table["mos"].tolist() == [0.2, 5] and [*table["source_id"]] == ["a cat", "a dog"]
    assert read_truth(agiqa, mos_column="mos_alignment")["mos"].tolist() == [4, 1]
    with pytest.raises(TableError, match=r"no column mos; .*, or name that of the MOS by --mos-column"):
        read_truth(agiqa)
    off = written(tmp_path, "id,prompt,mos_quality\na,a cat,5.2\n", "off.csv")
    with pytest.raises(TableError, match=r"the mos_quality '5\.2', not a number from 0 to 5"):
        read_truth(off, mos_column="mos_quality")


@pytest.mark.parametrize(
    ("text", "mos_column"),
    [
        ("id,source_id,prompt,mos_quality\na,s,make it red,{mos}\n", "mos_quality"),
        ("id,source,mos_quality\na,s,{mos}\n", "mos_quality"),
        ("id,prompt,mos\na,a cat,{mos}\n", "mos"),
    ],
    ids=["edits", "edits-by-path", "own-scale"],
)
def test_other_opinions_go_from_1_whatever_their_name(tmp_path: Path, text: str, mos_column: str) -> None:
    table = read_truth(written(tmp_path, text.format(mos=3.5)), mos_column=mos_column)
    assert [*table.columns] == ["id", "mos", "source_id"]
    with pytest.raises(TableError, match="not a number from 1 to 5"):
        read_truth(written(tmp_path, text.format(mos=0.5)), mos_column=mos_column)


def test_images_are_read_only_when_asked_for(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["a"], "mos": [3.0], "images": [["x"]], "instruction": ["y"]}).to_parquet(
        tmp_path / "t.parquet"
    )
    assert "images" not in read_truth(tmp_path / "t.parquet")
    assert "images" in read_truth(tmp_path / "t.parquet", images=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id\na\n", "no column mos"),
        ("id,mos\na,\n", "study.csv line 2, id 'a' has no mos"),
        ("id,mos\na,80\n", "the mos '80', not a number from 1 to 5"),
        ("id,mos,source_id\na,3,\n", "id 'a' has no source_id"),
        ("id,mos,ratings\na,3,2 4\nb,3,3\n", "id 'b' has 1 ratings, and another row 2: give as many"),
        ("id,mos,ratings\na,3,2 four\n", "the ratings '2 four'"),
    ],
)
def test_opinions_that_can_not_be_used_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TableError, match=says):
        read_truth(written(tmp_path, text, "study.csv"))


def test_editors_need_sources(tmp_path: Path) -> None:
    assert [*read_pairs(written(tmp_path, "id,source,editor\na,cat.png,elm\n"), "editor")["source_id"]] == [
        "cat.png"
    ]
    with pytest.raises(TableError, match=r"no column source_id; .*: add source_id or source"):
        read_pairs(written(tmp_path, "id,editor\na,elm\n"), "editor")
    with pytest.raises(TableError, match="id 'a' has no editor"):
        read_pairs(written(tmp_path, "id,source,editor\na,cat.png,\n"), "editor")


def test_pictures_are_no_names_of_sources(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["a"], "mos": [3.0], "source": [b"PNG"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(TableError, match="add a column source_id"):
        read_truth(tmp_path / "t.parquet")
