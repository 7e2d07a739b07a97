"""`critic audit verify` compares a release with its tags, commit, critic in BentoML's store and Bentos."""

import py_compile
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from audited import commit
from bentoml._internal.bento.bento import BentoStore
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models.model import ModelStore

from critic.audit.releases import check_releases
from critic.audit.resolve import find
from critic.release import promotion_gate, registry
from critic.release.git import git
from critic.release.promotion_gate import Decision
from critic.service.packaging import build_bento, import_critic

YES = Decision(True, ("The first critic.",), (), {})


@pytest.fixture(scope="module")
def home(audited: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `checkout`, whose critic is released as v1.0.0, and with BentoML's store, `bentoml`."""
    folder = tmp_path_factory.mktemp("released")
    shutil.copytree(audited, folder / "checkout", symlinks=True)
    with store_at(folder / "bentoml"):
        release(folder / "checkout")
    return folder


class store_at:  # noqa: N801
    """BentoML's store in a folder, for this process and its subprocesses."""

    def __init__(self, home: Path):
        self.home = home

    def __enter__(self) -> None:
        for part in ("bentos", "models"):
            (self.home / part).mkdir(parents=True, exist_ok=True)
        self.patch = pytest.MonkeyPatch()
        self.patch.setenv("BENTOML_HOME", str(self.home))
        BentoMLContainer.bento_store.set(BentoStore(self.home / "bentos"))
        BentoMLContainer.model_store.set(ModelStore(self.home / "models"))

    def __exit__(self, *_: object) -> None:
        BentoMLContainer.bento_store.reset()
        BentoMLContainer.model_store.reset()
        self.patch.undo()


def release(checkout: Path) -> None:
    """Release as `critic promote` does, without evaluating the gate or trying the Bento."""
    promotion_gate.record(checkout, YES)
    commit(checkout, "Promote critic v1.0.0")
    head = git(checkout, "rev-parse", "HEAD")
    model = import_critic(checkout / "models/grpo", "v1.0.0", head)
    bento = build_bento(model.tag, "cpu", {}, checkout)
    registry.register(checkout, "v1.0.0", head, f"{YES.summary}\n\n{bento}")
    registry.assign(checkout, "v1.0.0", f"{YES.summary}\n\n{bento}")


@pytest.fixture
def released(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the checkout and the store to change."""
    shutil.copytree(home, tmp_path / "home", symlinks=True)
    with store_at(tmp_path / "home/bentoml"):
        yield tmp_path / "home"


def problems(home: Path) -> list[str]:
    found = check_releases(home / "checkout")
    return [f"{finding.check}: {finding.where}: {finding.what}" for finding in found if finding.is_problem]


def test_an_unchanged_release_has_no_findings(released: Path) -> None:
    assert [*check_releases(released / "checkout")] == []


def retag(tag: str, message: str) -> Callable[[Path], None]:
    """Move a tag to the previous commit, with a message."""
    return lambda home: git(home / "checkout", "tag", "--force", "-a", tag, "HEAD^", "-m", message) and None


def moved_pointer(home: Path) -> None:
    """Release a second version, and move the champion's tag to it."""
    checkout = home / "checkout"
    (checkout / "LICENSE").write_text("")
    commit(checkout, "Promote critic v1.1.0")
    registry.register(checkout, "v1.1.0", git(checkout, "rev-parse", "HEAD"), "by hand")
    message = git(checkout, "tag", "--list", "--format=%(contents)", "critic#champion#1")
    git(checkout, "tag", "--force", "-a", "critic#champion#1", "HEAD", "-m", message)


def write(path: str, text: str) -> Callable[[Path], None]:
    """Append to the file in the store that matches a pattern."""

    def tamper(home: Path) -> None:
        file = next((home / "bentoml").glob(path))
        file.chmod(0o644)
        file.write_text(file.read_text() + text)

    return tamper


def in_commit(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Change the release's commit, and make its tags and the store's critic name the new one."""

    def tamper(home: Path) -> None:
        checkout = home / "checkout"
        before = git(checkout, "rev-parse", "HEAD")
        change(checkout)
        git(checkout, "add", "--all")
        git(checkout, "commit", "--quiet", "--amend", "--no-edit")
        for tag in git(checkout, "tag").split():
            message = git(checkout, "tag", "--list", "--format=%(contents)", tag)
            git(checkout, "tag", "--force", "-a", tag, "HEAD", "-m", message)
        about = next((home / "bentoml").glob("models/edit_critic/*/model.yaml"))
        about.chmod(0o644)
        about.write_text(about.read_text().replace(before, git(checkout, "rev-parse", "HEAD")))

    return tamper


def text_of(path: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_text((folder / path).read_text().replace(old, new, 1))


def new_file(path: str) -> Callable[[Path], None]:
    """Add a file to a Bento's code."""

    def tamper(home: Path) -> None:
        file = next((home / "bentoml").glob("bentos/edit_critic/*/src")) / path
        file.parent.mkdir(exist_ok=True)
        file.write_text("print('mine')")

    return tamper


def other_service(home: Path) -> None:
    about = next((home / "bentoml").glob("bentos/edit_critic/*/bento.yaml"))
    about.chmod(0o644)
    about.write_text(about.read_text().replace("critic.service.bento:Critic", "transformers:Critic"))


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a moved version": (retag("critic@v1.0.0", "edit_critic:v1.0.0-cpu-1"), "isn't the promotion of v1.0.0"),
    "a version without a promotion": (retag("critic@v1.0.0", "Trust me"), "its message names no Bento of v1.0.0"),
    "a moved champion": (
        moved_pointer,
        "critic#champion#1: it puts v1.1.0 into service, but its message names no",
    ),
    "a release without the gate": (moved_pointer, "critic@v1.1.0: its commit has no decision of the gate"),
    "a Bento's model": (
        write("models/edit_critic/*/model.safetensors", "0"),
        "model.safetensors: it isn't the file",
    ),
    "a Bento's tokenizer": (
        write("models/edit_critic/*/tokenizer.json", " "),
        "tokenizer.json: it isn't the file",
    ),
    "a Bento's code": (
        write("bentos/edit_critic/*/src/critic/scoring/scorer.py", "\n"),
        "critic/scoring/scorer.py: its code",
    ),
    "a Bento's prompt": (
        write("bentos/edit_critic/*/src/critic/contracts/tiny.yaml", "\n"),
        "tiny.yaml: its code",
    ),
    "a file in __pycache__": (
        new_file("critic/__pycache__/answers.cpython-311.pyc"),
        "answers.cpython-311.pyc: its code",
    ),
    "an added module": (new_file("transformers.py"), "transformers.py: its code"),
    "another service": (other_service, "it serves transformers:Critic"),
    "a manifest missing in the release": (
        in_commit(lambda folder: (folder / "reports/provenance/grpo.json").unlink()),
        "has no reports/provenance/grpo.json",
    ),
    "a manifest edited in the release": (
        in_commit(text_of("reports/provenance/grpo.json", "}", "} ")),
        "was edited",
    ),
    "a seed in the release": (
        in_commit(text_of("params.yaml", "seed: 7", "seed: 8")),
        "params.yaml seed: it is 8",
    ),
    "code in the release": (
        in_commit(text_of("critic/training/rewards.py", '"""', '"""\n')),
        "rewards.py: grpo ran with",
    ),
    "a decision that isn't JSON": (
        in_commit(text_of("reports/decisions/0001-promoted.json", "}", "")),
        "its commit has no decision of the gate",
    ),
    "a champion without a number": (
        lambda home: git(home / "checkout", "tag", "critic#champion#x", "HEAD^") and None,
        "its name has no number",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tampering_is_named(kind: str, released: Path) -> None:
    tamper, what = KINDS[kind]
    tamper(released)
    found = problems(released)
    assert any(what in problem for problem in found), found


def test_bytecode_is_accepted_if_it_is_that_of_the_module(released: Path) -> None:
    """Python writes it when a Bento is served from the store."""
    module = next((released / "bentoml").glob("bentos/edit_critic/*/src")) / "critic/answers.py"
    bytecode = Path(py_compile.compile(str(module), doraise=True))
    assert problems(released) == []
    other = released / "other.py"
    other.write_text(module.read_text().replace("5", "6"))
    py_compile.compile(str(other), cfile=str(bytecode), dfile=str(module), doraise=True)
    assert any("answers.cpython-311.pyc: its code" in problem for problem in problems(released))


def test_a_store_without_the_critic_is_a_note(released: Path) -> None:
    with store_at(released / "empty"):
        found = [*check_releases(released / "checkout")]
    assert [(finding.check, finding.is_problem) for finding in found] == [("bento", False)]


@pytest.mark.parametrize("name", ["v1.0.0", "critic@v1.0.0", "edit_critic:v1.0.0", "edit_critic:v1.0.0-cpu-1"])
def test_a_release_and_its_bento_lead_back_to_the_same_record(name: str, released: Path) -> None:
    checkout = released / "checkout"
    subject = find(checkout, name)
    assert subject.path == "models/grpo"
    assert subject.record.commit == git(checkout, "rev-parse", "HEAD")
