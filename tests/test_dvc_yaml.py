"""dvc.yaml says of each stage exactly what that imports and reads: neither less (stale outputs) nor more."""

import ast
from itertools import chain
from pathlib import Path

import grimp
import pytest
import yaml

from stages.launch import TRAININGS

ROOT = Path(__file__).parents[1]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
STAGES = PIPELINE["stages"]
IMPORTS = grimp.build_graph("critic", "stages", cache_dir=None)
UNDECLARED = {"critic.params", "critic.audit.environment", "critic.audit.manifests", "critic.process_tree"}
"""Read as params, or what writes the manifests and changes no other output. Nor is what they alone import."""
for undeclared in UNDECLARED:
    IMPORTS.remove_module(undeclared)
RATINGS, PREFERENCES = "data/ratings", "data/preferences"
SEEDS = "reports/seeds.json"
READ_BY_FLOWS = {"audit", "gate", "ratings", "release", "retrain"}
DATA_BESIDE_CODE = {
    "critic.prompts": "critic/contracts",
    "critic.evaluation.published": "critic/evaluation/published.yaml",
    "critic.evaluation.report": "critic/evaluation/templates",
}


def modules(stage: str) -> set[str]:
    """The stage's module, what starts it, and all of ours that they import, directly or not."""
    started = {f"stages.{stage}"} | ({"stages.launch"} if stage in TRAININGS else set())
    if stage == "download":  # imports each reader by its name
        started |= IMPORTS.find_children("critic.data.readers")
    return started.union(*(IMPORTS.find_upstream_modules(module) for module in started))


def path(module: str) -> Path:
    file = ROOT / (module.replace(".", "/") + ".py")
    return file if file.exists() else ROOT / module.replace(".", "/") / "__init__.py"


def params_read(stage: str) -> set[str]:
    """The keys of params.yaml behind each `params.load(params.X)`, `params.seed()` and `params.profile()`."""
    keys = set()
    for module in modules(stage):
        for node in ast.walk(ast.parse(path(module).read_text())):
            match node:
                case ast.Call(ast.Attribute(ast.Name("params"), "load"), [ast.Attribute(_, section)]):
                    name = section.lower()
                    keys |= {name} & set(PARAMS)
                    if any(name in profile for profile in PARAMS["profiles"].values()):
                        keys.add(f"profiles.${{profile}}.{name}")
                case ast.Call(ast.Attribute(ast.Name("params"), "seed" | "profile" as key)):
                    keys.add(key)
    return keys


@pytest.mark.parametrize("stage", STAGES)
def test_code_is_declared_exactly(stage: str) -> None:
    code = {str(path(m).relative_to(ROOT)) for m in modules(stage) if len(ast.parse(path(m).read_text()).body) > 1}
    code |= {DATA_BESIDE_CODE[module] for module in modules(stage) if module in DATA_BESIDE_CODE}
    if stage == "download":  # reads no contract, and makes one
        code.remove("critic/contracts")
    folders = {"critic/audit/cards", "critic/data/minibench", "critic/data/readers", "critic/data/teacher"}
    code = {next((f for f in folders if file.startswith(f)), file) for file in code}
    declared = {dep for dep in STAGES[stage]["deps"] if dep.startswith(("critic/", "stages/"))}
    assert declared == code


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_declared_exactly(stage: str) -> None:
    assert set(STAGES[stage].get("params", [])) == params_read(stage)


def test_every_param_is_some_stages_or_the_flows() -> None:
    declared = set(chain.from_iterable(stage.get("params", []) for stage in STAGES.values()))
    shared = set(PARAMS) - {"profiles"} - READ_BY_FLOWS
    scaled = {f"profiles.${{profile}}.{s}" for profile in PARAMS["profiles"].values() for s in profile}
    assert declared == shared | scaled - {f"profiles.${{profile}}.{s}" for s in READ_BY_FLOWS}


def test_each_output_has_one_stage_and_each_input_comes_from_one() -> None:
    outs = list(
        chain.from_iterable(
            [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"] + stage.get("metrics", [])]
            for stage in STAGES.values()
        )
    )
    assert len(outs) == len(set(outs))
    rooms = ("data/", "models/", "reports/")
    made = {dep for stage in STAGES.values() for dep in stage["deps"] if dep.startswith(rooms)}
    assert made <= {*outs, RATINGS, PREFERENCES, SEEDS}


def test_what_no_stage_makes_is_always_there() -> None:
    """DVC stops at a dependency that isn't; git keeps no empty folder."""
    assert all((ROOT / folder / "README.md").exists() for folder in (RATINGS, PREFERENCES))
    assert (ROOT / SEEDS).exists()


def test_only_evaluate_reads_the_metrics_code() -> None:
    """So a new metric never costs a training."""

    def readers(module: str) -> list[str]:
        return [name for name, stage in STAGES.items() if f"critic/evaluation/{module}.py" in stage["deps"]]

    assert readers("agreement") == ["evaluate"]
    assert readers("metrics") == ["evaluate", "cards"]  # the card has their names


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_says_what_it_does_and_is_launched(stage: str) -> None:
    assert STAGES[stage]["desc"].endswith(".")
    assert STAGES[stage]["cmd"] == f"python -m stages.launch {stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_leaves_its_manifest_in_git(stage: str) -> None:
    assert {f"reports/provenance/{stage}.json": {"cache": False}} in STAGES[stage]["outs"]
