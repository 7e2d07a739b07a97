"""params.yaml, typed: the only configuration of the pipeline and the flows.

    section = params.load(params.Grpo)
    section.learning_rate, params.seed()

The file holds `profile`, `seed`, shared sections at the top level, and under `profiles.<name>` the sections that
depend on scale and hardware. A section is its shared part, updated with the active profile's part. Every load
checks the whole file, all profiles included, so that an error is found before hours of training.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from critic.reward_kinds import require_kind

FILE = Path("params.yaml")
READERS = Path(__file__).parent / "data/readers"

Count = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class ParamsError(ValueError):
    """params.yaml cannot be used; the message names the file, the key and the fix."""


class Part(BaseModel):
    """Keys and values of params.yaml: no unknown key, no conversion of types, no change after the load."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


_Part = TypeVar("_Part", bound=Part)


class Section(Part):
    """A section of params.yaml. Its name in the file is the class's in lower case."""

    name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = cls.__name__.lower()


class Prompt(Section):
    """The prompt contract: a name in critic/contracts, a path, or `learnt`, see `download.learn_contract`."""

    contract: str


class Model(Section):
    """The base model: a folder, or a name on the hub with a pinned revision."""

    base: str
    revision: str | None
    attn_implementation: Literal[
        "sdpa", "eager", "flash_attention_2", "flash_attention_4", "kernels-community/flash-attn2"
    ]
    dtype: Literal["float32", "bfloat16"]


class Rationales(Part):
    """A published SFT set: `dataset` at `revision` on the hub, or the file `path`."""

    dataset: str | None = None
    revision: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if (self.dataset is None) == (self.path is None) or (self.dataset is None) != (self.revision is None):
            raise ValueError("give either dataset and revision, or path")
        return self


class LearnContract(Part):
    """The model whose chat template a contract takes, and its pixel limits (`critic.data.learnt_contract`).

    `min_pixels` and `max_pixels` are null for those with which IE-Critic-R1 was trained.
    """

    model: str
    revision: str
    min_pixels: Count | None = None
    max_pixels: Count | None = None

    @model_validator(mode="after")
    def _has_both_limits(self) -> Self:
        if (self.min_pixels is None) != (self.max_pixels is None):
            raise ValueError("give both min_pixels and max_pixels, or neither")
        return self


class Agiqa(Part):
    """AGIQA-3k: the folder of its data.csv and images.

    With `source: agiqa` it is the benchmark: `split` is one of ten (`critic.data.readers.agiqa.choose_test`), and
    `mos` the opinion that is the score. With another source, `evaluate` measures the critics on all its pictures.
    """

    generated: ClassVar[bool] = True
    folder: str
    split: Annotated[int, Field(ge=0, le=9)] | None = None
    mos: Literal["quality", "alignment"] = "quality"


def _folder_of_agiqa(given: Any) -> Any:
    return {"folder": given} if isinstance(given, str) else given


class Download(Section, extra="allow"):
    """Where the benchmark comes from: `source` names a module of critic/data/readers, and the part that it reads.

    `rationales` is a published SFT set, `agiqa` AGIQA-3k (its folder, or the keys of `Agiqa`); both are optional.
    With `learn_contract`, a prompt contract is learnt from `rationales`; `prompt.contract: learnt` uses it.
    The other parts have the names of readers.
    """

    __pydantic_extra__: dict[str, dict[str, Any] | None]

    source: str
    rationales: Rationales | None = None
    learn_contract: LearnContract | None = None
    agiqa: Annotated[Agiqa | None, BeforeValidator(_folder_of_agiqa)] = None

    @model_validator(mode="after")
    def _has_what_its_source_needs(self) -> Self:
        modules = {file.stem for file in READERS.glob("[!_]*.py")}
        sources = sorted(modules - ({*type(self).model_fields} - {"agiqa"}))
        if unknown := [name for name in self.__pydantic_extra__ if name not in sources]:
            known = ", ".join(dict.fromkeys([*type(self).model_fields, *sources]))
            raise ValueError(f"unknown key {', '.join(unknown)} (known: {known})")
        if self.source not in sources:
            raise ValueError(f"source must be one of {', '.join(sources)}, not {self.source!r}")
        if self.learn_contract is not None and self.rationales is None:
            raise ValueError("learn_contract needs rationales, the SFT set to learn from")
        if getattr(self, self.source, None) is None:
            raise ValueError(f"source {self.source} needs a part {self.source}")
        if self.agiqa is not None and (self.source == "agiqa") != (self.agiqa.split is not None):
            raise ValueError("agiqa.split, 0 to 9, goes with source: agiqa; other sources use all of its pictures")
        return self

    def settings(self, model: type[_Part]) -> _Part:
        """The part that `source` names, as its reader's own `Settings`; a `ParamsError` if it is malformed."""
        part = getattr(self, self.source)
        if isinstance(part, model):
            return part
        try:
            return model(**part)
        except ValidationError as error:
            problems = [
                f"{'.'.join(['download', self.source, *map(str, found['loc'])])}: {_message(model, found)}"
                for found in error.errors()
            ]
        raise ParamsError("\n".join(f"{FILE}: {problem}" for problem in problems))


