"""params.yaml: the project's own is valid, and an error names the file and the key."""

import inspect
import re
import shutil
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides

from critic import params
from critic.evaluation import metrics
from critic.params import SECTIONS, ParamsError, Section
from critic.reward_kinds import KINDS
from critic.training import rewards

ROOT = Path(__file__).parents[2]
OWN = ROOT / "params.yaml"
PROFILES = (
    *("tiny", "tiny-qwen3-vl", "full", "paper", "single-gpu", "agiqa"),
    *("qwen3-vl-8b", "qwen3-vl-4b", "qwen3-5-9b"),
)


@cache
def own_content() -> dict[str, Any]:
    return yaml.safe_load(OWN.read_text())


@pytest.fixture
def content() -> dict[str, Any]:
    """What the project's own params.yaml holds, to be changed."""
    return deepcopy(own_content())


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Writes the params.yaml of the current folder."""
    monkeypatch.chdir(tmp_path)
    return lambda content: Path("params.yaml").write_text(
        yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False)
    )


# --- the project's own


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_every_section_of_the_projects_own_file_loads(
    section: type[Section], profile: str, content: dict[str, Any], write: Callable[[dict[str, Any]], None]
) -> None:
    write(content | {"profile": profile})
    loaded = params.load(section)
    assert type(loaded) is section
    given = content.get(section.name, {}) | content["profiles"][profile].get(section.name, {})
    assert without_nulls(loaded.model_dump(include={*given})) == without_nulls(given)


def without_nulls(section: dict[str, Any]) -> dict[str, Any]:
    return {k: without_nulls(v) if isinstance(v, dict) else v for k, v in section.items() if v is not None}


def test_the_projects_own_file_holds_these_profiles_seed_and_no_other_section(content: dict[str, Any]) -> None:
    assert {*content["profiles"]} == {*PROFILES}
    assert params.profile(OWN) == content["profile"] == "tiny"
    assert params.seed(OWN) == content["seed"]
    assert {*content} <= {"profile", "seed", "profiles", *(section.name for section in SECTIONS)}


def test_single_gpu_is_full_but_for_what_one_gpu_takes() -> None:
    differ: dict[str, set[str]] = {}
    for section in SECTIONS:
        full, single = (params.load(section, OWN, profile=name).model_dump() for name in ("full", "single-gpu"))
        if keys := {key for key in full if full[key] != single[key]}:
            differ[section.name] = keys
    scale = {"learning_rate", "gradient_accumulation_steps", "freeze_vision", "lora"}
    assert differ == {
        "launch": {"nproc_per_node", "zero_stage"},
        "sft": scale,
        "grpo": scale
        | {"vllm_gpu_memory_utilization", "vllm_tensor_parallel_size", "vllm_enable_sleep_mode"}
        | {"max_completion_length", "steps_per_generation"},
        "evaluate": {"gpu_memory_utilization", "tensor_parallel_size", "data_parallel_size"},
    }
    launch, sft = (params.load(section, OWN, profile="single-gpu") for section in (params.Launch, params.Sft))
    assert launch.nproc_per_node == 1
    assert sft.per_device_train_batch_size * sft.gradient_accumulation_steps == 64


def test_agiqa_is_full_but_for_its_benchmark_and_the_number_of_updates() -> None:
    differ = {}
    for section in SECTIONS:
        full, own = (params.load(section, OWN, profile=name).model_dump() for name in ("full", "agiqa"))
        differ[section.name] = {key for key in full if full[key] != own.get(key)}
    assert {name: keys for name, keys in differ.items() if keys and name != "download"} == {
        "build": {"rationales", "direct_fraction"},
        "grpo": {"max_steps"},
    }


# --- loading


@pytest.mark.parametrize("given", ["AGIQA-3K", {"folder": "AGIQA-3K"}])
def test_a_second_benchmark_is_a_folder_or_a_part_with_one(
    given: Any, content: dict[str, Any], write: Callable[[dict[str, Any]], None]
) -> None:
    content["profiles"]["tiny"]["download"]["agiqa"] = given
    write(content)
    found = params.load(params.Download).agiqa
    assert found == params.Agiqa(folder="AGIQA-3K")


def test_every_kind_of_reward_loads_and_no_other(
    content: dict[str, Any], write: Callable[[dict[str, Any]], None]
) -> None:
    del content["profiles"]["full"]["reward"]["kind"]
    for kind in KINDS:
        content["reward"]["kind"] = kind
        write(content)
        assert params.load(params.Reward, profile="full").kind == kind
    for kind in ("", "L1", "l1 ", "no-such-kind"):
        content["reward"]["kind"] = kind
        write(content)
        with pytest.raises(ParamsError, match=rf"reward\.kind: .*unknown kind of reward '{kind}'"):
            params.load(params.Reward, profile="full")


def test_the_profiles_value_wins_over_the_shared_one(
    content: dict[str, Any], write: Callable[[dict[str, Any]], None]
) -> None:
    content["reward"]["kind"] = "l1"
    content["profiles"]["tiny"]["reward"]["kind"] = "gaussian"
    del content["profiles"]["full"]["reward"]["kind"]
    for profile, kind in (("tiny", "gaussian"), ("full", "l1")):
        write(content | {"profile": profile})
        assert params.load(params.Reward).kind == kind
        assert params.load(params.Reward).r_min == content["reward"]["r_min"]


def test_every_load_reads_the_file_again(content: dict[str, Any], write: Callable[[dict[str, Any]], None]) -> None:
    for seed in (1, 2):
        write(content | {"seed": seed, "build": content["build"] | {"direct_fraction": seed / 10}})
        assert (params.seed(), params.load(params.Build).direct_fraction) == (seed, seed / 10)


def test_sections_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        params.load(params.Reward, OWN).kind = "l2"  # type: ignore[misc]


def test_the_objectives_of_the_page_load() -> None:
    section = (ROOT / "docs/grpo.md").read_text().split("## Other objectives")[1].split("\n## ")[0]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ")][1:]
    objectives = [yaml.safe_load("\n".join(re.findall(r"`(\w+: [^`]+)`", row))) for row in rows]
    assert {
        "loss_type": "sapo",
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "delta": None,
    } in objectives
    own = params.load(params.Grpo, OWN).model_dump()
    for objective in objectives:
        params.Grpo.model_validate(own | objective)


# --- errors


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets the value at a dotted path."""

    def apply(content: dict[str, Any]) -> None:
        *folders, key = path.split(".")
        for folder in folders:
            content = content.setdefault(folder, {})
        content[key] = value

    return apply


