"""params.yaml, typed: the only configuration there is.

    section = params.load(params.Grpo)
    section.learning_rate, params.seed()

The file holds `profile`, `seed`, shared sections at the top level, and under `profiles.<name>` the sections
that scale and hardware decide. A section is its shared part and the active profile's part put together. The
whole file is checked at every load, all its profiles too, so that a slip is found before hours of training.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FILE = Path("params.yaml")

Count = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class ParamsError(ValueError):
    """params.yaml cannot be used; the message names the file, the key and the fix."""


class Section(BaseModel):
    """A section of params.yaml. Its name in the file is the class's in lower case."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = cls.__name__.lower()


class Prompt(Section):
    """Which prompt contract (a name in critic/contracts, or a path), and whose user text."""

    contract: str
    user_text: Literal["contract", "dataset"]


class Model(Section):
    """The base model: a folder, or a name on the hub with a pinned revision."""

    base: str
    revision: str | None
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"]
    dtype: Literal["float32", "bfloat16"]


class Minibench(BaseModel):
    """How many source images each split of the benchmark that makes itself has, and their side in pixels."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    train_sources: Count
    validation_sources: Count
    test_sources: Count
    side: Annotated[int, Field(ge=56)]


class Hub(BaseModel):
    """A data set on the hub and the revision that is read: a commit stays, a branch or tag may move."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    dataset: str
    revision: str


class Local(BaseModel):
    """A benchmark on this machine: a folder of <split>.csv or <split>.parquet, or a file of all splits."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    path: str


class Rationales(BaseModel):
    """A released SFT set: `dataset` at `revision` on the hub, or the file `path`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    dataset: str | None = None
    revision: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if (self.dataset is None) == (self.path is None) or (self.dataset is None) != (self.revision is None):
            raise ValueError("give either dataset and revision, or path")
        return self


class Download(Section):
    """Where the benchmark comes from, `source` naming the part that is read, and what is read beside it.

    `rationales` is a released SFT set, `agiqa` the folder of AGIQA-3k's data.csv and images.
    """

    source: Literal["minibench", "hub", "local"]
    minibench: Minibench | None = None
    hub: Hub | None = None
    local: Local | None = None
    rationales: Rationales | None = None
    agiqa: str | None = None

    @model_validator(mode="after")
    def _has_what_its_source_needs(self) -> Self:
        if getattr(self, self.source) is None:
            raise ValueError(f"source {self.source} needs a part {self.source}")
        return self


class Validate(Section):
    """What a benchmark must be like; `validation_fraction` is carved from train where there is no split."""

    phash_distance: Annotated[int, Field(ge=0)]
    min_side: Count
    max_instruction_chars: Count
    validation_fraction: Fraction


class Build(Section):
    """Where the rationales of SFT come from, and the mix of its samples.

    `rationales`: worded from the sub-`scores`, anew for each sample; written once an edit by the `teacher`; or the
    `released` set as it is, which has its own mix. Of the others `samples_per_edit` are made, and
    a `direct_fraction` of all asks for a score without reasoning.
    """

    rationales: Literal["scores", "teacher", "released"]
    samples_per_edit: Count
    direct_fraction: Fraction


class Prices(BaseModel):
    """What a teacher's tokens cost, in US dollars a million."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]


class Teacher(Section):
    """Who writes the rationales where `build.rationales` is `teacher`, and what is kept of them.

    `sampling` goes into the request as it is, under the names that the server knows. The API key itself is in the
    environment variable `api_key_variable`.
    """

    base_url: str
    model: str
    api_key_variable: str | None
    sampling: dict[str, Any]
    concurrency: Count
    timeout: Positive
    max_retries: Annotated[int, Field(ge=0)]
    attempts: Count
    tolerance: Positive
    min_chars: Count
    max_chars: Count
    min_kept: Fraction
    usd_per_million_tokens: Prices | None


class Lora(BaseModel):
    """Low-rank adapters on every linear layer of the language model, merged into the weights at the end."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    rank: Count
    alpha: Count
    dropout: Fraction


