"""`from critic import Critic`: any picture or table in, a result for each edit out, here and through a service."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from critic import Critic
from critic.checkpoints import CheckpointError
from critic.engines import load
from critic.engines.base import GREEDY, Completion, Request, Sampling
from critic.extras import MissingExtra
from critic.prompts import ContractError
from critic.results import Result
from critic.tables import TableError

MAKE_IT = "make it red"


class Painter:
    """An engine whose score of an edit is 1 + red / 60 of the edited picture."""

    name = "painter"

    def __init__(self) -> None:
        self.opened: list[tuple[str, str, str | None]] = []
        self.calls: list[int] = []
        self.closed = False

    def complete(self, requests: Sequence[Request], sampling: Sampling = GREEDY) -> list[Completion]:
        self.calls.append(len(requests))
        reds = [np.asarray(request.pictures[-1])[0, 0, 0] for request in requests]
        return [Completion(f"Red.</think><answer>{1 + red / 60:.2f}</answer>", 9, True) for red in reds]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Painter:
    painter = Painter()

    def opened(kind: str, model: str, *_: Any, **given: Any) -> Painter:
        painter.opened.append((kind, model, given["dtype"]))
        return painter

    monkeypatch.setattr(load, "open_engine", opened)
    return painter


@pytest.fixture(params=["here", "service"])
def critic(request: pytest.FixtureRequest, engine: Painter, tmp_path: Path) -> Iterator[Critic]:
    if request.param == "here":
        opened = Critic.load(tmp_path, contract="tiny")
    else:
        opened = Critic.load(request.getfixturevalue("service").url)
    with opened as critic:
        yield critic


def red(value: int) -> Image.Image:
    return Image.new("RGB", (56, 56), (value, 9, 9))


# --- one edit


@pytest.mark.parametrize("form", ["image", "path", "text", "bytes", "array", "tensor"])
def test_a_picture_in_any_form_has_the_same_score(
    critic: Critic, form: str, tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    file = tmp_path / "red.png"
    red(120).save(file)
    pixels = np.asarray(red(120))
    forms: dict[str, Any] = {
        "image": red(120),
        "path": file,
        "text": str(file),
        "bytes": file.read_bytes(),
        "array": pixels,
        "tensor": torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255,
    }
    result = critic.score(red(0), forms[form], MAKE_IT, id="mine")
    assert isinstance(result, Result)
    assert (result.id, result.score, result.status, result.mode) == ("mine", 3.0, "ok", "greedy")


def test_a_picture_that_cannot_be_read_is_a_result_without_a_score(critic: Critic, tmp_path: Path) -> None:
    gone, other = (critic.score(red(0), edited, MAKE_IT) for edited in (tmp_path / "no.png", b"GIF89a"))
    assert (gone.score, gone.status) == (None, "bad_input")
    assert "No such file" in gone.detail
    assert (other.score, other.status in ("bad_input", "refused")) == (None, True), "the service reads its files"


def test_an_unknown_mode_or_option_is_refused(critic: Critic) -> None:
    with pytest.raises(ValidationError, match="'greedy', 'direct', 'average' or 'expected'"):
        critic.score(red(0), red(1), MAKE_IT, mode="best")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        critic.score_many([], temprature=0.5)


def test_options_reach_the_scorer(critic: Critic) -> None:
    result = critic.score(red(0), red(60), MAKE_IT, mode="average", samples=3)
    assert (result.score, result.mode) == (2.0, "average")


def test_it_scores_in_an_event_loop_too(critic: Critic) -> None:
    async def scores() -> list[Result]:
        one, many = await asyncio.gather(
            critic.score_async(red(0), red(60), MAKE_IT), critic.score_many_async([(red(0), red(120), MAKE_IT)])
        )
        return [one, *many]

    assert [result.score for result in asyncio.run(scores())] == [2.0, 3.0]


# --- many


def test_many_edits_keep_their_order_and_bad_ones_their_place(critic: Critic) -> None:
    results = critic.score_many([(red(0), red(60), MAKE_IT), (red(0), b"", MAKE_IT), (red(0), red(120), MAKE_IT)])
    assert [(result.id, result.score) for result in results] == [("0", 2.0), ("1", None), ("2", 3.0)]
    assert results[1].status == "bad_input"


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    rows = []
    for value in (0, 60, 120):
        red(value).save(tmp_path / f"{value}.png")
        rows.append(
            {"id": f"red-{value}", "source": str(tmp_path / "0.png"), "edited": str(tmp_path / f"{value}.png")}
        )
    return pd.DataFrame(rows).assign(instruction=MAKE_IT)


@pytest.mark.parametrize("form", ["csv", "parquet", "frame"])
def test_a_table_has_its_own_ids(critic: Critic, table: pd.DataFrame, tmp_path: Path, form: str) -> None:
    table.loc[1, "edited"] = str(tmp_path / "gone.png")
    table.to_csv(tmp_path / "pairs.csv", index=False)
    table.to_parquet(tmp_path / "pairs.parquet")
    results = critic.score_many(table if form == "frame" else tmp_path / f"pairs.{form}")
    assert [(result.id, result.score) for result in results] == [
        ("red-0", 1.0),
        ("red-60", None),
        ("red-120", 3.0),
    ]
    assert "gone.png" in results[1].detail and "No such file" in results[1].detail


def test_a_table_without_a_column_is_named_with_it(critic: Critic, table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"the table has no column .*instruction"):
        critic.score_many(table.drop(columns="instruction"))


def test_a_long_table_is_scored_in_parts(engine: Painter, tmp_path: Path) -> None:
    with Critic.load(tmp_path, contract="tiny", batch_size=8) as critic:
        assert len(critic.score_many([(red(0), red(60), MAKE_IT)] * 80)) == 80
    assert engine.calls == [32, 32, 16]


def test_a_frame_may_hold_pictures_and_lack_ids(critic: Critic, table: pd.DataFrame) -> None:
    frame = table.assign(
        edited=[red(60), Path(table["edited"][1]), red(120)], id=pd.array(["a", None, "c"], "string")
    )
    results = critic.score_many(frame)
    assert [(result.id, result.score) for result in results] == [("a", 2.0), ("00001", 2.0), ("c", 3.0)]


@pytest.mark.parametrize("instruction", [None, float("nan"), 3])
def test_an_instruction_that_is_not_text_costs_its_own_row_alone(critic: Critic, instruction: Any) -> None:
    bad, good = critic.score_many([(red(0), red(60), instruction), (red(0), red(60), MAKE_IT)])
    assert (bad.score, bad.status) == (None, "bad_input") and "is not text" in bad.detail
    assert good.score == 2.0


def test_a_path_that_no_system_can_have_costs_its_own_row_alone(critic: Critic) -> None:
    bad, good = critic.score_many([("a\0b", red(60), MAKE_IT), (red(0), red(60), MAKE_IT)])
    assert (bad.status, good.score) == ("bad_input", 2.0)


# --- which critic


def test_without_a_gpu_it_is_transformers_in_float32(
    engine: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    critic = Critic.load(tmp_path, contract="tiny")
    assert engine.opened == [("transformers", str(tmp_path), "float32")]
    assert repr(critic) == f"<Critic {tmp_path}, transformers in float32, contract tiny version 1>"


def test_on_a_gpu_it_is_vllm_in_bfloat16(engine: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    Critic.load(tmp_path, contract="tiny")
    assert engine.opened == [("vllm", str(tmp_path), "bfloat16")]


def test_another_server_needs_a_contract_and_is_asked_over_http(engine: Painter) -> None:
    with pytest.raises(ContractError, match="doesn't give its prompt contract: name it"):
        Critic.load("http://127.0.0.1:8000/v1#critic")
    Critic.load("http://127.0.0.1:8000/v1#critic", contract="tiny")
    assert engine.opened == [("http", "http://127.0.0.1:8000/v1#critic", None)]


def test_what_everybody_must_know_of_a_critic_is_logged(
    engine: Painter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Critic.load(tmp_path, contract="tiny"):
        assert "has seen drawn shapes alone" in caplog.text


def test_closing_frees_the_engine(engine: Painter, tmp_path: Path) -> None:
    with Critic.load(tmp_path, contract="tiny"):
        assert not engine.closed
    assert engine.closed


def test_a_model_that_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no folder models/grpo: run `make repro`"):
        Critic.load("models/grpo")


def test_a_picture_without_a_source_is_refused_where_it_cannot_be_judged(critic: Critic) -> None:
    result = critic.score(None, red(60), "a red square")
    assert (result.score, result.status) == (None, "bad_input")
    assert "source" in result.detail


def test_what_a_service_has_of_its_own_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="has its own engine and max_tokens and batch_size: leave it out"):
        Critic.load("http://127.0.0.1:3000", engine="vllm", max_tokens=80, batch_size=16)


def test_an_engine_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError(name="vllm")

    monkeypatch.setattr(load, "open_engine", missing)
    with pytest.raises(MissingExtra, match=r"^the engine vllm needs vllm: pip install 'edit-critic\[gpu\]'"):
        Critic.load(tmp_path, contract="tiny", engine="vllm")


def test_a_key_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ValueError, match="the environment variable MY_KEY is not set or empty"):
        Critic.load("http://127.0.0.1:3000", key_variable="MY_KEY")


def test_a_closed_critic_says_so(engine: Painter, tmp_path: Path) -> None:
    critic = Critic.load(tmp_path, contract="tiny")
    critic.close()
    critic.close()
    with pytest.raises(RuntimeError, match="this critic is closed: load it again"):
        critic.score(red(0), red(60), MAKE_IT)


def test_a_service_says_its_notice_once(service: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Critic.load(service.url) as critic:
        for _ in range(3):
            critic.score(red(0), red(60), MAKE_IT)
    assert caplog.text.count("drawn shapes alone") == 1
