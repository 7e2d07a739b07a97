"""Minibench: the same seed, the same bytes; and simulated people and editors behave as documented."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.data.features import edit_facts
from critic.data.minibench import EDITS_A_SOURCE, make_table
from critic.data.minibench.editors import (
    DAMAGES,
    EDIT_TYPES,
    EDITORS,
    SIDE_CHANGES,
    Outcome,
    carry_out,
    damage,
    draw_edit,
    random_request,
)
from critic.data.minibench.raters import RATERS, UNRELIABLE, Panel
from critic.data.minibench.scenes import STYLES, Scene, random_scene, render, stylise
from critic.data.near_duplicates import find_shared
from critic.edits import COLUMNS, TYPES, edits_from_table, normalise
from critic.evaluation.agreement import noise_ceiling
from critic.prompts import load_contract
from critic.tables import read_parquet, write_parquet

SOURCES, SIDE, SEED = 40, 56, 7
PERFECT = Outcome(1.0, None, None, 0.0, 0, None, 0.0)
AXES = ("alignment", "fidelity", "quality")


@pytest.fixture(scope="module")
def train() -> pd.DataFrame:
    return make_table("train", SOURCES, SIDE, SEED)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- the table


def test_the_same_seed_gives_the_same_rows_and_image_bytes(train: pd.DataFrame, tmp_path: Path) -> None:
    again = make_table("train", SOURCES, SIDE, SEED)
    assert [*again["images"]] == [*train["images"]]
    for name, table in (("once", train), ("again", again)):
        write_parquet(table, tmp_path / name, TYPES)
    assert (tmp_path / "once").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_larger_benchmark_begins_with_the_smaller_one(train: pd.DataFrame) -> None:
    few = make_table("train", 2, SIDE, SEED)
    assert [*few["images"]] == [*train["images"][: 2 * EDITS_A_SOURCE]]
    assert [*few["answer"]] == [*train["answer"][: 2 * EDITS_A_SOURCE]]


def files(table: pd.DataFrame) -> set[bytes]:
    return {image["bytes"] for images in table["images"] for image in images}


def test_another_seed_gives_other_pictures_and_opinions(train: pd.DataFrame) -> None:
    other = make_table("train", 4, SIDE, SEED + 1)
    assert files(other).isdisjoint(files(train))
    assert [*other["answer"]] != [*train["answer"][: len(other)]]


def test_no_source_image_is_in_two_splits(train: pd.DataFrame) -> None:
    tables = {"train": train} | {split: make_table(split, 12, SIDE, SEED) for split in ("validation", "test")}
    tables = {split: normalise(table, split) for split, table in tables.items()}
    facts = edit_facts(tables, load_contract("tiny").resize)
    shared = find_shared(facts, phash_distance=24)
    assert shared[["same_source_id", "same_pixels", "looks_like"]].isna().all(axis=None)


def test_each_source_has_six_edits_of_two_requests_by_three_editors(train: pd.DataFrame) -> None:
    assert len(train) == SOURCES * EDITS_A_SOURCE
    assert train["id"].is_unique
    sources = train.groupby("source_id")
    assert len(sources) == SOURCES
    assert {*sources.size()} == {6}
    assert {*sources["edit_type"].nunique()} == {2}
    assert {*train.groupby(["source_id", "edit_type"])["editor"].nunique()} == {3}
    assert {*train.groupby(["source_id", "edit_type"])["edit_inst"].nunique()} == {1}
    assert {len({images[0]["bytes"] for images in rows}) for _, rows in sources["images"]} == {1}


def test_there_are_many_edit_types_and_editors(train: pd.DataFrame) -> None:
    assert {*train["edit_type"]} == {*EDIT_TYPES}
    assert len(EDIT_TYPES) >= 8
    assert {*train["editor"]} == {editor.name for editor in EDITORS}
    assert len(EDITORS) >= 4


def test_it_reads_as_any_benchmark_does(train: pd.DataFrame, tmp_path: Path) -> None:
    write_parquet(train, tmp_path / "raw.parquet", TYPES)
    table = normalise(read_parquet(tmp_path / "raw.parquet"), "train")
    assert [*table] == [name for name in COLUMNS if name != "prompt_number"]
    assert table.notna().all(axis=None)
    edits = list(edits_from_table(table))
    assert {size for edit in edits for size in (edit.source.size, edit.edited.size)} == {(SIDE, SIDE)}
    assert [edit.mos for edit in edits] == [*train["answer"]]
    assert [edit.instruction for edit in edits] == [*train["edit_inst"]]
    assert all(row["problem"].endswith(row["instruction"]) for row in table.to_dict("records"))


# --- the opinions


def test_a_mos_is_the_mean_of_fifteen_whole_ratings(train: pd.DataFrame) -> None:
    ratings = np.stack([*train["ratings"]])
    assert ratings.shape == (len(train), 15) == (len(train), RATERS)
    assert {*ratings.ravel()} == {1, 2, 3, 4, 5}
    assert np.allclose(train["answer"], ratings.mean(axis=1), rtol=0, atol=5e-5)
    assert train["answer"].between(1, 5).all()


def test_each_axis_has_a_mos_and_tells_something_of_its_own(train: pd.DataFrame) -> None:
    axes = train[[f"mos_{axis}" for axis in AXES]]
    assert axes.stack().between(1, 5).all()
    assert (axes.corrwith(train["answer"]) > 0.2).all()
    between = axes.corr().to_numpy()[np.triu_indices(3, k=1)]
    assert (np.abs(between) < 0.5).all()


def test_people_agree_but_not_wholly(train: pd.DataFrame) -> None:
    ceiling = noise_ceiling(np.stack([*train["ratings"]]), train["source_id"], n_boot=0)
    assert 0.9 < ceiling["panel"]["main_score"].value < 1
    assert 0.5 < ceiling["rater"]["main_score"].value < ceiling["panel"]["main_score"].value


def test_two_raters_are_unreliable(rng: np.random.Generator) -> None:
    panel, truths = Panel(rng), rng.uniform(1, 5, 1000)
    ratings = np.stack([panel.rate(truth, rng) for truth in truths])
    agreement = [np.corrcoef(truths, ratings[:, rater])[0, 1] for rater in range(RATERS)]
    assert UNRELIABLE == 2
    assert max(agreement[-UNRELIABLE:]) < 0.75 < 0.8 < min(agreement[:-UNRELIABLE])


def test_raters_have_a_bias_and_a_spread_of_their_own(rng: np.random.Generator) -> None:
    panel, reliable = Panel(rng), slice(RATERS - UNRELIABLE)
    low, middle, high = (
        np.mean([panel.rate(truth, rng) for _ in range(2000)], axis=0)[reliable] for truth in (2.5, 3, 3.5)
    )
    assert np.allclose(middle - 3, panel.bias[reliable], atol=0.1)
    assert np.allclose(high - low, panel.gain[reliable], atol=0.15)
    assert np.ptp(panel.bias) > 0.3
    assert np.ptp(panel.gain) > 0.2


@given(st.floats(1, 5), st.integers(0, 1000))
def test_any_panel_rates_in_whole_scores_of_the_scale(truth: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert {*Panel(rng).rate(truth, rng)} <= {1, 2, 3, 4, 5}


# --- the editors


def test_editors_of_higher_skill_get_a_higher_mos(train: pd.DataFrame, rng: np.random.Generator) -> None:
    """Over many attempts; the table's few show it for the best and the two worst."""
    skill = pd.Series({e.name: e.obedience + e.care + e.craft for e in EDITORS})
    panel, scene = Panel(rng), random_scene(rng)
    requests = [random_request(scene, rng) for _ in range(400)]
    mos = pd.Series(
        {e.name: np.mean([panel.rate(e.attempt(scene, r, rng).overall, rng) for r in requests]) for e in EDITORS}
    )
    assert skill.corr(mos) > 0.9
    assert (mos.idxmax(), mos.idxmin()) == (skill.idxmax(), skill.idxmin())
    seen = train.groupby("editor")["answer"].mean()
    assert seen[skill.idxmax()] > seen[skill.nsmallest(2).index].max() + 0.3


