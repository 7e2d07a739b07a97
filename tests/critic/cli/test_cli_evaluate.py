"""`critic eval`, `critic compare` and `critic rank` as commands: what they print, write and refuse."""

import json
import os
import re
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from click.testing import Result as Outcome

from critic.cli import main
from critic.cli.evaluate import BY_COMMAND
from critic.evaluation.published import load_published
from critic.evaluation.report import BY_STAGE
from critic.pictures import data_uri, decode
from critic.results import Result

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "tests/critic/pictures"
EDITS = 60
COMMANDS = ["eval", "compare", "rank"]


def named(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


Run = Callable[..., Outcome]


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a study (study.csv, study.parquet), its pairs and two critics' scores are; elm is better than oak."""
    rng = np.random.default_rng(0)
    editors = np.array(["elm", "oak"] * (EDITS // 2))
    mos = np.clip(rng.normal(2.5, 0.6, EDITS) + (editors == "elm"), 1, 5).round(2)
    study = pd.DataFrame(
        {
            "id": [f"e{i:02}" for i in range(EDITS)],
            "source_id": [f"s{i // 2:02}" for i in range(EDITS)],
            "instruction": "make it red",
            "mos": mos,
            "editor": editors,
        }
    )
    study.to_csv(tmp_path / "study.csv", index=False)
    images = [[{"bytes": picture(seed), "path": None} for seed in (0, 1)]] * EDITS
    study.assign(images=images).to_parquet(tmp_path / "study.parquet")
    study[["id", "source_id", "editor"]].to_csv(tmp_path / "pairs.csv", index=False)
    for name, noise in (("good", 0.3), ("poor", 1.5)):
        scores = np.clip(mos + rng.normal(0, noise, EDITS), 1, 5).round(2)
        verdicts = [
            Result(edit, float(score), "ok", raw=f"<answer>{score}</answer>")
            for edit, score in zip(study["id"], scores, strict=True)
        ]
        verdicts[7] = Result("e07", None, "truncated", raw="<think>[/red] :boom:")
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{verdict.to_json()}\n" for verdict in verdicts))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:
    def invoke(line: str) -> Outcome:
        return CliRunner().invoke(main, [*shlex.split(line), "--n-boot", "100"])

    return invoke


def test_a_reader_of_the_json_that_stops_early_is_no_error(run: Run) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = run(f"eval good.jsonl --against study.csv --json /dev/fd/{writer}")
    os.close(writer)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.stderr == ""


def test_eval_says_how_good_and_how_sure(run: Run) -> None:
    result = run("eval good.jsonl --against study.csv")
    assert result.exit_code == 0, result.output
    assert re.match(r"good\.jsonl: main score 0\.\d{3} \(0\.\d{3} to 0\.\d{3}\) with failures counted as the "
                    r"farthest score, the lowest of 2 policies, on 60 edits of 30 source images; "
                    r"59 scored, 1 truncated",
                    " ".join(result.output.split()))  # fmt: skip
    for part in ("coverage", "pairwise accuracy, 30 pairs", "slope of MOS", "By editor", "2 to 3", "1 dropped"):
        assert part in result.output
    assert "failures counted as the farthest score" in result.output
    assert "failures counted as the training mean" not in result.output


@pytest.mark.parametrize(
    ("mos", "policy"),
    [
        pytest.param(3.1, "left out", id="worst-flatters"),  # it counts the lowest MOS of all as 1
        pytest.param(5.0, "counted as the farthest score", id="dropping-flatters"),
    ],
)
def test_failing_where_a_policy_flatters_does_not_raise_the_headline(
    run: Run, folder: Path, mos: float, policy: str
) -> None:
    """A poor critic of edits above the middle, which fails on all those of one MOS."""
    rng = np.random.default_rng(1)
    opinions = np.array([*rng.uniform(3.3, 4.9, 40), *[mos] * 20])
    scores = [*np.clip(opinions[:40] + rng.normal(0, 0.8, 40), 1, 5), *[None] * 20]
    ids = [f"e{number:02}" for number in range(60)]
    pd.DataFrame({"id": ids, "mos": opinions}).to_csv(folder / "one.csv", index=False)
    pd.DataFrame({"id": ids, "score": scores}).to_csv(folder / "fails.csv", index=False)
    result = run("eval fails.csv --against one.csv --train-mean 3 --json out.json")
    figures = {way: of["value"] for way, of in json.loads((folder / "out.json").read_text())["policies"].items()}
    assert (figures["worst"] > figures["dropped"]) == (mos == 3.1)
    assert f"main score {min(figures.values()):.3f}" in result.output
    assert f"with failures {policy}, the lowest of 3 policies," in " ".join(result.output.split())


def test_the_train_mean_brings_its_policy(run: Run) -> None:
    assert (
        "failures counted as the training mean" in run("eval good.jsonl --against study.csv --train-mean 3").output
    )
    refused = run("eval good.jsonl --against study.csv --policy train_mean")
    assert refused.exit_code == 2 and "needs --train-mean" in refused.output


def test_eval_writes_the_same_json_each_time(run: Run, folder: Path) -> None:
    for name in ("one", "two"):
        assert run(f"eval good.jsonl --against study.csv --json {name}.json --again poor.jsonl").exit_code == 0
    one = (folder / "one.json").read_text()
    assert one == (folder / "two.json").read_text()
    figures = json.loads(one)
    assert figures["metrics"]["main_score"]["value"] > 0.5
    assert figures["reliability"]["of"] == "seeds"
    assert {"policies", "pairs", "groups", "bands", "calibration", "upstream"} <= {*figures}


def test_the_page_says_who_made_it(run: Run, folder: Path) -> None:
    result = run("eval good.jsonl --against study.parquet --train-mean 3 --html page.html")
    assert result.exit_code == 0, result.output
    page = (folder / "page.html").read_text()
    assert BY_COMMAND in page and BY_STAGE not in page
    assert "make it red" in page


def test_published_figures_are_listed_but_not_beside_those_on_a_split_that_is_not_known(
    run: Run, folder: Path
) -> None:
    result = run("eval good.jsonl --against study.csv --published ie-bench-4k --json out.json")
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "Beside published figures: IE-Bench-4k" in output
    assert "No published figure is comparable with these." in output
    assert "not comparable, the split of ours isn't known" in output
    assert json.loads((folder / "out.json").read_text())["published"]["rows"] == []
    assert "published" not in run("eval good.jsonl --against study.csv").output


def test_on_agiqa_figures_of_quality_stand_beside_published_ones(run: Run, folder: Path) -> None:
    study = pd.read_csv(folder / "study.csv")
    pictures = pd.DataFrame({"id": study["id"], "prompt": study["source_id"], "mos_quality": study["mos"] - 0.5})
    pictures.to_csv(folder / "agiqa.csv", index=False)
    line = "eval good.jsonl --against agiqa.csv --mos-column mos_quality --published"
    output = run(f"{line} agiqa-3k").output
    assert re.search(r"good +0\.\d{4} +0\.\d{4}\s+OneAlign, published +0\.8020 +0\.8380", output), output
    refused = run(f"{line} ie-bench-4k")
    assert refused.exit_code == 2 and "leave --mos-column out" in " ".join(refused.output.split())


def test_each_published_benchmark_can_be_chosen_and_is_described() -> None:
    (option,) = [option for option in named("eval").params if option.name == "published"]
    assert isinstance(option.type, click.Choice)
    of_opinions = {name for name, one in load_published().benchmarks.items() if one.pairs is None}
    assert {*option.type.choices} == of_opinions - {"ie-bench"}  # listed with ie-bench-4k


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "eval good.jsonl --against study.csv --published agiqa-3k",
            "are of quality: give --mos-column mos_quality",
        ),
        ("eval good.jsonl --against study.csv --train-mean 3 --html page.html", "study.csv has no column images"),
        ("eval good.jsonl --against study.parquet --html page.html", "give --train-mean"),
        ("eval good.jsonl --against pairs.csv", "pairs.csv has no column mos"),
        ("eval study.csv --against study.csv", "study.csv has no column score"),
        (
            "eval good.jsonl --against study.csv --json study.csv/figures.json",
            "study.csv/figures.json can't be written",
        ),
        ("eval gone.jsonl --against study.csv", "'gone.jsonl' does not exist"),
        ("compare good.jsonl --against study.csv", "at least two files"),
        ("compare good.jsonl good.jsonl --against study.csv", "two critics have the same name"),
        ("compare good.jsonl poor.jsonl --name A --against study.csv", "1 --name for 2 files"),
        ("compare good.jsonl poor.jsonl --against pairs.csv", "no column mos"),
        ("rank good.jsonl --pairs pairs.csv --by camera", "pairs.csv has no column camera"),
        ("rank good.jsonl --pairs pairs.csv --by id", "no group to rank"),
    ],
)
def test_what_can_not_be_done_is_said(run: Run, line: str, says: str) -> None:
    result = run(line)
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit)  # an error message, no traceback
    assert says in " ".join(result.output.split())