class Launch(Section):
    """On how many processes, one a GPU, the trainings run; DeepSpeed shards by `zero_stage`, null for none."""

    machines: Count
    processes: Count
    zero_stage: Literal[2, 3] | None


class Training(Section):
    """What both trainings have; `save_every` so many steps a checkpoint is kept to resume from."""

    learning_rate: Positive
    lr_schedule: Literal["cosine", "linear", "constant_with_warmup"]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Positive
    warmup_fraction: Fraction
    batch_size: Count
    gradient_accumulation: Count
    gradient_checkpointing: bool
    bf16: bool
    liger: bool
    freeze_vision: bool
    lora: Lora | None
    save_every: Count


class Sft(Training):
    """Supervised fine-tuning on chain-of-thought and direct-scoring samples; `batch_size` counts samples."""

    epochs: Positive


class Reward(Section):
    """The verifiable reward, see `critic.training.rewards.compute_score`."""

    kind: Literal["l1", "l2", "laplace", "gaussian"]
    format_weight: Annotated[float, Field(ge=0)]
    strict_format: bool
    r_min: Fraction
    diff_at_rmin: Positive
    use_floor: bool


class Vllm(BaseModel):
    """vLLM rollouts: beside the trainer on its GPUs, or on a server (`trl vllm-serve`) at `server_url`.

    With `sleep` a vLLM beside the trainer gives its memory back during the update.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    mode: Literal["colocate", "server"]
    gpu_memory_utilization: Fraction
    tensor_parallel_size: Count
    sleep: bool
    server_url: str | None

    @model_validator(mode="after")
    def _knows_its_server(self) -> Self:
        if (self.mode == "server") != (self.server_url is not None):
            raise ValueError("server_url goes with mode server, and is null with mode colocate")
        if self.sleep and self.mode == "server":
            raise ValueError("sleep goes with mode colocate: a server keeps its memory")
        return self


class Preflight(BaseModel):
    """The rollouts' check before GRPO, see `critic.training.rollout_check`: on so many prompts, within so many nats."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    prompts: Count
    max_logprob_gap: Positive