def leave_out(path: str) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        *folders, key = path.split(".")
        for folder in folders:
            content = content[folder]
        del content[key]

    return apply


SLIPS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "unknown section": (change("rewards", {}), r"rewards: unknown key"),
    "unknown section of a profile": (change("profiles.tiny.gpro", {}), r"profiles\.tiny\.gpro: unknown key"),
    "unknown section of the other profile": (
        change("profiles.full.gpro", {}),
        r"profiles\.full\.gpro: unknown key",
    ),
    "unknown key": (change("reward.sort", "l1"), r"reward\.sort: unknown key \(known: kind, format_weight, .*\)"),
    "unknown key of a profile": (
        change("profiles.tiny.sft.epoch", 1.0),
        r"profiles\.tiny\.sft\.epoch: unknown key \(known: .*num_train_epochs\)",
    ),
    "unknown key of the other profile": (
        change("profiles.full.sft.epoch", 1.0),
        r"profiles\.full\.sft\.epoch: unknown key",
    ),
    "missing shared key": (leave_out("reward.r_min"), r"profiles\.tiny\.reward\.r_min: Field required"),
    "missing key of a profile": (
        leave_out("profiles.tiny.grpo.max_steps"),
        r"profiles\.tiny\.grpo\.max_steps: Field required",
    ),
    "missing section": (leave_out("build"), r"profiles\.tiny\.build\.direct_fraction: Field required"),
    "text for a number": (change("sft.max_grad_norm", "1"), r"sft\.max_grad_norm: .* number, not '1'"),
    "number for a switch": (change("reward.use_floor", 1), r"reward\.use_floor: .* boolean, not 1"),
    "switch for a number": (
        change("profiles.tiny.grpo.max_steps", True),
        r"profiles\.tiny\.grpo\.max_steps: .*, not True",
    ),
    "fraction for a count": (change("evaluate.n_boot", 1000.5), r"evaluate\.n_boot: .* integer, not 1000\.5"),
    "too small": (change("grpo.num_generations", 1), r"grpo\.num_generations: .*, not 1"),
    "too large": (change("build.direct_fraction", 1.5), r"build\.direct_fraction: .*, not 1\.5"),
    "no such choice": (
        change("evaluate.failure_policy", "best"),
        r"evaluate\.failure_policy: .*'worst'.*, not 'best'",
    ),
    "bad value of a profile over a good shared one": (
        change("profiles.full.reward.kind", "l3"),
        r"profiles\.full\.reward\.kind: .*, not 'l3'",
    ),
    "source without its part": (
        change("profiles.tiny.download.source", "hub"),
        r"profiles\.tiny\.download: .*source hub needs a part hub",
    ),
    "source without its local part": (
        change("profiles.tiny.download.source", "local"),
        r"profiles\.tiny\.download: .*source local needs a part local",
    ),
    "rationales in two places": (
        change("profiles.full.download.rationales.path", "set.jsonl"),
        r"profiles\.full\.download\.rationales: .*either dataset and revision, or path",
    ),
    "rationales without a revision": (
        leave_out("profiles.full.download.rationales.revision"),
        r"profiles\.full\.download\.rationales: .*either dataset and revision, or path",
    ),
    "source that is no reader": (
        change("profiles.tiny.download.source", "rows"),
        r"profiles\.tiny\.download: .*source must be one of .*minibench, not 'rows'",
    ),
    "source that is not the benchmark": (
        change("profiles.tiny.download.source", "rationales"),
        r"profiles\.tiny\.download: .*source must be one of agiqa, .*minibench, not 'rationales'",
    ),
    "AGIQA-3k without a folder": (
        change("profiles.tiny.download.source", "agiqa"),
        r"profiles\.tiny\.download: .*source agiqa needs a part agiqa",
    ),
    "AGIQA-3k without a split": (
        lambda content: content["profiles"]["tiny"]["download"].update(source="agiqa", agiqa="AGIQA-3K"),
        r"profiles\.tiny\.download: .*agiqa\.split, 0 to 9, goes with source: agiqa",
    ),
    "split of AGIQA-3k, which is not the benchmark": (
        change("profiles.full.download.agiqa", {"folder": "AGIQA-3K", "split": 1}),
        r"profiles\.full\.download: .*agiqa\.split, 0 to 9, goes with source: agiqa; other sources use all",
    ),
    "eleventh split of AGIQA-3k": (
        change("profiles.agiqa.download.agiqa.split", 10),
        r"profiles\.agiqa\.download\.agiqa\.split: .*less than or equal to 9, not 10",
    ),
    "unknown key of AGIQA-3k": (
        change("profiles.agiqa.download.agiqa.fold", 1),
        r"profiles\.agiqa\.download\.agiqa\.fold: unknown key \(known: folder, split, mos\)",
    ),
    "folder of AGIQA-3k that is a number": (
        change("profiles.full.download.agiqa", 3),
        r"profiles\.full\.download\.agiqa: .*dictionary.*, not 3",
    ),
    "part of no reader": (
        change("profiles.tiny.download.mini", {"side": 112}),
        r"profiles\.tiny\.download: .*unknown key mini \(known: source, rationales, .*agiqa, .*minibench",
    ),
    "part of a reader that is a number": (
        change("profiles.tiny.download.local", 1),
        r"profiles\.tiny\.download\.local: .*dictionary, not 1",
    ),
    "wrong type in a part": (
        change("grpo.collapse.patience", "x"),
        r"grpo\.collapse\.patience: .* integer, not 'x'",
    ),
    "unknown key in a part": (
        change("grpo.collapse.wait", 1),
        r"grpo\.collapse\.wait: unknown key \(known: .*patience\)",
    ),
    "missing key in a part": (
        leave_out("grpo.collapse.patience"),
        r"grpo\.collapse\.patience: Field required",
    ),
    "rollouts of vLLM without its settings": (
        change("profiles.tiny.grpo.vllm_enable_sleep_mode", None),
        r"profiles\.tiny\.grpo: .*use_vllm: true needs vllm_enable_sleep_mode",
    ),
    "server without an address": (
        change("profiles.full.grpo.vllm_mode", "server"),
        r"profiles\.full\.grpo: .*vllm_server_base_url goes with vllm_mode: server",
    ),
    "address without a server": (
        change("profiles.full.grpo.vllm_server_base_url", "http://localhost:8000"),
        r"profiles\.full\.grpo: .*vllm_server_base_url goes with vllm_mode: server",
    ),
    "sleep of a server": (
        lambda content: content["profiles"]["full"]["grpo"].update(
            vllm_mode="server", vllm_server_base_url="http://localhost:8000"
        ),
        r"profiles\.full\.grpo: .*vllm_enable_sleep_mode goes with vllm_mode: colocate",
    ),
    "empty profile": (change("profiles.full", None), r"profiles\.full: must hold keys and values, not None"),
    "section that is a number": (change("reward", 1), r"reward: must hold keys and values, not 1"),
    "section of a profile that is a list": (
        change("profiles.tiny.grpo", ["steps"]),
        r"profiles\.tiny\.grpo: must hold keys and values, not \['steps'\]",
    ),
    "learnt contract that nothing learns": (
        change("profiles.tiny.prompt.contract", "learnt"),
        r"profiles\.tiny\.prompt\.contract: learnt needs download\.learn_contract",
    ),
    "contract without a set to learn from": (
        change("profiles.tiny.download.learn_contract", {"model": "critic", "revision": "main"}),
        r"profiles\.tiny\.download: .*learn_contract needs rationales",
    ),
    "one limit of the pixels": (
        change("profiles.full.download.learn_contract", {"model": "a", "revision": "main", "min_pixels": 1}),
        r"profiles\.full\.download\.learn_contract: .*give both min_pixels and max_pixels, or neither",
    ),
    "key of another objective": (
        change("profiles.tiny.grpo.sapo_temperature_neg", 1.05),
        r"profiles\.tiny\.grpo: .*sapo_temperature_neg: nothing reads it without loss_type: sapo",
    ),
    "control of an entropy that nothing controls": (
        change("grpo.entropy_target", 0.2),
        r"profiles\.tiny\.grpo: .*entropy_target: nothing reads it without use_adaptive_entropy: true",
    ),
    "clip of another objective": (
        change("profiles.tiny.grpo.loss_type", "sapo"),
        r"profiles\.tiny\.grpo: .*delta: nothing reads it without a loss_type that clips; set it to null",
    ),
    "largest ratio that is a distance": (
        lambda content: content["profiles"]["tiny"]["grpo"].update(loss_type="cispo", delta=None),
        r"profiles\.tiny\.grpo: .*cispo takes epsilon_high for the largest ratio itself, so 0\.28 would shrink",
    ),
    "ratios of completions in a mean over tokens": (
        change("profiles.tiny.grpo.importance_sampling_level", "sequence"),
        r"profiles\.tiny\.grpo: .*sequence needs loss_type: grpo \(GSPO\) or sapo: dapo would count each",
    ),
    "removed key": (
        change("prompt", {"user_text": "dataset"}),
        r"prompt\.user_text: unknown key: remove it, since .* `critic contract learn` and name that in prompt\.c",
    ),
    "key that is a number": (change("reward", {1: 2}), r"reward: must hold keys and values, not {1: 2}"),
    "profile that is a list": (
        change("profile", ["tiny"]),
        r"profile: \['tiny'\] is not one of .*tiny, tiny-qwen3-vl, full, paper, single-gpu",
    ),
    "wrong seed": (change("seed", 1.5), r"seed: must be an integer, not 1\.5"),
    "switch for a seed": (change("seed", True), r"seed: must be an integer, not True"),
    "no seed": (leave_out("seed"), r"seed: must be an integer, not None"),
    "unknown profile": (
        change("profile", "huge"),
        r"profile: 'huge' is not one of .*tiny, tiny-qwen3-vl, full, paper, single-gpu",
    ),
    "no profile": (
        leave_out("profile"),
        r"profile: None is not one of .*tiny, tiny-qwen3-vl, full, paper, single-gpu",
    ),
    "no profiles": (leave_out("profiles"), r"profile: 'tiny' is not one of .*: none"),
}


