"""The report: what a reader must find on the page, and what a dataset can't put there."""

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from critic.data.generated import Words
from critic.evaluation.bootstrap import Difference
from critic.evaluation.evaluate import Evaluation, compute_metrics
from critic.evaluation.leak import Split
from critic.evaluation.probing import measure_probes
from critic.evaluation.report import build_report
from critic.evaluation.seeds import GAINS, Gain, Run, Seeds
from critic.evaluation.sub_scores import SubScores
from critic.scoring.judges.image_metrics import BASELINES

EDITS = 40
HOSTILE = "</p><script>alert('$x^2$')</script> & \"make it <b>red</b>\""


def picture(level: int) -> dict[str, object]:
    buffer = BytesIO()
    Image.new("RGB", (24, 24), (level, 90, 255 - level)).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture(scope="module")
def edits() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    quality = rng.uniform(1, 5, EDITS)
    return pd.DataFrame(
        {
            "id": [f"e{i:02}" for i in range(EDITS)],
            "source_id": [f"s{i // 2:02}" for i in range(EDITS)],
            "images": [[picture(i), picture(i + 50)] for i in range(EDITS)],
            "instruction": [HOSTILE] * EDITS,
            "mos": quality,
            "edit_type": ["colour", "add"] * (EDITS // 2),
            "editor": [HOSTILE] * EDITS,
            "ratings": list(np.clip(quality[:, None] + rng.normal(0, 0.7, (EDITS, 4)), 1, 5)),
        }
    )


def answers(edits: pd.DataFrame, noise: float, failed: int, seed: int) -> pd.DataFrame:
    """A model's predictions, of which the first `failed` could not be parsed."""
    scores = edits["mos"] + np.random.default_rng(seed).normal(0, noise, EDITS)
    fails = np.arange(EDITS) < failed
    return pd.DataFrame(
        {
            "id": edits["id"],
            "score": scores.clip(1, 5).mask(fails).astype("Float64"),
            "status": np.where(fails, "no_answer", "ok"),
            "reasoning": [f"Reasoning {i}. {HOSTILE}" for i in edits["id"]],
            "response": [f"Response {i}. {HOSTILE}" for i in edits["id"]],
        }
    )


@pytest.fixture(scope="module")
def predictions(edits: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        "base": answers(edits, noise=3, failed=EDITS, seed=1),
        "sft": answers(edits, noise=2, failed=1, seed=2),
        "grpo": answers(edits, noise=0.3, failed=2, seed=3),
    }


@pytest.fixture(scope="module")
def baselines(edits: pd.DataFrame) -> pd.DataFrame:
    noise = np.random.default_rng(4).normal(size=(EDITS, len(BASELINES)))
    return pd.DataFrame(noise, columns=list(BASELINES)).assign(id=edits["id"])


@pytest.fixture(scope="module")
def evaluation(predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame) -> Evaluation:
    return compute_metrics(predictions, baselines, edits, train_mean=3, n_boot=60)


def render(
    evaluation: Evaluation,
    predictions: dict[str, pd.DataFrame],
    edits: pd.DataFrame,
    without: Sequence[str] = (),
    **more: Any,
) -> str:
    steps = np.arange(1, 41)
    return build_report(
        evaluation,
        predictions,
        edits,
        training=pd.DataFrame(
            {
                "step": steps,
                "reward": 1.6 + steps / 400,
                "reward_std": 0.1,
                "completion_length": 60.0 + steps % 3,
                "format_rate": 0.9,
                "floor_share": 0.1,
                "score_entropy": 2.0,
                "truncated_share": 0.0,
            }
        ).drop(columns=[*without]),
        validation=pd.DataFrame({"step": [0, 20, 40], "main_score": [0.5, 0.6, 0.65]}),
        meta={"profile": "tiny", "params": f"grpo:\n  beta: 0.0  # {HOSTILE}"},
        **more,
    )


@pytest.fixture(scope="module")
def page(evaluation: Evaluation, predictions: dict[str, pd.DataFrame], edits: pd.DataFrame) -> str:
    return render(evaluation, predictions, edits)


class Page(HTMLParser):
    """A page's tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of_class(self, name: str) -> int:
        return sum(name in (attrs.get("class") or "").split() for _, attrs in self.tags)


def test_the_same_input_gives_the_same_bytes(
    page: str,
    evaluation: Evaluation,
    predictions: dict[str, pd.DataFrame],
    edits: pd.DataFrame,
) -> None:
    assert render(evaluation, predictions, edits) == page


def test_the_page_needs_nothing_from_outside_and_runs_nothing(page: str) -> None:
    tags = Page(page).tags
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    for _, attrs in tags:
        for name in ("src", "href", "xlink:href"):
            target = attrs.get(name) or "#"
            assert target.startswith(("#", "data:image/"))
    assert "url(http" not in page


def test_words_of_datasets_and_models_stay_words(page: str) -> None:
    parsed = Page(page)
    assert "<script" not in page
    assert "<b>red</b>" not in page
    assert parsed.text.count(HOSTILE) >= 10


def test_the_headline_says_what_was_found(page: str, evaluation: Evaluation) -> None:
    assert evaluation.difference is not None and evaluation.difference.low > 0
    assert evaluation.error_difference is not None and evaluation.error_difference.high < 0
    main, error = (
        " against ".join(f"{evaluation.models[name][metric].value:.2f}" for name in ("grpo", "sft"))
        for metric in ("main_score", "mae")
    )
    assert f"<h1>GRPO judges edits better than SFT: main score {main}, error {error} points</h1>" in page


@pytest.mark.parametrize(
    ("main", "error", "finding"),
    [
        ((-0.1, 0.1), (-0.2, -0.1), "GRPO errs less than SFT, without a significant difference in main score"),
        ((0.1, 0.2), (-0.1, 0.1), "GRPO judges edits better than SFT"),
        ((0.1, 0.2), (0.1, 0.2), "GRPO orders edits better than SFT, but errs more"),
        ((-0.2, -0.1), (0.1, 0.2), "GRPO judges edits worse than SFT"),
        ((-0.2, -0.1), (-0.2, -0.1), "GRPO orders edits worse than SFT, but errs less"),
        ((-0.1, 0.1), (-0.1, 0.1), "No significant difference between GRPO and SFT"),
    ],
)
def test_the_headline_weighs_correlation_and_error(
    main: tuple[float, float],
    error: tuple[float, float],
    finding: str,
    evaluation: Evaluation,
    predictions: dict[str, pd.DataFrame],
    edits: pd.DataFrame,
) -> None:
    gains = [Difference(sum(interval) / 2, *interval, p=0.5) for interval in (main, error)]
    found = replace(evaluation, difference=gains[0], error_difference=gains[1])
    assert f"<h1>{finding}: main score " in render(found, predictions, edits)


def test_a_difference_that_may_be_chance_is_not_sold_as_one(
    baselines: pd.DataFrame, predictions: dict[str, pd.DataFrame], edits: pd.DataFrame
) -> None:
    twins = {"sft": predictions["grpo"], "grpo": predictions["grpo"]}
    evaluation = compute_metrics(twins, baselines, edits, train_mean=3, n_boot=20)
    html = render(evaluation, twins, edits)
    assert "<h1>No significant difference between GRPO and SFT: " in html
    assert "The difference in main score is not significant." in html


def test_models_classic_metrics_and_people_share_a_table(page: str, evaluation: Evaluation) -> None:
    table = Page(page[page.index("<table>") : page.index("</table>")]).text
    labels = ["Base", "SFT", "GRPO", *(b.label for b in BASELINES.values()), "Another panel"]
    assert all(label in table for label in labels)
    for scores in (*evaluation.models.values(), *evaluation.baselines.values()):
        assert f"{scores['main_score'].value:.3f}".replace("-", "\N{MINUS SIGN}") in table
    assert "n/a" in table


def test_every_model_has_a_scatter_and_every_grouping_its_bars(page: str) -> None:
    figures = [attrs["aria-label"] for tag, attrs in Page(page).tags if tag == "svg"]
    assert figures == [
        "Predicted against MOS: Base",
        "Predicted against MOS: SFT",
        "Predicted against MOS: GRPO",
        "Main score by edit type",
        "Main score by editor",
        "Reward by GRPO step",
        "Completion length by GRPO step",
        "Validation main score by GRPO step",
        "Format rate by GRPO step",
        "Share at the floor by GRPO step",
        "Score entropy by GRPO step",
        "Truncated share by GRPO step",
    ]


def test_without_edits_with_a_mos_no_share_at_the_floor_is_drawn(
    page: str, evaluation: Evaluation, predictions: dict[str, pd.DataFrame], edits: pd.DataFrame
) -> None:
    found = render(evaluation, predictions, edits, without=["floor_share"])
    assert found.count("by GRPO step") < page.count("by GRPO step")
    assert "Share at the floor" not in found and "Score entropy by GRPO step" in found


def test_the_legend_leaves_out_who_has_no_bars(page: str) -> None:
    """The base never answers: it has the same score everywhere, which correlates with nothing."""
    (legend,) = re.findall(r'<ul class="legend">.*?</ul>', page, re.DOTALL)
    assert re.findall(r"series-(\d)\"></span>(\w+)", legend) == [("1", "SFT"), ("2", "GRPO")]


def test_ids_are_unique_over_all_figures(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_ten_examples_show_both_images_and_failures_as_failures(page: str) -> None:
    parsed = Page(page)
    assert parsed.of_class("example") == 10
    assert parsed.of_class("failure") == 2
    assert sum(tag == "img" for tag, _ in parsed.tags) == 20
    assert parsed.text.count("failed: no answer") == 2


def test_a_failure_shows_what_was_written_and_others_their_reasoning(page: str) -> None:
    text = Page(page).text
    assert "Response e00." in text and "Response e01." in text
    assert "Reasoning e00." not in text


def test_failures_are_counted_under_three_policies(page: str) -> None:
    section = Page(page[page.index("Failed answers</h2>") :]).text
    for policy in ("left out", "as the farthest score", "as the training mean"):
        assert policy in section
    assert f"no answer {EDITS}" in section


def test_stated_sub_scores_have_a_table_only_where_people_rated_the_axes(
    page: str, evaluation: Evaluation, predictions: dict[str, pd.DataFrame], edits: pd.DataFrame
) -> None:
    assert "Stated sub-scores" not in page
    scores = evaluation.models["grpo"]
    drift = Difference(-0.123, -0.2, -0.05, p=0.01)
    found = SubScores(
        {name: {"alignment": scores} for name in ("sft", "grpo")},
        {"alignment": {"srcc": drift, "mae": drift}},
        {"sft": scores["plcc"]},
    )
    html = render(evaluation, predictions, edits, sub_scores=found)
    section = html[html.index("Stated sub-scores") :]
    table = Page(section[: section.index("</table>")]).text
    for text in ("Alignment SRCC", "Alignment MAE", "Score follows", "GRPO minus SFT", "\N{MINUS SIGN}0.123"):
        assert text in table
    assert "Quality" not in table and "Base" not in table
    assert table.count(f"{scores['srcc'].value:.3f}") >= 2


def test_the_probes_have_a_table_with_their_verdict(
    page: str, evaluation: Evaluation, predictions: dict[str, pd.DataFrame], edits: pd.DataFrame
) -> None:
    assert "Does it look?" not in page
    ids = [f"{name}:{n}" for n in range(12) for name in ("unchanged", "jpeg_5")]
    probing = measure_probes(dict.fromkeys(ids, 3.0), ids, [id.partition(":")[2] for id in ids])
    html = render(evaluation, predictions, edits, probing=probing)
    section = Page(html[html.index("Does it look?") :].partition("</section>")[0]).text
    assert "Every score is 3.00" in section and "jpeg 5" in section and "100%" in section


def test_agiqa_has_a_table_only_where_it_was_scored(
    page: str, evaluation: Evaluation, predictions: dict[str, pd.DataFrame], edits: pd.DataFrame
) -> None:
    assert "AGIQA" not in page
    generated = {model: dict.fromkeys(("quality", "alignment"), evaluation.models[model]) for model in predictions}
    html = render(evaluation, predictions, edits, generated=generated)
    section = html[html.index("AGIQA-3k") :]
    table = Page(section[: section.index("</table>")]).text
    for label in ("Base", "SFT", "GRPO", "Quality PLCC", "Quality SRCC", "Alignment Main score"):
        assert label in table
    assert table.count(f"{evaluation.models['grpo']['srcc'].value:.3f}") >= 2


def test_data_without_extras_still_makes_a_report(
    baselines: pd.DataFrame, predictions: dict[str, pd.DataFrame], edits: pd.DataFrame
) -> None:
    plain = edits.drop(columns=["edit_type", "editor", "ratings"])
    only = {"grpo": predictions["grpo"]}
    html = build_report(
        compute_metrics(only, baselines, plain, train_mean=3, n_boot=20),
        only,
        plain,
        training=pd.DataFrame(),
        validation=pd.DataFrame(),
        meta={},
    )
    parsed = Page(html)
    assert "By group" not in parsed.text and "GRPO training" not in parsed.text
    assert sum(tag == "svg" for tag, _ in parsed.tags) == 1


def test_pictures_without_a_source_are_called_pictures_and_shown_alone(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    pictures = edits.assign(images=[images[1:] for images in edits["images"]])
    found = compute_metrics(predictions, baselines[["id", "blur"]], pictures, train_mean=3, n_boot=20)
    assert {*found.baselines} == {"blur"}
    leak = Split("given", EDITS, 30, 12, "prompts")
    html = build_report(
        found,
        predictions,
        pictures,
        training=pd.DataFrame(),
        validation=pd.DataFrame(),
        meta={},
        split=leak,
        words=Words("picture", "pictures", "prompts"),
    )
    text = " ".join(Page(html).text.split())
    assert f"On {EDITS} test pictures of {EDITS // 2} prompts" in text
    assert "leaks prompts: 30 of 40 test pictures share one of 12 prompts with train or validation" in text
    assert "from resampling prompts" in text and "A dot is a picture" in text
    assert "judges edits" not in text and "over all pictures" in text
    assert 'alt="generated image"' in html and 'alt="source image"' not in html


# --- seeds


def seeds(*gains: float) -> Seeds:
    """Seeds from 7 on, of which GRPO's main score is that much above SFT's 0.7 and its MAE below 0.5."""

    def run(seed: int, gain: float) -> Run:
        scores = {"main_score": 0.7 + gain, "mae": 0.5 - gain}
        found = {
            "main_score": Gain(value=gain, low=gain - 0.01, high=gain + 0.01),
            "mae": Gain(value=-gain, low=-gain - 0.01, high=-gain + 0.01),
        }
        sft = {"main_score": 0.7, "mae": 0.5}
        return Run(
            seed=seed, models={"sft": sft, "continued sft": sft, "grpo": scores}, gains=dict.fromkeys(GAINS, found)
        )

    return Seeds(runs=[run(7 + i, gain) for i, gain in enumerate(gains)], epochs=0.512, rate=1e-4)


def test_the_lead_and_a_table_say_what_other_seeds_bring(
    evaluation: Evaluation, predictions: dict[str, pd.DataFrame], edits: pd.DataFrame
) -> None:
    html = render(evaluation, predictions, edits, seeds=seeds(0.02, -0.01, 0.03))
    text = " ".join(Page(html).text.split())
    assert (
        "Over 3 trainings that differ in their seed, GRPO over SFT was +0.020 (\u22120.010 to +0.030) in main "
        "score and \u22120.020 (\u22120.030 to +0.010) in error at the median (lowest to highest)"
    ) in text
    assert "0.51 epochs at a rate of 0.0001" in text
    assert "Seed 7Seed 8Seed 9Median" in text
    assert "GRPO over continued SFT" in text


def test_without_seeds_the_page_says_how_to_get_them(page: str) -> None:
    assert "With other seeds" not in page
    assert "<code>make seeds</code>" in page