class Validate(Section):
    """Limits that a benchmark must keep, and the share of train that becomes a missing validation split."""

    phash_distance: Annotated[int, Field(ge=0)]
    min_side: Count
    max_instruction_chars: Count
    validation_fraction: Fraction


class Build(Section):
    """The source of SFT's rationales, and the mix of its samples.

    `rationales: scores` words a new rationale from the sub-scores for each sample; `teacher` asks the teacher for
    one per edit; `released` takes the published set unchanged, with its own mix. The first two make
    `samples_per_edit` samples, and a `direct_fraction` of all samples asks for a score without reasoning. Only a
    `rationale_fraction` of the train split's edits has such samples; GRPO gets all edits.
    """

    rationales: Literal["scores", "teacher", "released"]
    rationale_fraction: Annotated[float, Field(gt=0, le=1)]
    samples_per_edit: Count
    direct_fraction: Fraction

    @model_validator(mode="after")
    def _fraction_is_of_rationales_that_are_made(self) -> Self:
        if self.rationales == "released" and self.rationale_fraction < 1:
            raise ValueError(
                "rationale_fraction is for rationales: scores or teacher; a released set has its own rows"
            )
        return self


class Prices(Part):
    """Prices of a teacher's tokens, in US dollars per million."""

    input: NonNegative
    output: NonNegative