@pytest.mark.parametrize(("slip", "message"), SLIPS.values(), ids=SLIPS)
def test_a_slip_is_named_with_its_file_and_key_whatever_is_loaded(
    slip: Callable[[dict[str, Any]], None],
    message: str,
    content: dict[str, Any],
    write: Callable[[dict[str, Any]], None],
) -> None:
    slip(content)
    write(content)
    with pytest.raises(ParamsError, match=rf"^params\.yaml: {message}"):
        params.load(params.Prompt)


def test_all_slips_are_named_at_once(content: dict[str, Any], write: Callable[[dict[str, Any]], None]) -> None:
    change("reward.r_min", 2.0)(content)
    change("evaluate.n_boot", 10)(content)
    write(content)
    with pytest.raises(ParamsError, match=r"reward\.r_min: (.|\n)*evaluate\.n_boot: "):
        params.load(params.Prompt)


@pytest.mark.parametrize("read", [params.profile, params.seed, lambda: params.load(params.Prompt)])
def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[], Any]) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=r"no params\.yaml here: run from the top folder"):
        read()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile: [tiny", r"is not YAML: (.|\n)*line 1"),
        ("\tseed: 7", "is not YAML"),
        ("", "must hold keys and values"),
        ("- seed", "must hold keys and values"),
        ("seed", "must hold keys and values"),
    ],
)
@pytest.mark.parametrize("read", [params.profile, params.seed, lambda file: params.load(params.Prompt, file)])
def test_what_is_no_yaml_of_keys_and_values_is_named(
    tmp_path: Path, text: str, message: str, read: Callable[[Path], Any]
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ParamsError, match=rf"mine\.yaml {message}"):
        read(tmp_path / "mine.yaml")