class Collapse(BaseModel):
    """When GRPO gives up, see `critic.training.collapse.Monitor`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    min_format_rate: Fraction
    min_score_entropy: Annotated[float, Field(ge=0)]
    patience: Count


class Grpo(Training):
    """Group-relative policy optimisation; `batch_size` counts completions, a device and a step.

    `rollouts` says what samples the completions. `vllm` is read with `rollouts: vllm` alone.
    """

    steps: Count
    num_generations: Annotated[int, Field(ge=2)]
    temperature: Positive
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_completion_tokens: Count
    beta: Annotated[float, Field(ge=0)]
    num_iterations: Count
    epsilon_low: Positive
    epsilon_high: Positive
    delta: Positive
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"]
    scale_rewards: Literal["group", "batch", "none"]
    validation_every: Count
    validation_edits: Count
    rollouts: Literal["transformers", "vllm"]
    vllm: Vllm | None
    preflight: Preflight
    collapse: Collapse

    @model_validator(mode="after")
    def _has_what_its_rollouts_need(self) -> Self:
        if self.rollouts == "vllm" and self.vllm is None:
            raise ValueError("rollouts: vllm needs a part vllm")
        return self


class Evaluate(Section):
    """How critics are scored and measured."""

    engine: Literal["vllm", "transformers"]
    max_completion_tokens: Count
    batch_size: Count
    policy: Literal["dropped", "worst", "train_mean"]
    n_boot: Annotated[int, Field(ge=100)]
    gpu_memory_utilization: Fraction | None
    tensor_parallel_size: Count


class Ratings(Section):
    """Whose ratings count, and from how many on an item has a MOS (`critic.ratings.screening`); no stage reads it.

    Attributes:
        min_raters: of an item.
        min_ratings: items that others rate too, of a rater.
        min_correlation: with the others' means; less than that, surely, and a rater doesn't count.
        confidence: of that, one-sided.
    """

    min_raters: Count
    min_ratings: Annotated[int, Field(ge=5)]
    min_correlation: Annotated[float, Field(gt=-1, lt=1)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]


class Gate(Section):
    """When a critic may take the champion's place (`critic.release.promotion_gate`); no stage reads it.

    Attributes:
        margin: what the lower bound of its gain in main score must be above.
        confidence: of that bound, one-sided, and of the falls below.
        n_boot: resamples of source images.
        min_main_score: of any critic that is put into service.
        min_coverage: share of the test split that it must give a score.
        coverage_margin: how far that may be below the champion's.
        type_margin: how far the main score of an edit type may fall; a fall counts where it is sure to be larger.
        length_factor: tokens of an answer, on average, to the champion's: with weights of one size they are what
            an answer costs and how long it takes.
        size_factor: bytes of the critic's files to the champion's.
    """

    margin: float
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    n_boot: Annotated[int, Field(ge=100)]
    min_main_score: Annotated[float, Field(ge=-1, le=1)]
    min_coverage: Fraction
    coverage_margin: Fraction
    type_margin: Annotated[float, Field(ge=0)]
    length_factor: Annotated[float, Field(ge=1)]
    size_factor: Annotated[float, Field(ge=1)]


class Retrain(Section):
    """When the flows train the critic anew; no stage reads it.

    Attributes:
        new_ratings: how many must have come.
        drift: the population stability index from which what is served has drifted, see `critic.release.drift`.
        approval: whether a person must agree to a promotion.
        approval_hours: how long that person is waited for.
        stage_hours: how long a stage may take.
    """

    new_ratings: Count
    drift: Positive
    approval: bool
    approval_hours: Positive
    stage_hours: Positive


class Release(Section):
    """How a critic is put into service (`critic.release.promotion`); no stage reads it.

    Attributes:
        variant: what its Bento runs on.
        golden: how many edits of the test split a new Bento must score as `evaluate` did.
        tolerance: points that each of these scores may be off.
        max_latency: seconds that they may take one by one, the median.
        push: the git remote that releases go to; null keeps them here.
    """

    variant: Literal["cpu", "gpu"]
    golden: Count
    tolerance: Annotated[float, Field(ge=0, le=4)]
    max_latency: Positive
    push: str | None


class Audit(Section):
    """What a rerun (`critic.audit.rerun`) must come to; no stage reads it.

    Attributes:
        tolerance: how far a main score, -1..1, may be off where the same bytes can't be asked for.
    """

    tolerance: Annotated[float, Field(ge=0, le=2)]


SECTIONS: tuple[type[Section], ...] = (
    Prompt, Model, Launch, Download, Validate, Build, Teacher, Sft, Reward, Grpo, Evaluate, Ratings, Gate,
    Retrain, Release, Audit,
)  # fmt: skip

_Section = TypeVar("_Section", bound=Section)


def load(section: type[_Section], file: Path | None = None, *, profile: str | None = None) -> _Section:
    """One section of params.yaml, the values of a profile, the active one by default, over the shared ones.

    Raises:
        ParamsError: the file is missing or not YAML, or any section of any profile has an unknown key, a missing
            one or a wrong type.
    """
    file = file or FILE
    content = _read(file)
    sections, problems = {}, []
    for name in content["profiles"]:
        sections[name], found = _check(content, name)
        problems += [problem for problem in found if problem not in problems]
    if problems:
        raise ParamsError("\n".join(f"{file}: {problem}" for problem in problems))
    if (profile := profile or content["profile"]) not in sections:
        raise ParamsError(f"{file}: profiles has no {profile!r}, only {', '.join(sections)}")
    return next(s for s in sections[profile] if isinstance(s, section))


def seed(file: Path | None = None) -> int:
    """The seed that everything random starts from.

    Raises:
        ParamsError: as `load`.
    """
    return int(_read(file or FILE)["seed"])


def profile(file: Path | None = None) -> str:
    """The name of the active profile.

    Raises:
        ParamsError: as `load`.
    """
    return str(_read(file or FILE)["profile"])


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"no {file} here: run from the top folder of the project") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{file} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{file} must hold keys and values")
    sections = {section.name for section in SECTIONS}
    profiles, profile = content.get("profiles"), content.get("profile")
    known = list(profiles) if isinstance(profiles, dict) else []
    problems = [f"{k}: unknown key" for k in content if k not in {"profile", "seed", "profiles", *sections}]
    problems += _not_mappings({k: content[k] for k in sections & set(content)}, "")
    if profile not in known:
        problems.append(f"profile: {profile!r} is not one of those under profiles: {', '.join(known) or 'none'}")
    if isinstance(profiles, dict):
        problems += _not_mappings(profiles, "profiles.")
        for name, parts in profiles.items():
            if isinstance(parts, dict):
                problems += [f"profiles.{name}.{key}: unknown key" for key in parts if key not in sections]
                problems += _not_mappings(parts, f"profiles.{name}.")
    if isinstance(content.get("seed"), bool) or not isinstance(content.get("seed"), int):
        problems.append(f"seed: must be an integer, not {content.get('seed')!r}")
    if problems:
        raise ParamsError("\n".join(f"{file}: {problem}" for problem in problems))
    return content


def _not_mappings(parts: dict[str, Any], where: str) -> list[str]:
    """What is wrong with parts of the file that should each hold keys and values."""
    return [
        f"{where}{name}: must hold keys and values, not {part!r}"
        for name, part in parts.items()
        if not isinstance(part, dict) or not all(isinstance(key, str) for key in part)
    ]


def _check(content: dict[str, Any], profile: str) -> tuple[list[Section], list[str]]:
    """A profile's sections, and what is wrong with those that could not be made."""
    sections: list[Section] = []
    problems: list[str] = []
    for section in SECTIONS:
        shared = content.get(section.name, {})
        own = content["profiles"][profile].get(section.name, {})
        try:
            sections.append(section(**{**shared, **own}))
        except ValidationError as error:
            for found in error.errors():
                key = str(found["loc"][0]) if found["loc"] else ""
                where = section.name if key in shared and key not in own else f"profiles.{profile}.{section.name}"
                name = ".".join([where, *map(str, found["loc"])])
                known = f" (known: {', '.join(_keys(section, found['loc']))})" if "extra" in found["type"] else ""
                message = "unknown key" if known else found["msg"]
                given = "" if found["type"] in ("missing", "extra_forbidden") else f", not {found['input']!r}"
                problems.append(f"{name}: {message}{given if key else ''}{known}")
    if not problems:
        problems = [f"profiles.{profile}.{problem}" for problem in _mismatches(*sections)]
    return sections, problems


