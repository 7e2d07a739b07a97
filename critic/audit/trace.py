"""A subject's lineage, for people: a tree for terminals, Mermaid for documents, HTML for browsers.

Console().print(as_tree(find(repository, "v1.2.0")))
Path("lineage.html").write_text(as_html(subject))
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.markup import escape
from rich.tree import Tree

from critic.audit.manifests import Manifest, Material
from critic.audit.records import Record, flat
from critic.audit.resolve import Subject

TEMPLATES = Path(__file__).parent / "templates"
ROWS = (
    "data/rl/train.parquet",
    "data/sft/train.parquet",
    "data/validated/train.parquet",
    "data/raw/train.parquet",
)
"""The tables that a critic was trained on, and those that they were made of."""


def as_tree(subject: Subject, *, in_full: bool = False) -> Tree:
    """A tree of materials: below each, the stage that made it, and what that read.

    Args:
        in_full: whole hashes, all params and all modules.
    """
    root = Tree(f"[b]{escape(subject.told)}[/b]  ({subject.record.name})")
    materials = {step.path: step for step in subject.record.lineage(subject.path)}
    shown: set[str] = set()

    def grow(tree: Tree, path: str) -> None:
        step = materials[path]
        branch = tree.add(
            f"[cyan]{path}[/cyan]  {_size(step.material)}  sha256 {_hash(step.material.sha256, in_full)}"
        )
        if step.maker is None or (path in shown):
            if step.maker is not None:
                branch.add("[dim]as above[/dim]")
            return
        shown.add(path)
        made = branch.add(f"stage [b]{step.maker.stage}[/b]  manifest {_hash(step.maker.sha256, in_full)}")
        for fact in facts(step.maker, in_full=in_full):
            made.add(f"[dim]{escape(fact)}[/dim]")
        for name in step.maker.inputs:
            grow(made, name)

    grow(root, subject.path)
    return root


def facts(manifest: Manifest, *, in_full: bool = False) -> list[str]:
    """What a stage ran with, a line each."""
    values = flat(manifest.params)
    packages, environment = manifest.environment.packages, manifest.environment
    lines = [
        "params "
        + (
            ", ".join(f"{key}={value}" for key, value in values.items())
            if in_full
            else f"of profile {manifest.profile}, seed {values.get('seed', 'not read')}, {len(values)} values"
        ),
        f"code {len(manifest.code)} modules"
        + (": " + ", ".join(f"{name} {digest}" for name, digest in manifest.code.items()) if in_full else ""),
    ]
    if manifest.contract is not None:
        lines.append(
            f"prompt contract {manifest.contract.name}  sha256 {_hash(manifest.contract.sha256, in_full)}"
        )
    lines += [f"{name} at {commit}" for name, commit in manifest.revisions.items()]
    where = [f"Python {environment.python}", environment.system, environment.processor, *environment.gpus]
    lock = f"{packages.lock} {_hash(packages.sha256, in_full)}" if packages.sha256 else "no lock file"
    lines.append(f"ran in {', '.join(where)}, {lock}")
    return lines


def rows(subject: Subject) -> dict[str, str]:
    """The SHA-256 of each table of training rows in a subject's lineage, by its path."""
    found = {}
    for step in subject.record.lineage(subject.path):
        made = step.maker.outputs.get(step.path) if step.maker else None
        for name, digest in (made.files if made else {}).items():
            if f"{step.path}/{name}" in ROWS:
                found[f"{step.path}/{name}"] = digest
    return dict(sorted(found.items()))


def as_mermaid(record: Record, path: str) -> str:
    """The lineage as a Mermaid flowchart, from raw data down to a path."""
    lines, names = ["flowchart TD"], dict[str, str]()
    for step in record.lineage(path):
        names.setdefault(step.path, f"m{len(names)}")
        lines.append(f'  {names[step.path]}["{step.path}<br/>{step.material.sha256[:12]}"]')
    stages = {step.maker.stage: step.maker for step in record.lineage(path) if step.maker}
    for stage, manifest in stages.items():
        lines.append(f'  {stage}(["{stage}"])')
        lines += [f"  {names[name]} --> {stage}" for name in manifest.inputs]
        lines += [f"  {stage} --> {names[name]}" for name in manifest.outputs if name in names]
    return "\n".join(lines) + "\n"


def as_html(subject: Subject) -> str:
    """The lineage as a page without any script, each stage to be opened."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    steps: list[dict[str, Any]] = [
        {
            "path": step.path,
            "sha256": step.material.sha256,
            "size": _size(step.material),
            "files": (step.maker.outputs.get(step.path, step.material) if step.maker else step.material).files,
            "maker": step.maker,
            "facts": facts(step.maker) if step.maker else [],
            "params": flat(step.maker.params) if step.maker else {},
        }
        for step in subject.record.lineage(subject.path)
    ]
    return environment.get_template("trace.html").render(subject=subject, steps=steps, rows=rows(subject))


def _hash(digest: str, in_full: bool) -> str:
    return digest if in_full else digest[:12]


def _size(material: Material) -> str:
    size = float(material.bytes)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