# --- params.py imports none of the modules that it sets, and so repeats their choices


def choices(section: type[Section], field: str) -> tuple[Any, ...]:
    return get_args(section.model_fields[field].annotation)


def test_the_choices_are_those_of_the_modules_that_they_set() -> None:
    assert choices(params.Evaluate, "failure_policy") == get_args(metrics.FailurePolicy)


def test_the_reward_section_is_the_keywords_of_compute_score_and_the_weights() -> None:
    response, mos, *keywords = inspect.signature(rewards.compute_score).parameters
    assert (response, mos) == ("response", "mos")
    assert [*params.Reward.model_fields] == [*keywords, "distance", "axes", "pairs"]
    section = params.load(params.Reward, OWN)
    given = section.model_dump(exclude={"distance", "axes", "pairs"})
    scores = rewards.compute_score("<think></think><answer>3</answer>", 3.0, **given)
    assert scores == {"overall": 1 + section.format_weight, "format": 1.0, "accuracy": 1.0}


# --- between sections


def grpo(content: dict[str, Any], **values: Any) -> dict[str, Any]:
    content["profiles"]["full"]["grpo"].update(values)
    return content


def test_sharing_prompts_needs_an_attention_that_takes_a_mask(
    content: dict[str, Any], write: Callable[[dict[str, Any]], None]
) -> None:
    content["profiles"]["full"]["model"]["attn_implementation"] = "flash_attention_4"
    write(content)
    with pytest.raises(
        ParamsError, match=r"profiles\.full\.model\.attn_implementation: flash_attention_4 can't share"
    ):
        params.load(params.Grpo)
    for name in ("sft", "grpo"):
        content[name]["share_prompts"] = False
    write(content)
    params.load(params.Grpo)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"num_generations": 7},
            r"profiles\.full\.grpo: 1024 completions are generated at a time \(per_device_train_batch_size 8 x "
            r"gradient_accumulation_steps 16 x 8 processes of launch\), which must be a multiple of "
            r"num_generations, 7",
        ),
        (
            {"steps_per_generation": 2, "num_generations": 256},
            r"profiles\.full\.grpo: 128 completions are generated at a time \(per_device_train_batch_size 8 x "
            r"steps_per_generation 2 x 8 processes of launch\), which must be a multiple of num_generations, 256",
        ),
        (
            {"per_device_train_batch_size": 12},
            r"profiles\.full\.grpo\.per_device_train_batch_size: 12 is not a multiple of num_generations, 8",
        ),
        (
            {"steps_per_generation": 5},
            r"profiles\.full\.grpo\.steps_per_generation: 5 does not divide gradient_accumulation_steps, 16, so "
            r"rollouts would be older",
        ),
        (
            {"vllm_tensor_parallel_size": 3},
            r"profiles\.full\.grpo\.vllm_tensor_parallel_size: 3 does not divide the 8 processes",
        ),
    ],
)
def test_what_does_not_go_together_is_named(
    values: dict[str, Any], message: str, content: dict[str, Any], write: Callable[[dict[str, Any]], None]
) -> None:
    """Also in a profile that isn't the active one."""
    write(grpo(content, **values))
    with pytest.raises(ParamsError, match=message):
        params.load(params.Grpo)


