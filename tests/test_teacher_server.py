"""The build stage with a teacher behind vLLM's own OpenAI-compatible server.

The tiny base can't write rationales. The test checks that a real server answers requests with two pictures, that
every answer is counted, and that none is made up.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from transformers import AutoProcessor

from critic import params
from critic.answers import parse_critique
from critic.data.minibench import make_table
from critic.data.teacher.checks import add_opening_tag, review
from critic.data.teacher.client import make_request
from critic.data.trl_datasets import load_samples
from critic.edits import TYPES, normalise
from critic.engines.server import vllm_server
from critic.pictures import decode_cell
from critic.prompts import load_contract
from critic.tables import write_parquet
from stages.build import main

ROOT = Path(__file__).parents[1]
BASE = ROOT / "assets/tiny-base"
pytestmark = [pytest.mark.e2e, pytest.mark.nightly]


@pytest.fixture
def server() -> Iterator[tuple[ExitStack, str]]:
    """A vLLM server of the tiny base on the loopback, which goes when the stack is closed, and its address."""
    with ExitStack() as running:
        yield running, running.enter_context(vllm_server(str(BASE), dtype="float32", batch_size=8))


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Six edits to train on, in a current folder that holds them and six to validate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    tables = {s: normalise(make_table(s, sources=1, side=112, seed=7), s) for s in ("train", "validation")}
    for split, edits in tables.items():
        write_parquet(edits, f"data/validated/{split}.parquet", TYPES)
    return tables["train"]


def test_a_real_servers_answers_are_all_accounted_for_and_none_is_made_up(
    server: tuple[ExitStack, str], table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    running, address = server
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["build"] |= {"direct_fraction": 0.0}
    content["profiles"]["tiny"]["build"] |= {"rationales": "teacher", "rationale_fraction": 1.0}
    content["profiles"]["tiny"]["build"]["samples_per_edit"] = 1
    content["teacher"] |= {"base_url": address, "model": str(BASE), "attempts": 2, "min_acceptance_rate": 0.0}
    content["teacher"]["sampling"] = {"temperature": 1.0, "max_tokens": 60}
    Path("params.yaml").write_text(yaml.safe_dump(content))

    main()
    printed = capsys.readouterr().out
    journal = Path("runs/teacher/journal.jsonl").read_text()
    answers = [json.loads(line) for line in journal.splitlines()]
    train = [answer for answer in answers if answer["id"] in {*table["id"]}]
    assert {answer["id"] for answer in train} == {*table["id"]}
    assert {answer["input_tokens"] for answer in train} == {tokens(row) for row in table.to_dict("records")}
    assert all(0 < answer["output_tokens"] <= 60 for answer in answers)

    limits = {name: content["teacher"][name] for name in ("tolerance", "min_chars", "max_chars")}
    mos = dict(zip(table["id"], table["mos"], strict=True))
    kept, reasons = dict[str, str](), Counter[str]()
    for answer in train:
        response = add_opening_tag(answer["text"])
        reason = review(response, mos[answer["id"]], finished=answer["finished"], **limits)
        if reason is None:
            kept[answer["id"]] = parse_critique(response).reasoning
        else:
            reasons[reason] += 1
    assert len(train) == len(kept) + reasons.total() <= 2 * len(table)
    of_train, _ = printed.split("validation: ")
    assert f"train: {len(kept)} of 6 edits have a rationale" in of_train
    assert f"; {6 - len(kept)} rejected, 0 failed" in of_train
    assert {name: int(n) for n, name in re.findall(r"^  (\d+) x (\w+)$", of_train, re.MULTILINE)} == reasons

    samples = load_samples("data/sft/train.parquet", load_contract("tiny")).select_columns(["id", "completion"])
    for sample in samples:
        critique = parse_critique(sample["completion"][0]["content"][0]["text"])
        assert (critique.reasoning, critique.answer) == (kept.get(sample["id"], ""), f"{mos[sample['id']]:.2f}")

    running.close()
    made = Path("data/sft/train.parquet").read_bytes()
    main()
    assert Path("data/sft/train.parquet").read_bytes() == made
    assert Path("runs/teacher/journal.jsonl").read_text() == journal


def tokens(row: Mapping[Any, Any]) -> int:
    """How many tokens the teacher's prompt of a row is with both its pictures, by transformers."""
    system, user = make_request(row, params.load(params.Teacher), 0)["messages"]
    text = user["content"][-1]
    messages = [
        {"role": "system", "content": system["content"]},
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, text]},
    ]
    processor = AutoProcessor.from_pretrained(BASE)
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    pictures = [decode_cell(image) for image in row["images"]]
    return len(processor(text=[prompt], images=[pictures])["input_ids"][0])
