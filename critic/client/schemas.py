"""The service's requests and answers, as its OpenAPI document shows them.

A picture is a string: base64 of a PNG, JPEG or WebP file, a data URL of one, or, if the operator allows its host,
an `https://` URL. Scores are from 1 (very bad) to 5 (excellent), or null. Null isn't a low score: `status` says
why there is none.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, FiniteFloat

from critic.results import Failure, Mode

Scale = Literal["mos", "unit"]
"""The scale of rewards: the score from 1 to 5, or (score - 1) / 4, from 0 to 1."""

LOST = (Failure.UNREACHABLE, Failure.SERVER_ERROR)
"""Statuses of edits whose answers were lost because vLLM ended. Another request may bring them."""

EncodedPicture = Annotated[str, Field(min_length=1, description="Base64, a data URL, or an allowed https:// URL.")]
Instruction = Annotated[
    str, Field(min_length=1, description="What the editor was asked to do.", examples=["Make the cat red"])
]
Id = Annotated[str, Field(max_length=200, description="Your id of the edit. Default: its index, from 0.")]


class Options(BaseModel, extra="forbid"):
    """How to score edits, as in `critic score`: see docs/score.md."""

    mode: Mode = Field(
        "greedy",
        description="greedy: the likeliest answer. direct: the likeliest answer without reasoning. average: the "
        "mean of `samples` answers. expected: the mean over the probabilities of the answer's digits.",
    )
    samples: Annotated[int, Field(ge=2, le=32, description="Answers to average in mode average.")] = 8
    temperature: Annotated[float, Field(gt=0, le=2, description="Sampling temperature in mode average.")] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**32, description="Seed of the samples in mode average.")] = 0

    @property
    def answers(self) -> int:
        """Answers of the critic for one edit."""
        return self.samples if self.mode == "average" else 1


class Pair(BaseModel, extra="forbid"):
    """An edit to score."""

    source: EncodedPicture
    edited: EncodedPicture
    instruction: Instruction
    id: Id | None = None


class Batch(Options):
    """Edits to score, with options."""

    pairs: Annotated[list[Pair], Field(min_length=1)]


class Rewards(Batch):
    """Edits to reward, with options."""

    scale: Scale = Field("mos", description="mos: the score, from 1 to 5. unit: (score - 1) / 4, from 0 to 1.")


class Candidate(BaseModel, extra="forbid"):
    """One of several edits of a source."""

    edited: EncodedPicture
    id: Id | None = None


class Comparison(Options):
    """Edits of one source and one instruction, to be ranked."""

    source: EncodedPicture
    instruction: Instruction
    edits: Annotated[list[Candidate], Field(min_length=2)]


class Scored(BaseModel):
    """The critic's result for one edit: the fields of `critic.results.Result`, and its provenance."""

    id: str
    score: Annotated[float, Field(ge=1, le=5)] | None = Field(
        description="1 (very bad) to 5 (excellent); null unless `status` is ok."
    )
    status: str = Field(description="ok, or why there is no score.", examples=["ok"])
    detail: str = Field(default="", description="What exactly failed.")
    mode: Mode
    argmax: float | None = Field(default=None, description="The score of the likeliest answer.")
    spread: float | None = Field(
        default=None, description="Standard deviation of the samples, or of the answer's distribution."
    )
    samples: list[float | None] = Field(
        default=[], description="Scores of the samples in mode average; null if failed."
    )
    sub_scores: dict[str, float] = Field(default={}, description="Scores of alignment, fidelity and quality.")
    reasoning: str = ""
    raw: str = Field(default="", description="The model's whole answer.")
    prompt_tokens: int = 0
    tokens: int = 0
    latency: float = Field(description="Seconds from the engine's first request to the result.")
    model: str = Field(description="The weights: sha256:... or name@commit.")
    contract: str = Field(description="SHA-256 of the prompt contract.")
    version: str = Field(description="The release of the critic, as `name:version`.")
    notice: str = Field(default="", description="What everybody must know of this critic, if anything.")
    request_id: str
    receipt: str = Field(default="", description="Send it to POST /feedback to rate this result.")


class ScoredBatch(BaseModel):
    """Results, one per pair, in order."""

    request_id: str
    verdicts: list[Scored]


class Ranked(Scored):
    """A result and its rank."""

    rank: int | None = Field(description="1 is best; equal scores share a rank. null: the edit has no score.")


class Ranking(BaseModel):
    """Edits from best to worst; edits without a score come last."""

    request_id: str
    ranking: list[Ranked]


class Rewarded(BaseModel):
    """Rewards, one per pair, in order."""

    request_id: str
    rewards: list[FiniteFloat | None] = Field(description="On the requested scale; null if there is no score.")
    statuses: list[str] = Field(description="ok, or why the reward is null.")
    details: list[str]
    version: str
    model: str
    contract: str


class Rating(BaseModel, extra="forbid"):
    """A person's own score of an edit that the critic scored."""

    receipt: Annotated[str, Field(min_length=1, max_length=65536, description="The result's receipt.")]
    rater: Annotated[str, Field(min_length=1, max_length=200, description="The person's name, always the same.")]
    score: Annotated[float, Field(ge=1, le=5, description="1 (very bad) to 5 (excellent).")]
    comment: Annotated[str, Field(max_length=2000)] = ""


class ShownPair(BaseModel):
    """Two edits of one source, in an order that is drawn for each request."""

    receipt: str = Field(description="Send it to POST /v1/pairs/vote with the choice.")
    instruction: str
    source: str = Field(description="A data URL, as left and right.")
    left: str
    right: str


class NextPair(BaseModel):
    """The next pair to vote on, and how many there are."""

    pair: ShownPair | None = Field(description="null: the person has voted on all pairs.")
    voted: int = Field(description="Pairs that the person has voted on.")
    pairs: int = Field(description="All pairs of the study.")


class Vote(BaseModel, extra="forbid"):
    """A person's choice between two edits."""

    receipt: Annotated[str, Field(min_length=1, max_length=65536, description="The pair's receipt.")]
    choice: Literal["left", "right", "tie"] = Field(description="The better edit; tie: neither is better.")


class Kept(BaseModel):
    """A rating or a vote is stored."""

    id: int


class Problem(BaseModel):
    """Why a request wasn't served."""

    code: str = Field(examples=["too_many_pixels"])
    message: str
    request_id: str


class Refusal(BaseModel):
    """The body of every error (status 400 and above)."""

    error: Problem