# --- old names


OLD_AND_NEW = [
    ("profiles.tiny.launch.machines", "nnodes"),
    ("profiles.tiny.sft.epochs", "num_train_epochs"),
    ("profiles.tiny.sft.batch_size", "per_device_train_batch_size"),
    ("profiles.tiny.grpo.batch_size", "per_device_train_batch_size"),
    ("profiles.tiny.grpo.max_completion_tokens", "max_completion_length"),
    ("profiles.tiny.evaluate.max_completion_tokens", "max_tokens"),
    ("grpo.rollouts", r"use_vllm \(true or false\)"),
    ("grpo.vllm", "vllm_mode, vllm_gpu_memory_utilization, .* and vllm_server_base_url"),
    ("evaluate.policy", "failure_policy"),
    ("release.golden", "smoke_edits"),
]


@pytest.mark.parametrize(("old", "new"), OLD_AND_NEW)
def test_an_old_name_says_what_it_is_called_now(
    old: str, new: str, content: dict[str, Any], write: Callable[[dict[str, Any]], None]
) -> None:
    change(old, 1)(content)
    write(content)
    with pytest.raises(ParamsError, match=rf"^params\.yaml: {old}: unknown key: it is now called {new}(\n|$)"):
        params.load(params.Prompt)


def test_an_old_name_in_a_part_says_what_it_is_called_now(
    content: dict[str, Any], write: Callable[[dict[str, Any]], None]
) -> None:
    content["profiles"]["tiny"]["sft"]["lora"] = {"rank": 8, "lora_alpha": 8, "lora_dropout": 0.0}
    write(content)
    with pytest.raises(ParamsError, match=r"sft\.lora\.rank: unknown key: it is now called r$"):
        params.load(params.Prompt)


