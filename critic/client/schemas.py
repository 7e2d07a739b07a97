"""What the service takes and gives, as its OpenAPI document shows it.

A picture is a string: base64 of a PNG, JPEG or WebP file, a data URL of one, or, if the operator allows its host,
an `https://` URL. Scores are from 1 (very bad) to 5 (excellent), or null; null is never a low score, `status` says
what it is.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from critic.results import Mode

Picture = Annotated[str, Field(min_length=1, description="Base64, a data URL, or an allowed https:// URL.")]
Instruction = Annotated[str, Field(min_length=1, description="What was asked for.", examples=["Make the cat red"])]
Name = Annotated[str, Field(max_length=200, description="Your own name for it; else its place, from 0.")]


class _Closed(BaseModel):
    """A misspelt field is an error, and not left out silently."""

    model_config = ConfigDict(extra="forbid")


class Options(_Closed):
    """How edits are scored, as `critic score` does: see docs/score.md."""

    mode: Mode = Field(
        "greedy",
        description="greedy: the likeliest answer. direct: without reasoning. average: the mean of `samples`. "
        "expected: the mean over the probabilities of the answer's digits.",
    )
    samples: Annotated[int, Field(ge=2, le=32, description="Of mode average.")] = 8
    temperature: Annotated[float, Field(gt=0, le=2, description="Of mode average.")] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**32, description="Of mode average.")] = 0


class Pair(_Closed):
    """An edit to score."""

    source: Picture
    edited: Picture
    instruction: Instruction
    id: Name | None = None


class Batch(Options):
    """Edits to score, and how."""

    pairs: Annotated[list[Pair], Field(min_length=1)]


class Rewards(Batch):
    """Edits to reward, and how."""

    scale: Literal["mos", "unit"] = Field(
        "mos", description="mos: the score, from 1 to 5. unit: (score - 1) / 4, from 0 to 1."
    )


class Candidate(_Closed):
    """One of several edits of a source."""

    edited: Picture
    id: Name | None = None


class Comparison(Options):
    """Edits of one source by one instruction, to be ranked."""

    source: Picture
    instruction: Instruction
    edits: Annotated[list[Candidate], Field(min_length=2)]


class Scored(BaseModel):
    """What the critic says of one edit: the fields of `critic.results.Result`, and where they come from."""

    id: str
    score: Annotated[float, Field(ge=1, le=5)] | None = Field(
        description="1 (very bad) to 5 (excellent); null unless `status` is ok."
    )
    status: str = Field(description="ok, or why there is no score.", examples=["ok"])
    detail: str = Field("", description="What exactly failed.")
    mode: Mode
    argmax: float | None = Field(None, description="Score of the greedy answer.")
    spread: float | None = Field(
        None, description="Standard deviation of the samples, or of the answer's distribution."
    )
    samples: list[float | None] = Field(default=[], description="Of mode average: each sample's score.")
    sub_scores: dict[str, float] = Field(default={}, description="Those of alignment, fidelity and quality.")
    reasoning: str = ""
    raw: str = Field("", description="The answer as the model wrote it.")
    prompt_tokens: int = 0
    tokens: int = 0
    latency: float = Field(description="Seconds from asking the engine to the verdict.")
    model: str = Field(description="Which weights: sha256:... or name@commit.")
    contract: str = Field(description="SHA-256 of the prompt contract.")
    version: str = Field(description="Which release of the critic, as `name:version`.")
    request_id: str
    receipt: str = Field("", description="Send it with POST /feedback to rate this very critique.")


class ScoredBatch(BaseModel):
    """Verdicts, one a pair and in their order."""

    request_id: str
    verdicts: list[Scored]


class Ranked(Scored):
    """A verdict, and its place among the others."""

    rank: int | None = Field(description="1 is best; edits of one score share a rank. null: has no score.")


class Ranking(BaseModel):
    """Edits from the best to the worst, those without a score last."""

    request_id: str
    ranking: list[Ranked]


class Rewarded(BaseModel):
    """Rewards, one a pair and in their order."""

    request_id: str
    rewards: list[FiniteFloat | None] = Field(description="On the scale asked for; null where there is no score.")
    statuses: list[str] = Field(description="ok, or why the reward is null.")
    details: list[str]
    version: str
    model: str
    contract: str


class Rating(_Closed):
    """A person's own score of a critique's edit."""

    receipt: Annotated[str, Field(min_length=1, max_length=65536, description="Of the critique.")]
    rater: Annotated[str, Field(min_length=1, max_length=200, description="Who rates: any name that stays.")]
    score: Annotated[float, Field(ge=1, le=5, description="1 (very bad) to 5 (excellent).")]
    comment: Annotated[str, Field(max_length=2000)] = ""


class Kept(BaseModel):
    """A rating is on the disk."""

    id: int


class Problem(BaseModel):
    """Why a request wasn't served."""

    code: str = Field(examples=["too_many_pixels"])
    message: str
    request_id: str


class Refusal(BaseModel):
    """The body of every answer from 400 on."""

    error: Problem