outcomes = st.builds(
    Outcome,
    degree=st.floats(0, 1),
    wrong_thing=st.sampled_from([None, 0, 1]),
    side_change=st.sampled_from(SIDE_CHANGES),
    side_severity=st.floats(0, 1),
    bystander=st.just(0),
    damage=st.sampled_from(DAMAGES),
    damage_severity=st.floats(0, 1),
)


@given(outcomes)
def test_what_an_outcome_is_worth_lies_on_the_scale_between_its_axes(outcome: Outcome) -> None:
    axes = [getattr(outcome, axis) for axis in AXES]
    assert 1 <= min(axes) <= outcome.overall + 1e-9
    assert outcome.overall - 1e-9 <= max(axes) <= 5


def test_a_perfect_outcome_is_worth_five_and_the_wrong_thing_one_on_alignment() -> None:
    assert PERFECT.overall == pytest.approx(5)
    wrong = Outcome(1.0, 0, None, 0.0, 0, None, 0.0)
    assert (wrong.alignment, wrong.fidelity, wrong.quality) == (1, 3, 5)


# --- what is drawn


def difference(scene: Scene, edited: Scene) -> float:
    """Mean over the pixels, 0..255."""
    one, other = (np.asarray(render(s, SIDE), float) for s in (scene, edited))
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize("edit_type", EDIT_TYPES)
def test_an_edit_that_is_carried_out_is_seen_and_one_that_is_not_changes_nothing(
    edit_type: str, rng: np.random.Generator
) -> None:
    for _ in range(5):
        scene = random_scene(rng)
        request = random_request(scene, rng, edit_type)
        assert request.edit_type == edit_type
        none, half, full = (
            difference(scene, carry_out(scene, request, Outcome(d, None, None, 0.0, 0, None, 0.0)))
            for d in (0.0, 0.5, 1.0)
        )
        assert none == 0 < half
        assert full > 0.2


@pytest.mark.parametrize("kind", SIDE_CHANGES)
def test_a_side_change_is_seen_beside_the_edit(kind: str, rng: np.random.Generator) -> None:
    scene = random_scene(rng)
    request = random_request(scene, rng, "add")
    side = Outcome(1.0, None, kind, 1.0, 0, None, 0.0)
    assert difference(carry_out(scene, request, PERFECT), carry_out(scene, request, side)) > 0.2


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_seen_and_worse_when_severe(kind: str, rng: np.random.Generator) -> None:
    scene = random_scene(rng)
    request = random_request(scene, rng)
    whole = np.asarray(draw_edit(scene, request, PERFECT, SIDE, rng), float)
    assert np.array_equal(render(carry_out(scene, request, PERFECT), SIDE), whole)
    harm = [
        np.abs(np.asarray(damage(render(carry_out(scene, request, PERFECT), SIDE), kind, severity, rng)) - whole)
        for severity in (0.2, 1.0)
    ]
    assert 0 < harm[0].mean() < harm[1].mean()


def test_an_unknown_style_is_named(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=f"unknown style 'fresco': one of {', '.join(STYLES)}"):
        stylise(render(random_scene(rng), SIDE), "fresco")
