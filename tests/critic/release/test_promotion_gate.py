"""The gate promotes a critic that is significantly better on the same test split, and no other."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dvc.repo import Repo
from hypothesis import given, settings
from hypothesis import strategies as st

from critic.evaluation.leak import Split
from critic.params import Gate
from critic.release.git import git
from critic.release.promotion_gate import GateError, TestResult, decide, read_test_result, record

RULES = Gate(
    margin=0.0,
    confidence=0.95,
    n_boot=300,
    min_main_score=0.5,
    min_coverage=0.98,
    coverage_margin=0.005,
    type_margin=0.02,
    length_factor=1.5,
    size_factor=1.1,
    probes=["black", "noise"],
)
GAIN = "lower bound of the gain"
SOURCES, EDITS = 60, 5
KINDS = np.array(["add", "remove", "style"])
GIVEN, BY_SOURCE = (Split(name, SOURCES * EDITS) for name in ("given", "by_source"))
OFFICIAL = Split("official", SOURCES * EDITS, 120, 40)


def result(noise: float, seed: int = 0, label: str = "v1.0.0") -> TestResult:
    """A critic whose scores have normal noise with this standard deviation, on 300 edits."""
    mos = np.random.default_rng(99).uniform(1, 5, SOURCES * EDITS).round(2)
    rng = np.random.default_rng(seed)
    numbers = np.arange(SOURCES * EDITS)
    table = pd.DataFrame(
        {
            "id": [f"test-{number:03d}" for number in numbers],
            "source_id": [f"source-{number // EDITS}" for number in numbers],
            "edit_type": KINDS[numbers % 3],
            "mos": mos,
            "score": (mos + rng.normal(0, noise, len(mos))).clip(1, 5) if noise else mos,
            "tokens": 40,
        }
    )
    return TestResult(label, f"model-{noise}-{seed}", "test-1", 1000, table, GIVEN, probes(black=1, noise=1))


def probes(**highest: float | None) -> list[dict[str, object]]:
    return [{"probe": name, "rate": {"value": 0.4, "high": high}} for name, high in highest.items()]


CHAMPION = result(0.9)


def changed(of: TestResult, **columns: object) -> TestResult:
    return replace(of, predictions=of.predictions.assign(**columns))


def missed(champion: TestResult | None, challenger: TestResult, rules: Gate = RULES) -> list[str]:
    """The names of the failed checks; also asserts that a critic is promoted if there are none."""
    decision = decide(champion, challenger, rules, seed=7)
    names = [check.name for check in decision.checks if not check.passed]
    assert decision.promote == (not names)
    return names


def test_a_clearly_better_critic_is_promoted() -> None:
    decision = decide(CHAMPION, result(0.5, 1, "the checkout"), RULES, seed=7)
    assert decision.promote
    assert decision.summary.startswith("Promote: Its gain in main score over v1.0.0 is +0.")


def test_a_worse_critic_is_refused_with_the_difference() -> None:
    decision = decide(CHAMPION, result(1.2, 1), RULES, seed=7)
    assert not decision.promote
    assert "The lower bound of the gain is -0." in decision.summary


def test_a_critic_that_may_be_equal_is_refused() -> None:
    assert missed(CHAMPION, result(0.88, 1)) == [GAIN]


def test_a_margin_asks_for_more_and_a_negative_one_for_less() -> None:
    better, like = result(0.6, 1), result(0.88, 1)
    assert missed(CHAMPION, better) == []
    assert missed(CHAMPION, better, RULES.model_copy(update={"margin": 0.2})) == ["lower bound of the gain"]
    assert missed(CHAMPION, like, RULES.model_copy(update={"margin": -0.1})) == []


def test_a_critic_that_does_not_look_is_refused_with_or_without_a_champion() -> None:
    def probed(**highest: float | None) -> TestResult:
        return replace(result(0.5, 1), probes=probes(**highest))

    looks, blind = probed(black=0.5, noise=None, swapped=0.2), probed(black=0.49, noise=0.6)
    assert missed(CHAMPION, looks) == missed(None, looks) == []
    assert missed(CHAMPION, blind) == missed(None, blind) == ["rate of probe black"]
    with pytest.raises(GateError, match=r"gate.probes in params.yaml has dark: choose of swapped,"):
        decide(None, blind, RULES.model_copy(update={"probes": ["dark"]}), seed=7)


def test_a_probe_that_was_not_measured_is_said_and_fails_unless_it_cannot_be() -> None:
    rules = RULES.model_copy(update={"probes": ["black", "noise", "unedited"]})
    good = result(0.5, 1)
    assert missed(None, replace(good, probes=()), rules) == [f"rate of probe {name}" for name in rules.probes]
    decision = decide(None, replace(good, probes=probes(black=None)), rules, seed=7)
    assert decision.reasons == (
        "The rate of probe noise is not measured; it must be not significantly below 0.5, in reports/probes.json.",
    )
    page = decision.markdown()
    assert "| not measured | not significantly below 0.5; there are too few source images | yes |" in page
    assert "generated pictures have no source | yes |" in page
    no_good_edits = replace(good, probes=probes(mirrored=1, paraphrased=1))
    assert missed(None, no_good_edits, rules) == [f"rate of probe {name}" for name in rules.probes]


def test_the_champion_itself_is_refused() -> None:
    decision = decide(CHAMPION, replace(CHAMPION, label="the checkout"), RULES, seed=7)
    assert not decision.promote and decision.reasons == ("It is the critic of v1.0.0.",)


def test_different_test_splits_are_not_compared() -> None:
    other = replace(result(0.2, 1), test="test-2")
    assert "was evaluated on a different test split" in decide(CHAMPION, other, RULES, seed=7).summary
    fewer = replace(CHAMPION, predictions=CHAMPION.predictions.iloc[1:])
    assert "was evaluated on a different test split" in decide(fewer, result(0.2, 1), RULES, seed=7).summary


@pytest.mark.parametrize("test", ["test-1", "test-2"])
@pytest.mark.parametrize("official_is_new", [True, False])
def test_an_official_split_is_not_compared_with_one_by_source(test: str, official_is_new: bool) -> None:
    splits = (BY_SOURCE, OFFICIAL) if official_is_new else (OFFICIAL, BY_SOURCE)
    champion, challenger = replace(CHAMPION, split=splits[0]), replace(result(0.2, 1), split=splits[1], test=test)
    decision = decide(champion, challenger, RULES, seed=7)
    assert not decision.promote
    assert "can't be compared: check out v1.0.0" in decision.summary
    assert "by_source, without a leak" in decision.summary and f"official, {OFFICIAL.leak}" in decision.summary


def test_splits_with_another_leak_are_not_compared() -> None:
    more = replace(result(0.2, 1), split=replace(OFFICIAL, leaked=200))
    assert "can't be compared" in decide(replace(CHAMPION, split=OFFICIAL), more, RULES, seed=7).summary
    alike = replace(result(0.2, 1), split=BY_SOURCE)
    assert "can't be compared" not in decide(CHAMPION, alike, RULES, seed=7).summary


@pytest.mark.parametrize("noise", [0.3, 1.2, 0.9])
@pytest.mark.parametrize("champion", [None, replace(CHAMPION, split=OFFICIAL)])
def test_a_decision_on_a_split_that_leaks_says_so(
    noise: float, champion: TestResult | None, tmp_path: Path
) -> None:
    """In the summary (of the commit, the tag and the notification), in the JSON and on the page."""
    decision = decide(champion, replace(result(noise), split=OFFICIAL), RULES, seed=7)
    assert f"The challenger's test split {OFFICIAL.leak}." in decision.summary
    page = record(tmp_path, decision)
    assert OFFICIAL.leak in page.read_text()
    assert OFFICIAL.leak in json.loads(page.with_suffix(".json").read_text())["facts"]["leak"]


def test_without_a_leak_no_decision_speaks_of_one() -> None:
    decision = decide(CHAMPION, replace(result(0.3, 1), split=BY_SOURCE), RULES, seed=7)
    assert decision.promote and "leak" not in decision.markdown()


def test_answers_without_a_score_count_as_the_worst_ones() -> None:
    good = result(0.3, 1)
    scores = good.predictions["score"].where(np.arange(300) >= 30)
    assert "coverage" in missed(CHAMPION, changed(good, score=scores))
    lazy = changed(good, score=good.predictions["score"].where(np.arange(300) >= 200))
    assert {GAIN, "main score", "coverage"} <= {*missed(CHAMPION, lazy)}


def test_coverage_may_not_fall_behind_the_champions_though_it_is_high() -> None:
    good = result(0.3, 1)
    assert missed(CHAMPION, changed(good, score=good.predictions["score"].where(np.arange(300) >= 3))) == [
        "coverage"
    ]


def test_an_edit_type_that_got_worse_is_named() -> None:
    good, bad = result(0.1, 1), result(4.0, 2)
    style = good.predictions["edit_type"] == "style"
    mixed = good.predictions["score"].where(~style, bad.predictions["score"])
    lenient = RULES.model_copy(update={"margin": -1.0})
    assert missed(CHAMPION, changed(good, score=mixed), lenient) == ["main score of style"]


def test_types_of_few_source_images_are_not_judged() -> None:
    one = CHAMPION.predictions["source_id"] == "source-1"
    rare = CHAMPION.predictions["edit_type"].where(~one, "rare")
    decision = decide(changed(CHAMPION, edit_type=rare), changed(result(0.5, 1), edit_type=rare), RULES, seed=7)
    assert [check.name for check in decision.checks if "rare" in check.name] == []
    without = [replace(e, predictions=e.predictions.drop(columns="edit_type")) for e in (CHAMPION, result(0.5, 1))]
    assert missed(*without) == []


def test_few_source_images_promote_nobody() -> None:
    few = CHAMPION.predictions["source_id"].isin([f"source-{number}" for number in range(9)])
    champion, good = (replace(e, predictions=e.predictions[few]) for e in (CHAMPION, result(0.1, 1)))
    assert missed(champion, good) == ["number of source images"]


def test_noise_seldom_trips_the_types() -> None:
    """Two critics as good as each other: a type counts as worse in at most 5 of 100 cases."""
    rules = RULES.model_copy(update={"type_margin": 0.0, "n_boot": 200})
    alarms = 0
    for seed in range(40):
        names = missed(result(0.9, seed), result(0.9, seed + 1000), rules)
        alarms += any(name.startswith("main score of") for name in names)
    assert alarms <= 6  # 40 draws of 5 % are more than 6 once in 160 times


def test_longer_answers_and_larger_weights_are_refused() -> None:
    good = result(0.3, 1)
    assert missed(CHAMPION, changed(good, tokens=61)) == ["mean number of tokens per answer"]
    assert missed(CHAMPION, replace(good, size=1101)) == ["size in bytes"]
    assert missed(CHAMPION, replace(changed(good, tokens=60), size=1100)) == []


def test_the_first_critic_needs_no_champion_but_must_be_some_good() -> None:
    assert missed(None, result(0.3)) == []
    assert missed(None, result(4.0)) == ["main score"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), noise=st.floats(0.3, 2.0), share=st.floats(0.0, 0.5))
def test_a_critic_that_only_got_worse_is_never_promoted(seed: int, noise: float, share: float) -> None:
    """Some of the champion's answers are replaced by the farthest from the MOS."""
    champion = result(noise, seed)
    spoilt = np.random.default_rng(seed).random(300) < share
    worst = np.where(champion.predictions["mos"] <= 3, 5.0, 1.0)
    challenger = changed(champion, score=np.where(spoilt, worst, champion.predictions["score"]))
    assert not decide(champion, replace(challenger, model="another"), RULES, seed=7).promote