def test_every_new_name_is_a_key_and_no_old_one_is() -> None:
    sections = {section.name: section for section in SECTIONS} | {"training": params.Training}
    for old, new in params._RENAMED.items():
        name, *part, key = old.split(".")
        fields = params.Lora.model_fields if part else sections[name].model_fields
        assert key not in fields
        assert {word for word in re.findall(r"\w+", new) if word not in ("true", "or", "false", "and")} <= {
            *fields
        }


# --- profiles that extend another


TINY = ("tiny", "tiny-qwen3-vl")
LORA = ("single-gpu", "qwen3-vl-4b")


def of(profiles: Iterable[str], *stages: str) -> dict[str, set[str]]:
    return {profile: {*stages} for profile in profiles}


def everywhere(*stages: str, but: str = "") -> dict[str, set[str]]:
    """The stages in `full` and in the profiles that extend it, but one."""
    return of((profile for profile in PROFILES if profile not in (*TINY, but)), *stages)


EDITS: list[tuple[str, str, dict[str, set[str]]]] = [
    # in params.yaml, what it becomes, and the stages that run again under a profile
    ("diff_at_rmin: 1.0", "diff_at_rmin: 1.5", everywhere("grpo")),
    ("save_steps: 50", "save_steps: 60", everywhere("sft")),
    (
        "learning_rate: 1.0e-5  # [d]",
        "learning_rate: 3.0e-5",
        of((profile for profile in PROFILES if profile not in (*TINY, *LORA)), "sft"),
    ),
    ("learning_rate: 1.0e-4", "learning_rate: 3.0e-4", of(LORA, "sft")),
    ("r: 32", "r: 16", of(LORA, "sft", "grpo")),
    ("dataset: Coobiw/IE-Bench-4k", "dataset: other/set", everywhere("download", "evaluate", but="agiqa")),
    ("split: official", "split: by_source", {"paper": {"download", "evaluate"}}),
    ("loss_type: bnpo", "loss_type: grpo", {"paper": {"grpo"}}),
    ("kind: l2", "kind: laplace", of(TINY, "grpo")),
    ("epsilon: 0.2", "epsilon: 0.3", of(PROFILES, "grpo")),
]


