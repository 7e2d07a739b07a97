"""Which stages run again when a key of params.yaml changes, and where its value is read.

    for key in covered(Path.cwd(), "tiny"): print(key.key, key.stages, key.readers)

Each key is changed in turn in a copy of dvc.yaml and params.yaml, and DVC is asked which stages then differ. So
that is proof of what DVC would do; that the code reads the key is looked up in its syntax tree.
"""

import ast
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.repo import Repo

from critic.audit.records import flat

_SECTIONS_AT = 2
"""How deep the names of sections are under `profiles`."""


@dataclass(frozen=True)
class Covered:
    """A key of params.yaml, or a part of it that a library gets whole.

    Attributes:
        stages: those that run again when it changes, those after them not among them.
        readers: the modules that read an attribute of its name.
    """

    key: str
    stages: tuple[str, ...]
    readers: tuple[str, ...]

    @property
    def fault(self) -> str | None:
        """Why the key is no good, None if it is: it must change a stage, or be read by what isn't one."""
        if not self.readers:
            return "no code reads it"
        if not self.stages and all(reader.startswith("stages/") for reader in self.readers):
            return "a stage reads it, and doesn't run again when it changes"
        return None


@dataclass(frozen=True)
class Constant:
    """A number that code has in capitals at its top level, and the stages that run again when it is edited."""

    where: str
    value: str
    stages: tuple[str, ...]


def covered(
    folder: Path, profile: str | None = None, progress: Callable[[list[str]], Iterable[str]] = iter
) -> list[Covered]:
    """All keys of a checkout's params.yaml, the shared ones and those of a profile, in their order.

    Args:
        profile: None is the active one.
        progress: is given the keys and gives them back, to show how far it is.

    Raises:
        KeyError: there is no such profile.
    """
    values = yaml.safe_load((folder / "params.yaml").read_text())
    if profile is not None:
        values["profile"] = profile
    active = values["profile"]
    scaled = {f"profiles.{active}.{key}" for key in flat(values["profiles"][active])}
    keys = [key for key in flat({k: v for k, v in values.items() if k != "profiles"}) if key != "profile"]
    readers = _attributes(folder)
    found = []
    with tempfile.TemporaryDirectory(prefix="critic-") as scratch:
        copy = Path(scratch)
        (copy / "dvc.yaml").write_text((folder / "dvc.yaml").read_text())
        (copy / ".dvc").mkdir()
        (copy / ".dvc/config").write_text("[core]\nno_scm = true\n")
        before = _read(copy, values)
        for key in progress([*keys, *sorted(scaled), "profile"]):
            if key == "profile":
                others = [name for name in values["profiles"] if name != active]
                after = _read(copy, values | {"profile": others[0]}) if others else before
            else:
                after = _read(copy, _changed(values, key))
            stages = tuple(stage for stage in before if before[stage] != after[stage])
            found.append(Covered(key, stages, _readers(key, readers)))
    return found


def constants(folder: Path) -> list[Constant]:
    """The numbers in capitals of all modules that stages declare, by where they are."""
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    by_module: dict[Path, list[str]] = {}
    for stage, declared in pipeline.items():
        for dep in declared.get("deps", []):
            path = folder / dep
            for module in [path] if path.suffix == ".py" else sorted(path.rglob("*.py")):
                if dep.startswith(("critic/", "stages/")):
                    by_module.setdefault(module, []).append(stage)
    found = []
    for module, stages in sorted(by_module.items()):
        for node in ast.parse(module.read_text()).body:
            match node:
                case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, value) if (
                    name.isupper() and value is not None and _is_number(value)
                ):
                    where = f"{module.relative_to(folder)}:{node.lineno} {name}"
                    found.append(Constant(where, ast.unparse(value), tuple(stages)))
    return found


def _is_number(node: ast.expr) -> bool:
    return any(
        isinstance(part, ast.Constant) and isinstance(part.value, int | float) and not isinstance(part.value, bool)
        for part in ast.walk(node)
    )


def _read(folder: Path, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each stage reads of params.yaml, by DVC's own reading of dvc.yaml and it."""
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    with Repo(str(folder)) as repo:
        return {
            stage.name: {key: value for dep in stage.params for key, value in dep.read_params().items()}
            for stage in repo.index.stages
            if stage.cmd
        }


def _changed(values: dict[str, Any], key: str) -> dict[str, Any]:
    """The values with another one at a key."""
    name, _, rest = key.partition(".")
    return values | {name: _changed(values[name], rest) if rest else _other(values[name])}


def _other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value * 2 + 1
        case str():
            return f"{value}-changed"
        case _:
            return "changed"


def _attributes(folder: Path) -> dict[str, set[str]]:
    """The modules that read an attribute of a name, as `section.epochs`; of a name that is no attribute anywhere,
    those that have an argument of it, as who is given all of a section has."""
    readers: dict[str, set[str]] = {}
    arguments: dict[str, set[str]] = {}
    for module in sorted(
        [*folder.glob("critic/**/*.py"), *folder.glob("stages/*.py"), *folder.glob("flows/*.py")]
    ):
        name = module.relative_to(folder).as_posix()
        for node in ast.walk(ast.parse(module.read_text())):
            match node:
                case ast.Attribute(_, attribute, ast.Load()):
                    readers.setdefault(attribute, set()).add(name)
                case ast.arg(argument):
                    arguments.setdefault(argument, set()).add(name)
    return {**arguments, **readers}


def _readers(key: str, readers: dict[str, set[str]]) -> tuple[str, ...]:
    names = key.split(".")
    if names[0] == "profiles":
        names = names[_SECTIONS_AT:]
    if len(names) > 2 and not readers.get(names[-1]):  # of a dictionary that goes on as it is
        names = names[:-1]
    return tuple(sorted(readers.get(names[-1], set()) - {"critic/params.py"}))