def test_the_order_of_rows_means_nothing() -> None:
    good = result(0.5, 1)
    shuffled = replace(good, predictions=good.predictions.sample(frac=1, random_state=3))
    assert decide(CHAMPION, shuffled, RULES, seed=7) == decide(CHAMPION, good, RULES, seed=7)


def test_predictions_without_rows_or_with_an_id_twice_are_an_error() -> None:
    with pytest.raises(GateError, match="have no rows"):
        decide(None, replace(CHAMPION, predictions=CHAMPION.predictions.iloc[:0]), RULES, seed=7)
    twice = pd.concat([CHAMPION.predictions, CHAMPION.predictions.iloc[:1]])
    with pytest.raises(GateError, match="an id twice"):
        decide(None, replace(CHAMPION, predictions=twice), RULES, seed=7)


def test_damaged_predictions_are_an_error(tmp_path: Path) -> None:
    Repo.init(str(tmp_path), no_scm=True).close()
    path = tmp_path / "reports/predictions/grpo.parquet"
    path.parent.mkdir(parents=True)
    CHAMPION.predictions.to_parquet(path)
    path.write_bytes(path.read_bytes()[:-9])
    why = r"of the checkout can't be read \(reports/predictions/grpo\.parquet is not a whole Parquet file"
    with pytest.raises(GateError, match=why):
        read_test_result(tmp_path)