COMMANDS_ON_A_STUDY = [
    "eval good.jsonl --against study.csv",
    "compare good.jsonl poor.jsonl --against study.csv",
    "rank good.jsonl --pairs pairs.csv",
]


@pytest.mark.parametrize("line", COMMANDS_ON_A_STUDY)
def test_figures_go_to_a_fifo_or_through_a_link_and_leave_these(run: Run, folder: Path, line: str) -> None:
    assert run(f"{line} --json plain.json").exit_code == 0
    figures = (folder / "plain.json").read_bytes()
    (folder / "link.json").symlink_to("target.json")
    assert run(f"{line} --json link.json").exit_code == 0
    assert (folder / "link.json").is_symlink() and (folder / "target.json").read_bytes() == figures
    os.mkfifo(folder / "fifo")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((folder / "fifo").read_bytes)
        assert run(f"{line} --json fifo").exit_code == 0
        assert read.result() == figures
    assert (folder / "fifo").is_fifo()


@pytest.mark.parametrize("line", COMMANDS_ON_A_STUDY)
@pytest.mark.parametrize(("target", "reason"), [("/dev/full", "No space left on device"), (".", "is a directory")])
def test_a_full_disk_or_a_folder_is_an_error_of_one_line(run: Run, line: str, target: str, reason: str) -> None:
    result = run(f"{line} --json {target}")
    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit)
    assert reason in " ".join(result.output.split()) and "Traceback" not in result.output