def read_by_dvc(repo: Repo) -> dict[str, dict[str, Any]]:
    """The params of each stage, as DVC reads them from the file as it is now."""
    stages = [stage for stage in repo.index.stages if stage.cmd]
    return {
        stage.name: {key: value for dep in stage.params for key, value in dep.read_params().items()}
        for stage in stages
    }


@pytest.mark.parametrize("profile", PROFILES)
def test_a_changed_value_runs_the_stages_that_read_it_in_each_profile(profile: str, tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\nno_scm = true\n")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    own = OWN.read_text().replace("profile: tiny", f"profile: {profile}")
    file = tmp_path / "params.yaml"
    file.write_text(own)
    with Repo(str(tmp_path)) as repo:
        before = read_by_dvc(repo)
        for old, new, stages in EDITS:
            assert own.count(old) == 1
            file.write_text(own.replace(old, new))
            after = read_by_dvc(repo)
            assert {stage for stage in before if before[stage] != after[stage]} == stages.get(profile, set()), new


def flat(values: dict[str, Any], place: str = "") -> dict[str, Any]:
    leaves = {}
    for key, value in values.items():
        leaves |= flat(value, f"{place}{key}.") if isinstance(value, dict) and value else {place + key: value}
    return leaves


@pytest.mark.parametrize(
    "key",
    [
        "full.reward.diff_at_rmin",
        "single-gpu.reward.diff_at_rmin",
        "paper.reward.diff_at_rmin",
        "paper.download.hub.split",
        "full.download.hub.revision",
        "single-gpu.sft.lora.r",
        "agiqa.download.agiqa.split",
    ],
)
def test_dvc_exp_run_s_changes_the_value_it_names_and_no_other(
    key: str, content: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copy(OWN, tmp_path)
    apply_overrides(tmp_path / "params.yaml", [f"profiles.{key}=changed"])
    after = flat(yaml.safe_load((tmp_path / "params.yaml").read_text()))
    assert after == flat(content) | {f"profiles.{key}": "changed"}


def test_no_two_keys_share_a_mapping(content: dict[str, Any]) -> None:
    """`dvc exp run -S` would change both, or lose the change: `key: {<<: *mark}`, not `key: *mark`."""

    def mappings(values: dict[str, Any]) -> list[int]:
        return [id(values), *(n for value in values.values() if isinstance(value, dict) for n in mappings(value))]

    assert len(found := mappings(content)) == len({*found})


def test_a_profile_has_the_values_of_the_one_that_it_extends(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(OWN.read_text().replace("diff_at_rmin: 1.0", "diff_at_rmin: 1.5"))
    for profile, expected in (("tiny", 2.0), ("full", 1.5), ("paper", 1.5), ("single-gpu", 1.5)):
        assert params.load(params.Reward, file, profile=profile).diff_at_rmin == expected


def test_a_profile_that_extends_what_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(OWN.read_text().replace("{<<: *reward}", "{<<: *rewards}"))
    with pytest.raises(ParamsError, match=r"is not YAML: found undefined alias 'rewards'(.|\n)*line \d+"):
        params.load(params.Prompt, file)