def test_decisions_are_numbered_pages_and_json_beside_each_other(tmp_path: Path) -> None:
    refused = record(tmp_path, decide(CHAMPION, result(1.2, 1), RULES, seed=7))
    promoted = record(tmp_path, decide(CHAMPION, result(0.3, 1), RULES, seed=7))
    assert [page.name for page in (refused, promoted)] == ["0001-refused.md", "0002-promoted.md"]
    told = json.loads(promoted.with_suffix(".json").read_text())
    assert told["promote"] and told["checks"][0]["passed"]
    page = refused.read_text()
    assert page.startswith("# Refuse\n") and "300 edits of 60 source images, test-1" in page and "**no**" in page


PIPELINE = """\
stages:
  all:
    cmd: python run.py
    outs: [data/validated, data/validation.json, models/grpo, reports/predictions]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose pipeline ran on an official split."""
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    git(tmp_path, "config", "user.name", "Ann")
    git(tmp_path, "config", "user.email", "ann@example.org")
    for folder in ("data/validated", "models/grpo", "reports/predictions"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "models/grpo/weights").write_text("1")
    (tmp_path / "reports/probes.json").write_text('{"probes": [{"probe": "black"}]}')
    for path in ("data/validated/test.parquet", "reports/predictions/grpo.parquet"):
        CHAMPION.predictions.to_parquet(tmp_path / path)
    Repo.init(str(tmp_path)).close()
    write_report(tmp_path, {"name": "official", "leak": {"edits": 120, "sources": 40}})
    return tmp_path