class Teacher(Section):
    """The model that writes the rationales if `build.rationales` is `teacher`, and which of them are kept.

    `sampling` goes into the request unchanged, so its keys are the server's. The environment variable
    `api_key_variable` holds the API key.
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
    min_acceptance_rate: Fraction
    usd_per_million_tokens: Prices | None


class Lora(Part):
    """LoRA adapters on every linear layer of the language model, merged into the weights at the end (PEFT)."""

    r: Count
    lora_alpha: Count
    lora_dropout: Fraction


class Launch(Section):
    """The processes of the trainings, one per GPU (torchrun), and the ZeRO stage, null without DeepSpeed."""

    nnodes: Count
    nproc_per_node: Count
    zero_stage: Literal[2, 3] | None


class Training(Section):
    """What both trainings have. `transformers.TrainingArguments` gets all keys except `share_prompts`,
    `freeze_vision` and `lora`.

    `warmup_steps` below 1 is a share of all steps. A checkpoint to resume from is kept every `save_steps` steps.
    With `share_prompts`, what samples of one edit, or completions of one prompt, have in common is read once
    (`critic.training.packing`).
    """

    learning_rate: Positive
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"]
    weight_decay: NonNegative
    max_grad_norm: Positive
    warmup_steps: NonNegative
    per_device_train_batch_size: Count
    gradient_accumulation_steps: Count
    gradient_checkpointing: bool
    bf16: bool
    use_liger_kernel: bool
    share_prompts: bool
    freeze_vision: bool
    lora: Lora | None
    save_steps: Count


class Sft(Training):
    """Supervised fine-tuning on reasoning and direct-scoring samples (TRL's SFTConfig).

    With `token_mean: update` the loss is the mean over the answers' tokens in an update. With `micro_batch` it is
    the mean over those of each micro-batch, averaged over the micro-batches: short answers then count for more.
    """

    token_mean: Literal["update", "micro_batch"]
    num_train_epochs: Positive


class Reward(Section):
    """The verifiable reward: arguments of `critic.training.rewards.compute_score`, and the weights of rewards.

    `distance` is the weight of `compute_score`; `axes` that of stated sub-scores near the MOS of their axes
    (`critic.training.rewards.AxesReward`); `pairs` that of the order of two edits of a source
    (`critic.training.pairs`), which are then beside each other in a batch.
    """

    kind: Annotated[str, AfterValidator(require_kind)]
    format_weight: NonNegative
    strict_format: bool
    r_min: Fraction
    diff_at_rmin: Positive
    use_floor: bool
    distance: NonNegative
    axes: NonNegative
    pairs: NonNegative

    @model_validator(mode="after")
    def _rewards_something(self) -> Self:
        if self.distance + self.pairs == 0:
            raise ValueError("distance and pairs are both 0, so that no score is rewarded: give one a weight")
        return self


class RolloutCheck(Part):
    """The check of some prompts before GRPO's first step, see `critic.training.rollout_check.check_rollouts`.

    The gaps are in log-probability of a completion, in nats.
    """

    prompts: Count
    mean_logprob_gap: Positive
    max_logprob_gap: Positive


class Collapse(Part):
    """When GRPO stops, see `critic.training.collapse.Monitor`."""

    min_format_rate: Fraction
    min_score_entropy: NonNegative
    patience: Count


class Grpo(Training):
    """Group-relative policy optimisation (TRL's GRPOConfig); `per_device_train_batch_size` counts completions.

    Rollouts are generated for `steps_per_generation` micro-batches at a time, null for all of a step. Fewer need
    less memory, since all their pixels are on the GPU at once, up to three times. It divides
    `gradient_accumulation_steps`, so that no rollout is older than the step; then `dapo` takes the mean over the
    tokens of these micro-batches, and averages the means of the step.
    Every `eval_steps` steps the critic scores `max_eval_samples` edits of the validation split.
    With `use_vllm`, vLLM generates the rollouts: beside the trainer on its GPUs (`vllm_mode: colocate`), or on the
    server (`trl vllm-serve`) at `vllm_server_base_url`. `vllm_enable_sleep_mode` frees a colocated vLLM's memory
    during the update. `vllm_max_model_length` is the most tokens of a prompt and its completion, null for the
    model's context. `vllm_importance_sampling_correction` weights the loss by the ratio of the trainer's
    probabilities to vLLM's, limited by `clip_max` as `mode` says.

    docs/grpo.md has the objectives that these keys make, with the paper of each. `delta: null` clips on one side.
    The entropy of the tokens is a mean in nats. `use_adaptive_entropy` raises `entropy_coef` by
    `entropy_coef_delta` while the entropy is at or below `entropy_target`, and else lowers it, between
    `entropy_coef_min` and `entropy_coef_max`. Optional keys have TRL's defaults.
    """

    max_steps: Count
    num_generations: Annotated[int, Field(ge=2)]
    steps_per_generation: Count | None = None
    temperature: Positive
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_completion_length: Count
    beta: NonNegative
    num_iterations: Count
    epsilon: Positive
    epsilon_high: Positive
    delta: Positive | None = None
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"]
    sapo_temperature_pos: Positive | None = None
    sapo_temperature_neg: Positive | None = None
    importance_sampling_level: Literal["token", "sequence"] | None = None
    scale_rewards: Literal["group", "batch", "none"]
    use_bias_correction_kl: bool | None = None
    mask_truncated_completions: bool | None = None
    top_entropy_quantile: Fraction | None = None
    entropy_coef: NonNegative | None = None
    use_adaptive_entropy: bool | None = None
    entropy_target: Positive | None = None
    entropy_coef_min: NonNegative | None = None
    entropy_coef_max: NonNegative | None = None
    entropy_coef_delta: Positive | None = None
    eval_steps: Count
    max_eval_samples: Count
    use_vllm: bool
    vllm_mode: Literal["colocate", "server"] | None = None
    vllm_gpu_memory_utilization: Fraction | None = None
    vllm_tensor_parallel_size: Count | None = None
    vllm_max_model_length: Count | None = None
    vllm_enable_sleep_mode: bool | None = None
    vllm_server_base_url: str | None = None
    vllm_importance_sampling_correction: bool
    vllm_importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
    vllm_importance_sampling_clip_max: Positive
    rollout_check: RolloutCheck
    collapse: Collapse

    @model_validator(mode="after")
    def _has_what_its_rollouts_need(self) -> Self:
        needed = ("mode", "gpu_memory_utilization", "tensor_parallel_size", "enable_sleep_mode")
        missing = [f"vllm_{key}" for key in needed if getattr(self, f"vllm_{key}") is None]
        if self.use_vllm and missing:
            raise ValueError(f"use_vllm: true needs {', '.join(missing)}")
        if (self.vllm_mode == "server") != (self.vllm_server_base_url is not None):
            raise ValueError("vllm_server_base_url goes with vllm_mode: server, and is null otherwise")
        if self.vllm_enable_sleep_mode and self.vllm_mode == "server":
            raise ValueError("vllm_enable_sleep_mode goes with vllm_mode: colocate; a server keeps its memory")
        return self

    @model_validator(mode="after")
    def _has_what_its_objective_reads(self) -> Self:
        of_sapo = ("sapo_temperature_pos", "sapo_temperature_neg")
        of_control = ("entropy_target", "entropy_coef_min", "entropy_coef_max", "entropy_coef_delta")
        for keys, read, needed in (
            (of_sapo, self.loss_type == "sapo", "loss_type: sapo"),
            (of_control, self.use_adaptive_entropy, "use_adaptive_entropy: true"),
            (("use_bias_correction_kl",), self.beta > 0, "a beta above 0"),
            (("delta",), self.loss_type not in ("cispo", "sapo"), "a loss_type that clips; set it to null"),
        ):
            given = [key for key in keys if getattr(self, key) is not None]
            if given and not read:
                raise ValueError(f"{' and '.join(given)}: nothing reads it without {needed}")
        if self.loss_type == "cispo" and self.epsilon_high <= 1:
            raise ValueError(
                "loss_type: cispo takes epsilon_high for the largest ratio itself, so "
                f"{self.epsilon_high:g} would shrink every token's gradient: set it above 1, such as 5.0"
            )
        if self.importance_sampling_level == "sequence" and self.loss_type not in ("grpo", "sapo"):
            raise ValueError(
                "importance_sampling_level: sequence needs loss_type: grpo (GSPO) or sapo: "
                f"{self.loss_type} would count each completion as often as it has tokens"
            )
        return self


class Evaluate(Section):
    """How the critics are run on the test split and measured. A failed answer counts by `failure_policy`.

    `data_parallel_size` engines score side by side, each on `tensor_parallel_size` GPUs. `max_model_len` is the
    most tokens of a prompt and its completion, null for as many as the model's context and the memory allow.
    `probe_edits` well rated edits of the validation split, and as many others, are changed to probe the critic
    (`critic.scoring.probes`).
    """

    engine: Literal["vllm", "transformers"]
    max_tokens: Count
    batch_size: Count
    failure_policy: Literal["dropped", "worst", "train_mean"]
    n_boot: Annotated[int, Field(ge=100)]
    probe_edits: Count
    gpu_memory_utilization: Fraction | None
    tensor_parallel_size: Count
    data_parallel_size: Count
    max_model_len: Count | None = None


class Ratings(Section):
    """Which raters count, and which items get a MOS (`critic.ratings.screening` and `pair_screening`); no stage
    reads it.

    Attributes:
        min_raters: fewest raters of an item with a MOS.
        min_ratings: fewest items of a rater that others rated too.
        min_correlation: with the others' means; a rater whose correlation is significantly lower doesn't count.
        confidence: of that test and of those of votes, one-sided.
        min_votes: fewest votes of a rater who is said to be careless, too fast or one-sided.
        max_side: largest share of votes for the left, or for the right edit.
        min_seconds: shortest median time of a rater's votes.
        min_anchors: fewest edits with a MOS, beyond one a source and instruction, that put votes on its scale.
    """

    min_raters: Count
    min_ratings: Annotated[int, Field(ge=5)]
    min_correlation: Annotated[float, Field(gt=-1, lt=1)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    min_votes: Annotated[int, Field(ge=5)]
    max_side: Annotated[float, Field(ge=0.5, le=1)]
    min_seconds: NonNegative
    min_anchors: Annotated[int, Field(ge=3)]


class Gate(Section):
    """When a critic may replace the champion (`critic.release.promotion_gate`); no stage reads it.

    Attributes:
        margin: the lower bound of its gain in main score must be above this.
        confidence: of that bound and of the drops below, one-sided.
        n_boot: resamples of source images.
        min_main_score: lowest main score of a critic in service.
        min_coverage: smallest share of the test split with a score.
        coverage_margin: largest drop of that share below the champion's.
        type_margin: largest drop of an edit type's main score; only a significantly larger one counts.
        length_factor: largest ratio of its mean tokens per answer to the champion's; in models of one size, they
            decide cost and latency.
        size_factor: largest ratio of the size of its files to the champion's.
        probes: those of `critic.scoring.probes.PROBES` whose rate must not be significantly below one half.
    """

    margin: float
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    n_boot: Annotated[int, Field(ge=100)]
    min_main_score: Annotated[float, Field(ge=-1, le=1)]
    min_coverage: Fraction
    coverage_margin: Fraction
    type_margin: NonNegative
    length_factor: Annotated[float, Field(ge=1)]
    size_factor: Annotated[float, Field(ge=1)]
    probes: list[str]


class Retrain(Section):
    """When the flows retrain the critic; no stage reads it.

    Attributes:
        new_ratings: number of ratings since the last training that starts a new one.
        psi_threshold: population stability index that counts as drift, see `critic.release.drift`.
        approval: whether a person must approve a promotion.
        approval_timeout_hours: how long a promotion waits for the approval.
        stage_timeout_hours: longest time for one stage.
    """

    new_ratings: Count
    psi_threshold: Positive
    approval: bool
    approval_timeout_hours: Positive
    stage_timeout_hours: Positive


class Release(Section):
    """How a critic is put into service (`critic.release.promotion`); no stage reads it.

    Attributes:
        variant: the hardware that its Bento runs on.
        smoke_edits: number of edits of the test split that a new Bento must score as `evaluate` did.
        tolerance: largest difference of each of these scores, in points.
        max_latency: largest median time per edit, one edit at a time, in seconds.
        push: the git remote that gets releases; null keeps them here.
    """

    variant: Literal["cpu", "gpu"]
    smoke_edits: Count
    tolerance: Annotated[float, Field(ge=0, le=4)]
    max_latency: Positive
    push: str | None


class Audit(Section):
    """What a rerun must reproduce: the largest gap of a main score, -1..1, where bytes may differ.

    No stage reads it, see `critic.audit.rerun`.
    """

    tolerance: Annotated[float, Field(ge=0, le=2)]


SECTIONS: tuple[type[Section], ...] = (
    Prompt, Model, Launch, Download, Validate, Build, Teacher, Sft, Reward, Grpo, Evaluate, Ratings, Gate,
    Retrain, Release, Audit,
)  # fmt: skip

_RENAMED = {
    "launch.machines": "nnodes",
    "launch.processes": "nproc_per_node",
    "teacher.min_kept": "min_acceptance_rate",
    "training.lr_schedule": "lr_scheduler_type",
    "training.warmup_fraction": "warmup_steps",
    "training.batch_size": "per_device_train_batch_size",
    "training.gradient_accumulation": "gradient_accumulation_steps",
    "training.liger": "use_liger_kernel",
    "training.save_every": "save_steps",
    "training.lora.rank": "r",
    "training.lora.alpha": "lora_alpha",
    "training.lora.dropout": "lora_dropout",
    "sft.epochs": "num_train_epochs",
    "grpo.steps": "max_steps",
    "grpo.max_completion_tokens": "max_completion_length",
    "grpo.epsilon_low": "epsilon",
    "grpo.validation_every": "eval_steps",
    "grpo.validation_edits": "max_eval_samples",
    "grpo.rollouts": "use_vllm (true or false)",
    "grpo.vllm": "vllm_mode, vllm_gpu_memory_utilization, vllm_tensor_parallel_size, vllm_enable_sleep_mode and "
    "vllm_server_base_url",
    "grpo.preflight": "rollout_check",
    "evaluate.max_completion_tokens": "max_tokens",
    "evaluate.policy": "failure_policy",
    "retrain.drift": "psi_threshold",
    "retrain.approval_hours": "approval_timeout_hours",
    "retrain.stage_hours": "stage_timeout_hours",
    "release.golden": "smoke_edits",
}
"""Old key of a section -> its name now. The keys of `training` are those of `sft` and of `grpo`."""

_REMOVED = {
    "prompt.user_text": "remove it, since the prompt contract has the user's text; for a data set's own text, "
    "learn a contract with `critic contract learn` and name that in prompt.contract",
}
"""Removed key of a section -> what to do."""

_Section = TypeVar("_Section", bound=Section)


def load(section: type[_Section], file: Path | None = None, *, profile: str | None = None) -> _Section:
    """Load one section: the shared values, updated with those of a profile, the active one by default.

    `file` is params.yaml of the current folder by default.

    Raises:
        ParamsError: the file is missing or not YAML, or any section of any profile has an unknown key, a missing
            one or a wrong type.
    """
    file = file or FILE
    content = _read(file)
    sections: dict[str, list[Section]] = {}
    problems: dict[str, None] = {}  # in order, each once
    for name in content["profiles"]:
        sections[name], found = _check(content, name)
        problems |= dict.fromkeys(found)
    _require_none(problems, file)
    if (profile := profile or content["profile"]) not in sections:
        raise ParamsError(f"{file}: profiles has no {profile!r}, only {', '.join(sections)}")
    return next(s for s in sections[profile] if isinstance(s, section))


def seed(file: Path | None = None) -> int:
    """The seed of everything random; raises as `load`."""
    return int(_read(file or FILE)["seed"])


def profile(file: Path | None = None) -> str:
    """The name of the active profile; raises as `load`."""
    return str(_read(file or FILE)["profile"])


def merged(content: Mapping[str, Any], profile: str) -> dict[str, dict[str, Any]]:
    """The sections of a profile, by name: the shared values, updated with its own; unchecked.

    Args:
        content: of a params.yaml, perhaps an earlier one.
    """
    own = content["profiles"][profile]
    names = dict.fromkeys([*content, *own])
    for name in ("profile", "seed", "profiles"):
        names.pop(name, None)
    return {name: {**content.get(name, {}), **own.get(name, {})} for name in names}


def _read(file: Path) -> dict[str, Any]:
    """The file's values, checked down to the names of sections."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"no {file} here: run from the top folder of the project") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{file} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{file} must hold keys and values")
    sections = {section.name for section in SECTIONS}
    profiles, active, seed = (content.get(key) for key in ("profiles", "profile", "seed"))
    problems = [f"{key}: unknown key" for key in content if key not in {"profile", "seed", "profiles", *sections}]
    problems += _not_mappings({key: content[key] for key in sections & set(content)}, "")
    if not isinstance(profiles, dict):
        profiles = {}
    if active not in list(profiles):
        problems.append(f"profile: {active!r} is not one of those under profiles: {', '.join(profiles) or 'none'}")
    problems += _not_mappings(profiles, "profiles.")
    for name, parts in profiles.items():
        if isinstance(parts, dict):
            problems += [f"profiles.{name}.{key}: unknown key" for key in parts if key not in sections]
            problems += _not_mappings(parts, f"profiles.{name}.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        problems.append(f"seed: must be an integer, not {seed!r}")
    _require_none(problems, file)
    return content


def _require_none(problems: Iterable[str], file: Path) -> None:
    if problems:
        raise ParamsError("\n".join(f"{file}: {problem}" for problem in problems))


def _not_mappings(parts: dict[str, Any], where: str) -> list[str]:
    """An error for each part that isn't a mapping with text keys."""
    return [
        f"{where}{name}: must hold keys and values, not {part!r}"
        for name, part in parts.items()
        if not isinstance(part, dict) or not all(isinstance(key, str) for key in part)
    ]


def _check(content: dict[str, Any], profile: str) -> tuple[list[Section], list[str]]:
    """The valid sections of a profile, and an error for each wrong value of the others."""
    sections: list[Section] = []
    problems: list[str] = []
    values = merged(content, profile)
    for section in SECTIONS:
        shared = content.get(section.name, {})
        own = content["profiles"][profile].get(section.name, {})
        try:
            sections.append(section(**values.get(section.name, {})))
        except ValidationError as error:
            for found in error.errors():
                place = [str(part) for part in found["loc"]]
                is_shared = bool(place) and place[0] in shared and place[0] not in own
                name = ".".join([section.name if is_shared else f"profiles.{profile}.{section.name}", *place])
                problems.append(f"{name}: {_message(section, found)}")
    if not problems:
        problems = [f"profiles.{profile}.{problem}" for problem in _mismatches(*sections)]
    return sections, problems


def _mismatches(*sections: Section) -> list[str]:
    """An error for each value that doesn't go with one of another section."""
    grpo = next(section for section in sections if isinstance(section, Grpo))
    launch = next(section for section in sections if isinstance(section, Launch))
    processes = launch.nnodes * launch.nproc_per_node
    key = "gradient_accumulation_steps" if grpo.steps_per_generation is None else "steps_per_generation"
    completions = grpo.per_device_train_batch_size * getattr(grpo, key) * processes
    problems = []
    prompt = next(section for section in sections if isinstance(section, Prompt))
    download = next(section for section in sections if isinstance(section, Download))
    if prompt.contract == "learnt" and download.learn_contract is None:
        problems.append("prompt.contract: learnt needs download.learn_contract, with the model that it is for")
    if completions % grpo.num_generations:
        problems.append(
            f"grpo: {completions} completions are generated at a time (per_device_train_batch_size "
            f"{grpo.per_device_train_batch_size} x {key} {getattr(grpo, key)} x {processes} processes of launch), "
            f"which must be a multiple of num_generations, {grpo.num_generations}"
        )
    elif grpo.share_prompts and grpo.per_device_train_batch_size % grpo.num_generations:
        problems.append(
            f"grpo.per_device_train_batch_size: {grpo.per_device_train_batch_size} is not a multiple of "
            f"num_generations, {grpo.num_generations}, as share_prompts: true needs"
        )
    reward = next(section for section in sections if isinstance(section, Reward))
    alone = completions // processes // grpo.num_generations
    if reward.pairs and (alone % 2 or completions % (processes * grpo.num_generations)):
        problems.append(
            f"reward.pairs: {reward.pairs:g} needs an even number of prompts in each process, so that both edits "
            f"of a pair are in one, and {completions} completions are generated at a time in {processes}: change "
            "grpo.per_device_train_batch_size"
        )
    model = next(section for section in sections if isinstance(section, Model))
    sharing = [one.name for one in sections if isinstance(one, Training) and one.share_prompts]
    if sharing and model.attn_implementation != "sdpa":
        problems.append(
            f"model.attn_implementation: {model.attn_implementation} can't share prompts: choose sdpa, "
            f"or set share_prompts to false in {' and '.join(sharing)}"
        )
    if grpo.gradient_accumulation_steps % (grpo.steps_per_generation or 1):
        problems.append(
            f"grpo.steps_per_generation: {grpo.steps_per_generation} does not divide "
            f"gradient_accumulation_steps, {grpo.gradient_accumulation_steps}, so rollouts would be older than "
            "the weights that they train"
        )
    size = grpo.vllm_tensor_parallel_size
    if grpo.use_vllm and grpo.vllm_mode == "colocate" and size and processes % size:
        problems.append(
            f"grpo.vllm_tensor_parallel_size: {size} does not divide the {processes} processes of launch"
        )
    return problems


def _message(model: type[BaseModel], found: ErrorDetails) -> str:
    """What is wrong with a value; for an unknown key, what to do if it was known once, else the known keys."""
    place = [str(part) for part in found["loc"]]
    if found["type"] == "missing" or not place:
        return found["msg"]
    if found["type"] != "extra_forbidden":
        return f"{found['msg']}, not {found['input']!r}"
    for base in model.__mro__:
        key = ".".join([base.__name__.lower(), *place])
        if key in _RENAMED:
            return f"unknown key: it is now called {_RENAMED[key]}"
        if key in _REMOVED:
            return f"unknown key: {_REMOVED[key]}"
    for part in place[:-1]:
        kind: Any = model.model_fields[part].annotation
        model = next(part for part in get_args(kind) or [kind] if issubclass(part, BaseModel))
    return f"unknown key (known: {', '.join(model.model_fields)})"
