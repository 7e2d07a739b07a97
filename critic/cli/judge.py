"""`critic judge`: a file or folder of edits, scored by something else than the critic."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from critic.cli.bulk import bulk_options, finish
from critic.scoring.judges import SCALES, Judge, JudgeError
from critic.scoring.judges.editscore import BACKBONES, Backbone, EditScoreJudge

if TYPE_CHECKING:  # what works is imported where it does: torch takes seconds, which --help needn't wait for
    from PIL import Image

    from critic.edits import Edit
    from critic.results import Result

_METRICS = {
    "psnr": "PSNR, of the edited picture against the source.",
    "ssim": "SSIM, of the edited picture against the source.",
    "colour_difference": "Colour difference, of the edited picture against the source.",
    "noise": "Noise estimate, of the edited picture alone.",
    "blur": "Blur effect, of the edited picture alone.",
}
_AT_ONCE = 16
"""Edits that a judge which takes one at a time is given in one call: what a kill costs at most."""
_BATCHES_AT_ONCE = 4
"""Batches of requests that a server is sent in one call."""


@click.group(
    "judge",
    epilog="""\b
Examples:
  critic judge ssim pairs.csv --out ssim.jsonl
  critic judge viescore pairs.csv --out viescore.jsonl -m http://127.0.0.1:8000/v1
  critic judge editscore edits/ --out editscore.jsonl""",
)
def command() -> None:
    """Score edits by another judge, so that it can be measured as the critic is.

    PAIRS, --out and what becomes of failures are as in `critic score`. The score in the file is from 1 to 5,
    higher is better; the judge's own is kept in `raw`, in the range that is given here. See docs/score.md.
    """


_Command = Callable[..., None]


def _judge(name: str, what: str) -> Callable[[_Command], click.Command]:
    """A command of the group that takes pairs, with the judge's range in its help."""

    def register(function: _Command) -> click.Command:
        for option in (
            bulk_options,
            click.option(
                "--out", required=True, type=click.Path(path_type=Path), help="The .jsonl file to append to."
            ),
            click.argument("pairs", type=click.Path(path_type=Path)),
        ):
            function = option(function)
        scale = SCALES[name]
        mapped = "linearly" if scale.linear else "in the same order, see docs/score.md"
        text = f"{what}\n\nIts own range: {scale}. It is mapped onto 1 to 5 {mapped}."
        return command.command(name, help=text, short_help=f"{what} [{scale}]")(function)

    return register


def _score(
    opened: Callable[[], Judge],
    settings: Mapping[str, Any],
    batch_size: int,
    resize: "Callable[[Image.Image], Image.Image] | None" = None,
    *,
    pairs: Path,
    out: Path,
    retry_failed: bool,
    limit: int | None,
    **columns: str | None,
) -> None:
    from critic.data.readers.rows import SourceError
    from critic.edits import Edit
    from critic.engines.http import ServerError
    from critic.scoring.inputs import read_pairs
    from critic.scoring.resumable import OutputError, score_to_file

    try:
        table = replace(read_pairs(pairs, **columns), resize=resize)
        if table.generated:
            raise SourceError(f"{pairs} has pictures that were made from text, and these judges judge edits alone")
        judge = opened()

        def judge_edits(items: "Sequence[Edit]") -> "list[Result]":
            return judge([item for item in items if isinstance(item, Edit)])

        tally = score_to_file(
            table,
            lambda: judge_edits,
            out,
            {"judge": judge.name, **settings},
            batch_size=batch_size,
            retry_failed=retry_failed,
            limit=limit,
        )
    except (SourceError, OutputError, ServerError, JudgeError) as error:
        raise click.ClickException(str(error)) from None
    finish(tally, out)


def _metric(name: str) -> None:
    @_judge(name, _METRICS[name])
    def score(**given: Any) -> None:
        from critic.scoring.judges.metrics import MetricJudge

        _score(lambda: MetricJudge(name), {}, _AT_ONCE, **given)


for _name in _METRICS:
    _metric(_name)


@_judge("viescore", "Any model behind an OpenAI-compatible endpoint, asked as VIEScore does.")
@click.option(
    "-m",
    "--model",
    required=True,
    help="The address of the server up to /v1, and #NAME if it serves several models.",
)
@click.option("--key-variable", help="The environment variable with the server's API key.  [default: no key]")
@click.option(
    "--max-tokens",
    default=1024,
    show_default=True,
    type=click.IntRange(min=1),
    help="Tokens that an answer may take.",
)
@click.option(
    "--batch-size", default=16, show_default=True, type=click.IntRange(min=1), help="Requests at a time."
)
def _viescore(model: str, key_variable: str | None, max_tokens: int, batch_size: int, **given: Any) -> None:
    from critic.engines.http import HttpEngine
    from critic.scoring.judges import viescore

    address, _, served = model.partition("#")

    def opened() -> Judge:
        engine = HttpEngine(
            address,
            model=served or None,
            max_tokens=max_tokens,
            api_key_variable=key_variable,
            concurrency=batch_size,
        )
        return viescore.VieScore(engine)

    settings = {
        "contract": viescore.VieScore.contract,
        "max_tokens": max_tokens,
        "max_pixels": viescore.MAX_PIXELS,
    }
    _score(opened, settings, _BATCHES_AT_ONCE * batch_size, viescore.shrink, **given)


@_judge("editscore", "EditScore, by the package editscore (to be installed apart).")
@click.option(
    "-m",
    "--model",
    default="EditScore/EditScore-7B",
    show_default=True,
    help="The checkpoint: a folder or a name.",
)
@click.option("--base", default="Qwen/Qwen2.5-VL-7B-Instruct", show_default=True, help="What it was trained on.")
@click.option(
    "--backbone",
    type=click.Choice(BACKBONES),
    default="qwen25vl",
    show_default=True,
    help="The base's family, and what runs it.",
)
def _editscore(model: str, base: str, backbone: Backbone, **given: Any) -> None:
    settings = {"base": base, "backbone": backbone}
    _score(lambda: EditScoreJudge(model, base=base, backbone=backbone), settings, _AT_ONCE, **given)


@_judge("editreward", "EditReward, by a clone of its repository (to be had apart).")
@click.option("-m", "--model", required=True, help="The checkpoint: a folder with model.safetensors or model.pth.")
@click.option("--config", required=True, help="The repository's .yaml file that the checkpoint was trained with.")
def _editreward(model: str, config: str, **given: Any) -> None:
    from critic.scoring.judges.editreward import EditRewardJudge

    _score(lambda: EditRewardJudge(model, config=config), {"config": config}, _AT_ONCE, **given)