@pytest.mark.parametrize("kind", ["index", "category"])
def test_tables_of_pandas_are_read_by_every_command(run: Run, folder: Path, kind: str) -> None:
    """With the ids as pandas' index, or with categorical columns."""
    study = pd.read_csv(folder / "study.csv")
    scores = study[["id"]].assign(score=np.linspace(1, 5, EDITS), mode="direct")
    other = scores.assign(score=scores["score"][::-1].to_numpy())
    for name, table in {"truth": study, "one": scores, "two": other}.items():
        table.to_parquet(folder / f"{name}-plain.parquet")
        saved = table.set_index("id") if kind == "index" else table.astype(dict.fromkeys(["id"], "category"))
        text = saved.select_dtypes("str").columns
        saved.astype(dict.fromkeys(text, "category")).to_parquet(folder / f"{name}-saved.parquet")
    for line in (
        "eval one-{0}.parquet --against truth-{0}.parquet",
        "compare one-{0}.parquet two-{0}.parquet --name one --name two --against truth-{0}.parquet",
        "rank one-{0}.parquet --pairs truth-{0}.parquet",
    ):
        for form in ("plain", "saved"):
            result = run(f"{line.format(form)} --json {form}.json")
            assert result.exit_code == 0, result.output
        assert (folder / "plain.json").read_text() == (folder / "saved.json").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "eval open.csv --against study.csv",
        "eval good.jsonl --against open.csv --mos-column score",
        "eval good.jsonl --again open.csv --against study.csv",
        "compare open.csv good.jsonl --against study.csv",
        "rank open.csv --pairs pairs.csv",
        "rank good.jsonl --pairs open.csv --by score",
    ],
)
def test_an_open_quote_swallows_no_rows(run: Run, folder: Path, line: str) -> None:
    (folder / "open.csv").write_text('id,score\na,3.5\n"b,2\nc,4\nd" x,1\n')
    result = run(line)
    assert result.exit_code == 1
    assert "open.csv line 3: the row that begins here is not CSV" in " ".join(result.output.split())