def write_report(checkout: Path, split: dict[str, object] | None) -> None:
    """Write data/validation.json and dvc.lock, and commit."""
    report = {"splits": {"test": {"edits": SOURCES * EDITS}}} | ({"split": split} if split else {})
    (checkout / "data/validation.json").write_text(json.dumps(report))
    with Repo(str(checkout)) as repo:
        repo.commit(force=True)
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--allow-empty", "-m", "Run")


def test_the_split_is_read_from_what_validate_wrote(checkout: Path) -> None:
    assert read_test_result(checkout).split == OFFICIAL
    assert read_test_result(checkout, "HEAD").split == OFFICIAL


def test_the_probes_are_the_checkouts_and_no_release_needs_any(checkout: Path) -> None:
    assert read_test_result(checkout).probes == [{"probe": "black"}]
    (checkout / "reports/probes.json").unlink()
    assert read_test_result(checkout, "HEAD").probes == ()
    with pytest.raises(GateError, match=r"reports/probes\.json.*run `dvc repro`"):
        read_test_result(checkout)


def test_a_release_from_before_splits_were_recorded_has_no_leak_but_a_checkout_must_say(checkout: Path) -> None:
    write_report(checkout, None)
    assert read_test_result(checkout, "HEAD").split == GIVEN
    with pytest.raises(GateError, match="run `dvc repro validate`"):
        read_test_result(checkout)
