"""A subject's lineage as text: a tree for terminals, Mermaid for documents, HTML for browsers."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.filesize import decimal
from rich.markup import escape
from rich.tree import Tree

from critic.audit.manifests import Manifest
from critic.audit.records import Record, flatten
from critic.audit.resolve import Subject

TEMPLATES = Path(__file__).parent / "templates"
TRAINING_TABLES = (
    "data/pictures/train.arrow",
    "data/rl/train.parquet",
    "data/sft/train.parquet",
    "data/validated/train.parquet",
    "data/raw/train.parquet",
)
"""The tables that a critic was trained on, and the tables that they were made from."""


def as_tree(subject: Subject, *, full: bool = False) -> Tree:
    """A tree of materials; below each, the stage that made it and that stage's inputs.

    `full` shows whole hashes, all params and all modules.
    """
    root = Tree(f"[b]{escape(subject.label)}[/b]  ({subject.record.name})")
    materials = {step.path: step for step in subject.record.lineage(subject.path)}
    shown: set[str] = set()

    def grow(tree: Tree, path: str) -> None:
        step = materials[path]
        branch = tree.add(
            f"[cyan]{path}[/cyan]  {decimal(step.material.bytes)}  sha256 {_hash(step.material.sha256, full)}"
        )
        if step.maker is None:
            return
        if path in shown:
            branch.add("[dim]see above[/dim]")
            return
        shown.add(path)
        made = branch.add(f"stage [b]{step.maker.stage}[/b]  manifest {_hash(step.maker.sha256, full)}")
        for line in describe(step.maker, full=full):
            made.add(f"[dim]{escape(line)}[/dim]")
        for name in step.maker.inputs:
            grow(made, name)

    grow(root, subject.path)
    return root


def describe(manifest: Manifest, *, full: bool = False) -> list[str]:
    """What a stage ran with: lines for params, code, prompt contract, hub commits and environment."""
    values, environment = flatten(manifest.params), manifest.environment
    packages = environment.packages
    params = f"profile {manifest.profile}, seed {values.get('seed', 'not read')}, {len(values)} values"
    modules = f"{len(manifest.code)} modules"
    if full:
        params = ", ".join(f"{key}={value}" for key, value in values.items())
        modules += ": " + ", ".join(f"{name} {digest}" for name, digest in manifest.code.items())
    lines = [f"params: {params}", f"code: {modules}"]
    if (contract := manifest.contract) is not None:
        lines.append(f"prompt contract {contract.name}  sha256 {_hash(contract.sha256, full)}")
    lines += [f"{name} at {commit}" for name, commit in manifest.revisions.items()]
    where = [f"Python {environment.python}", environment.system, environment.processor, *environment.gpus]
    lock = f"{packages.lock} {_hash(packages.sha256, full)}" if packages.sha256 else "no lock file"
    return [*lines, f"environment: {', '.join(where)}, {lock}"]


def training_tables(subject: Subject) -> dict[str, str]:
    """The SHA-256 of each table of training rows in a subject's lineage, by path."""
    found: dict[str, str] = {}
    for step in subject.record.lineage(subject.path):
        found |= {f"{step.path}/{name}": digest for name, digest in step.files.items()}
    return {path: found[path] for path in sorted(TRAINING_TABLES) if path in found}


def as_mermaid(record: Record, path: str) -> str:
    """The lineage of a path as a Mermaid flowchart, from raw data down."""
    lines, names = ["flowchart TD"], dict[str, str]()
    stages = {}
    for step in record.lineage(path):
        names.setdefault(step.path, f"m{len(names)}")
        lines.append(f'  {names[step.path]}["{step.path}<br/>{step.material.sha256[:12]}"]')
        if step.maker:
            stages[step.maker.stage] = step.maker
    for stage, manifest in stages.items():
        lines.append(f'  {stage}(["{stage}"])')
        lines += [f"  {names[name]} --> {stage}" for name in manifest.inputs]
        lines += [f"  {stage} --> {names[name]}" for name in manifest.outputs if name in names]
    return "\n".join(lines) + "\n"


def as_html(subject: Subject) -> str:
    """The lineage as a page without scripts; each stage can be expanded."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.globals.update(decimal=decimal, describe=describe, flatten=flatten)
    steps, tables = subject.record.lineage(subject.path), training_tables(subject)
    return environment.get_template("trace.html").render(subject=subject, steps=steps, tables=tables)


def _hash(digest: str, full: bool) -> str:
    return digest if full else digest[:12]