def _mismatches(*sections: Section) -> list[str]:
    """What is wrong between sections that are right each by itself."""
    grpo = next(section for section in sections if isinstance(section, Grpo))
    launch = next(section for section in sections if isinstance(section, Launch))
    processes = launch.machines * launch.processes
    completions = grpo.batch_size * grpo.gradient_accumulation * processes
    problems = []
    if completions % grpo.num_generations:
        problems.append(
            f"grpo: a step has {completions} completions (batch_size {grpo.batch_size} x gradient_accumulation "
            f"{grpo.gradient_accumulation} x {processes} processes of launch), which must be a multiple of "
            f"num_generations, {grpo.num_generations}"
        )
    colocated = grpo.vllm if grpo.rollouts == "vllm" and grpo.vllm and grpo.vllm.mode == "colocate" else None
    if colocated and processes % colocated.tensor_parallel_size:
        problems.append(
            f"grpo.vllm.tensor_parallel_size: {colocated.tensor_parallel_size} does not divide the {processes} "
            "processes of launch"
        )
    return problems


def _keys(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The keys that there are beside an unknown one at `place` in a section."""
    for part in place[:-1]:
        optional = model.model_fields[str(part)].annotation
        model = next(kind for kind in get_args(optional) if issubclass(kind, BaseModel))
    return list(model.model_fields)
