"""Which stages run again when a key of params.yaml changes, and which modules read it.

The `params` of a stage in dvc.yaml name the keys and sections that it reads. Modules that read the key are found
in their syntax trees.
"""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from critic.audit.manifests import CODE
from critic.audit.records import flatten, is_within


@dataclass(frozen=True)
class ParamCoverage:
    """A key of params.yaml, or a mapping that is passed to a library as a whole.

    `stages` are those that run again because the key changes; those that follow from them are left out. `readers`
    are the modules that read an attribute of this name.
    """

    key: str
    stages: tuple[str, ...]
    readers: tuple[str, ...]

    @property
    def fault(self) -> str | None:
        """What is wrong with the key, None if nothing is."""
        if not self.readers:
            return "no code reads it"
        if not self.stages and all(reader.startswith("stages/") for reader in self.readers):
            return "a stage reads it and doesn't run again when it changes"
        return None


@dataclass(frozen=True)
class Constant:
    """A number in a module-level constant, and the stages that run again when it is edited."""

    where: str
    value: str
    stages: tuple[str, ...]


def param_coverage(folder: Path, profile: str | None = None) -> list[ParamCoverage]:
    """All keys of a checkout's params.yaml: the shared ones, then those of a profile (None: the active one).

    Raises a `KeyError` if there is no such profile.
    """
    values = yaml.safe_load((folder / "params.yaml").read_text())
    active = values["profile"] if profile is None else profile
    scaled = sorted(f"profiles.{active}.{key}" for key in flatten(values["profiles"][active]))
    shared = flatten({name: value for name, value in values.items() if name not in ("profile", "profiles")})
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    readers = _readers_by_name(folder)
    coverage = []
    for key in [*shared, *scaled, "profile"]:
        stages = (stage for stage, declared in pipeline.items() if _runs_again(declared, key, active))
        coverage.append(ParamCoverage(key, tuple(stages), _readers(key, readers)))
    return coverage


def _runs_again(declared: dict[str, Any], key: str, profile: str) -> bool:
    """Whether a stage reads a key or a section that has it; another profile is another section."""
    names = declared.get("params", [])
    if key == "profile" and any("${profile}" in name for name in names):
        return True
    return any(is_within(key, name.replace("${profile}", profile), ".") for name in names)


def constants(folder: Path) -> list[Constant]:
    """The module-level constants with numbers, of all modules in the deps of stages, by place."""
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    by_module: dict[Path, list[str]] = {}
    for stage, declared in pipeline.items():
        for dep in declared.get("deps", []):
            path = folder / dep
            for module in [path] if path.suffix == ".py" else sorted(path.rglob("*.py")):
                if dep.startswith(CODE):
                    by_module.setdefault(module, []).append(stage)
    found = []
    for module, stages in sorted(by_module.items()):
        for node in ast.parse(module.read_text()).body:
            match node:
                case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, value) if (
                    name.isupper() and value is not None and _has_number(value)
                ):
                    where = f"{module.relative_to(folder)}:{node.lineno} {name}"
                    found.append(Constant(where, ast.unparse(value), tuple(stages)))
    return found


def _has_number(node: ast.expr) -> bool:
    return any(
        isinstance(part, ast.Constant) and isinstance(part.value, int | float) and not isinstance(part.value, bool)
        for part in ast.walk(node)
    )


def _readers_by_name(folder: Path) -> dict[str, set[str]]:
    """The modules that read an attribute of a name, such as `section.max_steps`.

    For a name that is nowhere an attribute, the modules with an argument of that name: the functions there take a
    section's values as keyword arguments. "sft.*" has the modules that pass on all of the section `sft`.
    """
    attributes: dict[str, set[str]] = {}
    arguments: dict[str, set[str]] = {}
    modules = (module for glob in ("critic/**/*.py", "stages/*.py", "flows/*.py") for module in folder.glob(glob))
    for module in modules:
        name = module.relative_to(folder).as_posix()
        for node in ast.walk(ast.parse(module.read_text())):
            match node:
                case ast.Attribute(_, attribute, ast.Load()):
                    attributes.setdefault(attribute, set()).add(name)
                case ast.arg(argument):
                    arguments.setdefault(argument, set()).add(name)
                case ast.FunctionDef(args=ast.arguments(args=[ast.arg(argument, ast.Attribute(_, section)), *_])):
                    if f"**{argument}.model_dump(" in ast.unparse(node):
                        arguments.setdefault(f"{section.lower()}.*", set()).add(name)
    return {**arguments, **attributes}


def _readers(key: str, readers: dict[str, set[str]]) -> tuple[str, ...]:
    names = key.split(".")
    if names[0] == "profiles":
        names = names[2:]
    if len(names) > 2 and not readers.get(names[-1]):  # a mapping that is passed on as a whole
        names = names[:-1]
    direct = readers.get(names[-1], set()) - {"critic/params.py"}
    return tuple(sorted(direct or readers.get(f"{names[0]}.*", set())))