def test_pictures_of_the_page_are_upright_and_on_white(run: Run, folder: Path) -> None:
    files = [(PICTURES / name).read_bytes() for name in ("exif6.png", "plain.png", "pal_trns.png")]
    study = pd.read_parquet(folder / "study.parquet")
    turned, plain, transparent = ({"bytes": file, "path": None} for file in files)
    images = [[turned, plain], [plain, transparent]] * (EDITS // 2)
    study.assign(images=images).to_parquet(folder / "photos.parquet")
    result = run("eval good.jsonl --against photos.parquet --train-mean 3 --html page.html")
    assert result.exit_code == 0, result.output
    shown = {*re.findall(r'src="(data:image/jpeg[^"]+)"', (folder / "page.html").read_text())}
    assert shown == {data_uri(decode(file), 320) for file in files}
    assert data_uri(decode(files[0]), 320) == data_uri(decode(files[1]), 320)


def test_a_picture_of_the_page_that_can_not_be_decoded_is_an_error(run: Run, folder: Path) -> None:
    study = pd.read_parquet(folder / "study.parquet")
    study.assign(images=[[{"bytes": b"no picture", "path": None}] * 2] * EDITS).to_parquet(folder / "bad.parquet")
    result = run("eval good.jsonl --against bad.parquet --train-mean 3 --html page.html")
    assert result.exit_code == 1 and "e00" in result.output and not (folder / "page.html").exists()


def test_compare_names_the_better_critic(run: Run, folder: Path) -> None:
    result = run(
        "compare good.jsonl poor.jsonl --name 7B --name [red] --against study.csv --metric mae --json out.json"
    )
    assert result.exit_code == 0, result.output
    assert "7B is better" in result.output
    assert "[red]" in result.output  # a name isn't markup
    [pair] = json.loads((folder / "out.json").read_text())["pairs"]
    assert (pair["a"], pair["b"], pair["n"]) == ("7B", "[red]", EDITS)
    assert pair["differences"]["mae"]["high"] < 0 and pair["williams"]["p"] < 0.01


def test_compare_draws_what_it_says(run: Run, folder: Path) -> None:
    hostile = "<script>x</script>"
    result = run(
        f"compare good.jsonl poor.jsonl --name good --name '{hostile}' --against study.csv --html page.html"
    )
    assert result.exit_code == 0, result.output
    page = (folder / "page.html").read_text()
    assert page.count("<svg") == 3 and "Closer to the MOS" in page and "main score" in page
    assert "edits of study.csv. It isn&#39;t known whether study.csv shares source images" in page
    assert "<script" not in page and "&lt;script" in page
    for id in re.findall(r'id="([^"]+)"', page):
        assert page.count(f'id="{id}"') == 1


def test_rank_draws_what_it_says(run: Run, folder: Path) -> None:
    result = run("rank good.jsonl --pairs study.csv --html page.html")
    assert result.exit_code == 0, result.output
    page = (folder / "page.html").read_text()
    assert page.count("<svg") == 3 and "Wins" in page
    wins = [int(share) for share in re.findall(r">(\d+)%</text>", page)]
    assert len(wins) == 2 and sum(wins) <= 100 and max(wins) > 50, "elm over oak, and oak over elm"


def test_compare_takes_the_names_of_the_files(run: Run) -> None:
    assert "good - poor" in run("compare good.jsonl poor.jsonl --against study.csv").output


def test_rank_puts_the_better_editor_first(run: Run, folder: Path) -> None:
    result = run("rank good.jsonl --pairs pairs.csv --json out.json")
    assert result.exit_code == 0, result.output
    assert re.search(r"elm over oak +29 +\+\d\.\d\d \(.*\) +<0\.001 +better", result.output)  # one of 30 failed
    assert "Holm" not in result.output  # a single comparison
    ranking = json.loads((folder / "out.json").read_text())
    assert [group["group"] for group in ranking["groups"]] == ["elm", "oak"]
    assert ranking["leads"][0]["difference"]["low"] > 0


def test_rank_calls_no_one_better_by_few_pictures(run: Run, folder: Path) -> None:
    pd.read_csv(folder / "pairs.csv").head(18).to_csv(folder / "few.csv", index=False)
    lines = (folder / "good.jsonl").read_text().splitlines(keepends=True)
    (folder / "few.jsonl").write_text("".join(lines[:18]))
    result = run("rank few.jsonl --pairs few.csv")
    assert re.search(r"elm over oak +8 +\+\d\.\d\d +n/a +fewer than 10 pictures", result.output), result.output


def test_compare_calls_no_one_better_by_few_pictures(run: Run, folder: Path) -> None:
    study = pd.read_csv(folder / "study.csv")
    study.assign(source_id=[f"s{row % 9}" for row in range(EDITS)]).to_csv(folder / "few.csv", index=False)
    result = run("compare good.jsonl poor.jsonl --against few.csv")
    assert re.search(r"good - poor +\+\d\.\d{3} +n/a +fewer than 10 source images", result.output), result.output


def test_a_rescaled_critic_is_no_other_by_any_test(run: Run, folder: Path) -> None:
    scores = pd.DataFrame(json.loads(line) for line in (folder / "good.jsonl").read_text().splitlines())
    scores.assign(score=1.5 + scores["score"] / 3)[["id", "score"]].to_csv(folder / "scaled.csv", index=False)
    result = run("compare good.jsonl scaled.csv --against study.csv --policy dropped")
    assert result.exit_code == 0, result.output
    assert re.search(r"good - scaled +59( +\+0\.00, p 1\.000){2}", result.output), result.output


def test_reliability_that_can_not_be_told_says_why(run: Run, folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "good.jsonl").read_text().splitlines()]
    sampled = [line | {"mode": "average", "samples": [line["score"], None]} for line in lines]
    (folder / "sampled.jsonl").write_text("".join(json.dumps(line) + "\n" for line in sampled))
    output = " ".join(run("eval sampled.jsonl --against study.csv").output.split())
    assert "Reliability: no figure, 0 edits have a score in all 2 runs" in output
    assert "By the rules of IE-Critic-R1: no figure, its script reads one answer an edit" in output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(name: str) -> None:
    command = named(name)
    assert "Examples:\n" in (command.help or "")
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert all(option.help for option in options)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_and_those_of_the_docs_can_be_parsed(name: str, folder: Path) -> None:
    command = named(name)
    docs = (ROOT / "docs/evaluate.md").read_text()
    lines = re.findall(rf"^ *critic {name} (.*)$", (command.help or "") + docs, re.MULTILINE)
    assert lines
    for line in lines:
        arguments = shlex.split(line, comments=True)
        for file in filter(lambda argument: Path(argument).suffix in (".jsonl", ".csv", ".parquet"), arguments):
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).touch()
        command.make_context(name, arguments, parent=click.Context(main, **main.context_settings))


def test_every_option_is_in_the_docs() -> None:
    docs = (ROOT / "docs/evaluate.md").read_text()
    for name in COMMANDS:
        for option in named(name).params:
            if isinstance(option, click.Option):
                assert option.opts[0] in docs, f"docs/evaluate.md lacks {option.opts[0]} of critic {name}"
