"""A promotion is complete or changes nothing, whichever step fails, in a real git repository.

BentoML's store and the Bento's service are fakes here; tests/test_flows.py has the real ones.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from bentoml.exceptions import NotFound
from dvc.repo import Repo

from critic.params import Release as Settings
from critic.release import journal, promotion, promotion_gate, registry
from critic.release.git import CheckoutError, git
from critic.release.journal import Journal, PromotionError, recover
from critic.release.lock import JOURNAL, RELEASES, hold_lock
from critic.release.promotion import promote, record_refusal, rollback
from critic.release.promotion_gate import Decision, GateError
from critic.service.packaging import PackageError
from critic.service.smoke import Smoke, SmokeError

NO = Decision(False, ("Worse.",), (), {})
SETTINGS = Settings(variant="cpu", smoke_edits=8, tolerance=0.0, max_latency=10.0, push=None)
PIPELINE = """\
stages:
  grpo:
    cmd: python train.py
    outs: [models/grpo]
    metrics: [reports/metrics.json: {cache: false}]
artifacts:
  critic: {path: models/grpo, type: model}
"""


def yes(repository: Path) -> Decision:
    """The gate's decision to promote the checkout's critic."""
    champion = registry.champion(repository)
    return Decision(True, ("Better.",), (), {}, champion.version if champion else None)


class Store:
    """A fake of BentoML's store."""

    def __init__(self) -> None:
        self.models: set[str] = set()
        self.bentos: set[str] = set()

    def build(self, critic: str, variant: str, arguments: object, root: Path) -> str:
        version = critic.partition(":")[2]
        bento = f"{version}-{variant}-{1 + sum(built.startswith(version) for built in self.bentos)}"
        self.bentos.add(bento)
        return f"edit_critic:{bento}"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()

    class Model:
        def __init__(self, tag: str):
            self.tag = tag

    def get(tag: str) -> Model:
        if tag not in store.models:
            raise NotFound(tag)
        return Model(tag)

    def import_critic(folder: Path, version: str, commit: str) -> Model:
        store.models.add(f"edit_critic:{version}")
        return Model(f"edit_critic:{version}")

    def delete(tag: str) -> None:
        store.models.remove(get(tag).tag)

    monkeypatch.setattr(promotion.bentoml.models, "get", get)
    monkeypatch.setattr(promotion.bentoml.models, "delete", delete)
    monkeypatch.setattr(promotion.bentoml, "delete", lambda tag: store.bentos.remove(tag.partition(":")[2]))
    for module in (journal, promotion):
        monkeypatch.setattr(module, "built_versions", lambda: {*store.bentos})
    monkeypatch.setattr(promotion, "import_critic", import_critic)
    monkeypatch.setattr(promotion, "build_bento", store.build)
    monkeypatch.setattr(promotion, "smoke_edits", lambda repository, number: [None] * number)
    monkeypatch.setattr(promotion, "try_bento", lambda *_, **__: Smoke(ready=60.0, latency=0.2, largest_gap=0.0))
    return store


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout whose pipeline made a critic that isn't committed yet."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "config", "user.name", "Ann")
    git(folder, "config", "user.email", "ann@example.org")
    Repo.init(str(folder)).close()
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "train.py").write_text("")
    (folder / ".gitignore").write_text("/models\n/runs\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "Begin")
    train(folder, "1")
    return folder


def train(folder: Path, weights: str) -> None:
    """Write what the pipeline writes."""
    (folder / "models/grpo").mkdir(parents=True, exist_ok=True)
    (folder / "models/grpo/weights").write_text(weights)
    (folder / "reports").mkdir(exist_ok=True)
    (folder / "reports/metrics.json").write_text(json.dumps({"main_score": weights, "n": int(weights)}))
    with Repo(str(folder)) as repo:
        repo.commit(force=True)


def state(folder: Path, store: Store) -> tuple[object, ...]:
    """Everything that a promotion changes."""
    return (
        git(folder, "rev-parse", "HEAD"),
        git(folder, "tag"),
        git(folder, "status", "--porcelain", "--untracked-files=all"),
        (folder / "dvc.lock").read_text(),
        sorted(store.models),
        sorted(store.bentos),
        (folder / JOURNAL).exists(),
    )


def test_a_promotion_commits_builds_tries_and_tags(repository: Path, store: Store) -> None:
    logged: list[str] = []
    release = promote(repository, yes(repository), SETTINGS, logged.append)
    assert release.version == "v1.0.0" and release.commit == git(repository, "rev-parse", "HEAD")
    assert registry.champion(repository) == release
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "show", "--stat", "--format=%s%n%b", "HEAD").startswith("Promote critic v1.0.0")
    assert "reports/decisions/0001-promoted.md" in git(repository, "ls-files")
    assert (store.models, store.bentos) == ({"edit_critic:v1.0.0"}, {"v1.0.0-cpu-1"})
    assert "0.200 s per edit" in git(repository, "tag", "--list", "-n9", "critic@v1.0.0")
    assert logged[-1] == "v1.0.0 is the champion: bentoml serve edit_critic:v1.0.0-cpu-1"


def test_a_refusal_is_committed_and_the_champion_stays(repository: Path, store: Store) -> None:
    first = promote(repository, yes(repository), SETTINGS)
    train(repository, "2")
    page = record_refusal(repository, NO)
    assert page.name == "0002-refused.md" and "Worse." in page.read_text()
    assert registry.champion(repository) == first
    assert git(repository, "status", "--porcelain") == ""
    with pytest.raises(ValueError, match="the gate refuses"):
        promote(repository, NO, SETTINGS)


def test_a_refusal_that_git_does_not_take_leaves_nothing(repository: Path, store: Store) -> None:
    promote(repository, yes(repository), SETTINGS)
    train(repository, "2")
    before = state(repository, store)
    hook = repository / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not today\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(CheckoutError, match="not today"):
        record_refusal(repository, NO)
    assert state(repository, store) == before
    hook.unlink()
    assert record_refusal(repository, NO).name == "0002-refused.md"


class Killed(BaseException):
    """The process is killed: no error handler runs."""


def die(*_: object, **__: object) -> None:
    raise Killed


STEPS: dict[str, tuple[str, Exception]] = {
    "the critic's files are gone": ("fetch", PackageError("neither in DVC's cache nor in its remote")),
    "the disk is full while it is copied": ("import_critic", OSError(28, "No space left on device")),
    "the Bento can't be built": ("build_bento", PackageError("BentoML can't build")),
    "the Bento doesn't start": ("try_bento", SmokeError("ended with code 1")),
    "the version can't be tagged": ("registry.register", CheckoutError("refused")),
    "the champion can't be tagged": ("registry.assign", CheckoutError("refused")),
    "somebody presses Ctrl-C": ("try_bento", KeyboardInterrupt()),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("what", STEPS)
def test_a_step_that_fails_leaves_everything_as_it_was(
    what: str, repository: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = promote(repository, yes(repository), SETTINGS)
    train(repository, "2")
    before = state(repository, store)
    name, error = STEPS[what]

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"critic.release.promotion.{name}", fail)
        with pytest.raises((PromotionError, CheckoutError, KeyboardInterrupt)):
            promote(repository, yes(repository), SETTINGS)
    assert state(repository, store) == before
    assert registry.champion(repository) == champion
    assert promote(repository, yes(repository), SETTINGS).version == "v1.1.0"


@pytest.mark.parametrize("step", ["build_bento", "try_bento", "registry.register", "registry.assign"])
def test_a_killed_promotion_is_undone_by_the_next_command(
    step: str, repository: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a SIGKILL, the steps so far and the journal remain."""
    champion = promote(repository, yes(repository), SETTINGS)
    train(repository, "2")
    before = state(repository, store)

    with monkeypatch.context() as patch:
        patch.setattr(f"critic.release.promotion.{step}", die)
        patch.setattr(journal, "undo", lambda *_: None)
        with pytest.raises(Killed):
            promote(repository, yes(repository), SETTINGS)
    assert (repository / JOURNAL).exists()
    recover(repository)
    assert state(repository, store) == before
    assert registry.champion(repository) == champion
    assert promote(repository, yes(repository), SETTINGS).version == "v1.1.0"


def test_a_kill_after_the_last_tag_was_a_promotion(
    repository: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "close", lambda journal: None)
        release = promote(repository, yes(repository), SETTINGS)
    assert (repository / JOURNAL).exists()
    recover(repository)
    assert registry.champion(repository) == release and not (repository / JOURNAL).exists()


def test_too_slow_a_bento_is_not_promoted(repository: Path, store: Store) -> None:
    slow = SETTINGS.model_copy(update={"max_latency": 0.1})
    with pytest.raises(PromotionError, match=r"takes 0\.20 s per edit"):
        promote(repository, yes(repository), slow)
    assert registry.champion(repository) is None and store.bentos == set()


def test_a_release_needs_a_branch(repository: Path, store: Store) -> None:
    git(repository, "checkout", "--quiet", "--detach")
    with pytest.raises(CheckoutError, match="no branch is checked out"):
        promote(repository, yes(repository), SETTINGS)


def test_rollbacks_go_back_one_by_one_and_forward_by_name(repository: Path, store: Store) -> None:
    for weights in "123":
        train(repository, weights)
        promote(repository, yes(repository), SETTINGS)
    assert rollback(repository, SETTINGS).version == "v1.1.0"
    assert rollback(repository, SETTINGS).version == "v1.0.0"
    with pytest.raises(PromotionError, match="no previous champion"):
        rollback(repository, SETTINGS)
    assert rollback(repository, SETTINGS, "v1.2.0").version == "v1.2.0"
    with pytest.raises(PromotionError, match="is already the champion"):
        rollback(repository, SETTINGS, "v1.2.0")
    with pytest.raises(PromotionError, match=r"no release v9\.0\.0; there are v1\.0\.0, v1\.1\.0, v1\.2\.0"):
        rollback(repository, SETTINGS, "v9.0.0")


@pytest.mark.nightly
def test_mlflow_follows_promotions_refusals_and_rollbacks(
    repository: Path, store: Store, trackers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {
        "profile": "tiny",
        "seed": 7,
        "grpo": {"beta": 0.0},
        "profiles": {"tiny": {"grpo": {"lora": {"r": 4}}}},
    }
    (repository / "params.yaml").write_text(yaml.safe_dump(params))
    git(repository, "add", "params.yaml")
    git(repository, "commit", "--quiet", "-m", "Add params")
    promote(repository, yes(repository), SETTINGS)  # before there is an MLflow
    train(repository, "99")
    lost = promote(repository, yes(repository), SETTINGS)
    shutil.rmtree(repository / "models")
    for file in (repository / ".dvc/cache").rglob("*"):
        if file.is_file() and file.read_bytes() == b"99":
            file.unlink()
    rollback(repository, SETTINGS)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(sys, "path", [*sys.path, str(trackers)])
    monkeypatch.chdir(tmp_path)
    import mlflow

    def champion() -> tuple[str, str]:
        """Its release, and its weights."""
        version = mlflow.MlflowClient().get_model_version_by_alias("edit-critic", "champion")
        weights = Path(mlflow.artifacts.download_artifacts("models:/edit-critic@champion"), "weights")
        return version.tags["release"], weights.read_text()

    train(repository, "2")
    logged: list[str] = []
    promote(repository, yes(repository), SETTINGS, logged.append)
    assert champion() == ("v1.2.0", "2")
    assert any(f"MLflow: {lost.version} is left out: models/grpo of" in line for line in logged)
    train(repository, "3")
    record_refusal(repository, NO)
    assert champion() == ("v1.2.0", "2")
    rollback(repository, SETTINGS)
    assert champion() == ("v1.0.0", "1")
    rollback(repository, SETTINGS, to="v1.2.0")
    assert champion() == ("v1.2.0", "2")

    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert len(runs) == 3, "a record is logged once"
    assert {run.data.metrics["n"] for run in runs} == {1, 2, 3}
    assert runs[0].data.params == {"profile": "tiny", "seed": "7", "grpo.beta": "0.0", "grpo.lora.r": "4"}
    assert git(repository, "status", "--porcelain") == ""


def refuse() -> None:
    raise OSError("507 Server Error")


class Empty:
    """An MLflow without runs and versions."""

    def search_registered_models(self, filter_string: str) -> list[str]:
        return ["edit-critic"]

    def search_model_versions(self, filter_string: str) -> list[Any]:
        return []


EMPTY = SimpleNamespace(
    MlflowClient=Empty,
    set_experiment=lambda name: SimpleNamespace(experiment_id="0"),
    exceptions=SimpleNamespace(MlflowException=KeyError),
)
REFUSING = SimpleNamespace(
    MlflowClient=refuse, exceptions=SimpleNamespace(MlflowException=KeyError), get_tracking_uri=str
)


@pytest.mark.parametrize(
    ("mlflow", "said", "left_out"),
    [
        (None, "MissingExtra: MLFLOW_TRACKING_URI needs mlflow: pip install 'edit-critic[trackers]'", None),
        (REFUSING, "OSError: 507 Server Error", None),
        (EMPTY, "MlflowError: edit-critic has no v1.0.0, the champion: see why it is left out", "params.yaml"),
    ],
    ids=["missing", "its store refuses a file", "the release has no params.yaml"],
)
def test_an_mlflow_that_fails_stops_no_promotion(
    repository: Path, store: Store, monkeypatch: pytest.MonkeyPatch, mlflow: Any, said: str, left_out: str | None
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    if mlflow:
        monkeypatch.setitem(sys.modules, "mlflow.exceptions", mlflow.exceptions)
    logged: list[str] = []
    release = promote(repository, yes(repository), SETTINGS, logged.append)
    assert registry.champion(repository) == release
    assert logged[-1].startswith(f"MLflow doesn't have this yet, run `critic releases --mlflow`: {said}")
    assert left_out is None or re.fullmatch(f"MLflow: v1.0.0 is left out: .* has no {left_out}", logged[-2])


def test_a_rollback_needs_no_clean_checkout_and_builds_a_lost_bento_again(repository: Path, store: Store) -> None:
    promote(repository, yes(repository), SETTINGS)
    train(repository, "2")
    promote(repository, yes(repository), SETTINGS)
    (repository / "train.py").write_text("# at work\n")
    store.bentos.remove("v1.0.0-cpu-1")
    logged: list[str] = []
    assert rollback(repository, SETTINGS, log=logged.append).version == "v1.0.0"
    assert "building it again" in logged[0] and store.bentos == {"v1.1.0-cpu-1", "v1.0.0-cpu-1"}
    assert (repository / "train.py").read_text() == "# at work\n"
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@pytest.fixture
def remotes(repository: Path, tmp_path: Path) -> Path:
    """A git remote and DVC's, both folders."""
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch", "main", "origin.git")
    git(repository, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(repository, "push", "--quiet", "origin", "main")
    subprocess.run(
        [sys.executable, "-m", "dvc", "remote", "add", "--quiet", "--default", "files", str(tmp_path / "files")],
        cwd=repository,
        check=True,
    )
    git(repository, "commit", "--quiet", "-am", "Add a remote")
    return tmp_path / "origin.git"


PUSHING = SETTINGS.model_copy(update={"push": "origin"})


def test_a_release_is_pushed_with_its_files(repository: Path, remotes: Path, store: Store) -> None:
    release = promote(repository, yes(repository), PUSHING)
    assert git(remotes, "rev-parse", "main") == release.commit
    assert git(remotes, "tag").split() == ["critic#champion#1", "critic@v1.0.0"]
    assert any(path.is_file() for path in (remotes.parent / "files").rglob("*"))
    train(repository, "2")
    promote(repository, yes(repository), PUSHING)
    rollback(repository, PUSHING)
    assert "critic#champion#3" in git(remotes, "tag").split()


Break = Callable[[Path], object]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda origin: shutil.move(origin, origin.with_suffix(".gone")), id="git's remote is gone"),
        pytest.param(lambda origin: (origin.parent / "files").write_text(""), id="DVC's remote is no folder"),
    ],
)
def test_a_failed_push_changes_nothing(broken: Break, repository: Path, remotes: Path, store: Store) -> None:
    before = state(repository, store)
    broken(remotes)
    with pytest.raises(PromotionError):
        promote(repository, yes(repository), PUSHING)
    assert state(repository, store) == before


def test_a_refused_push_changes_nothing(repository: Path, remotes: Path, store: Store, tmp_path: Path) -> None:
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(remotes), str(other))
    git(
        other,
        "-c",
        "user.name=Bob",
        "-c",
        "user.email=b@example.org",
        "commit",
        "--allow-empty",
        "-qm",
        "Overtake",
    )
    git(other, "push", "--quiet", "origin", "HEAD:main")
    before = state(repository, store)
    with pytest.raises(PromotionError, match="origin didn't accept the push"):
        promote(repository, yes(repository), PUSHING)
    assert state(repository, store) == before
    assert git(remotes, "tag") == ""


def test_after_a_kill_during_the_push_the_remote_decides(
    repository: Path, remotes: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(repository, store)

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "push", die)
        patch.setattr(journal, "undo", lambda *_: None)
        with pytest.raises(Killed):
            promote(repository, yes(repository), PUSHING)
    recover(repository)
    assert state(repository, store) == before

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "close", die)
        patch.setattr(journal, "undo", lambda *_: None)
        with pytest.raises(Killed):
            promote(repository, yes(repository), PUSHING)
    gone = remotes.with_suffix(".gone")
    shutil.move(remotes, gone)
    with pytest.raises(PromotionError, match="can't be reached"):
        recover(repository)
    shutil.move(gone, remotes)
    recover(repository)
    champion = registry.champion(repository)
    assert champion is not None and champion.version == "v1.0.0"


def test_tags_of_somebody_else_by_the_same_names_are_no_release(
    repository: Path, remotes: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(repository, yes(repository), PUSHING)
    train(repository, "2")
    before = state(repository, store)
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(remotes), str(other))
    git(other, "tag", "critic@v1.1.0")
    git(other, "tag", "critic#champion#2")

    def overtake(remote: Path) -> None:
        git(other, "push", "--quiet", str(remote), "critic@v1.1.0", "critic#champion#2")

    push = promotion.push

    def push_too_late(*arguments: object) -> None:
        overtake(remotes)
        push(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "push", push_too_late)
        with pytest.raises(PromotionError, match="origin didn't accept the push"):
            promote(repository, yes(repository), PUSHING)
    assert state(repository, store) == before
    with pytest.raises(PromotionError, match=r"is now v1\.1\.0, and the gate compared with v1\.0\.0"):
        promote(repository, yes(repository), PUSHING)


def test_after_a_push_without_an_answer_the_champion_stays_until_the_remote_is_reached(
    repository: Path, remotes: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = promote(repository, yes(repository), PUSHING)
    train(repository, "2")
    push, gone = promotion.push, remotes.with_suffix(".gone")

    def push_and_lose(*arguments: object) -> None:
        push(*arguments)  # type: ignore[arg-type]
        shutil.move(remotes, gone)
        raise PromotionError("origin didn't accept the push: no answer")

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "push", push_and_lose)
        with pytest.raises(PromotionError, match=r"unknown whether v1\.1\.0 is in service"):
            promote(repository, yes(repository), PUSHING)
    assert registry.champion(repository) == first
    with pytest.raises(PromotionError, match="can't be reached"):
        record_refusal(repository, NO)
    shutil.move(gone, remotes)
    recover(repository)
    champion = registry.champion(repository)
    assert champion is not None and champion.version == "v1.1.0" and "v1.1.0-cpu-1" in store.bentos
    assert git(repository, "tag") == git(remotes, "tag") and git(repository, "status", "--porcelain") == ""


def test_a_rollback_killed_during_its_push_is_undone_first(
    repository: Path, remotes: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for weights in "123":
        train(repository, weights)
        promote(repository, yes(repository), PUSHING)

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "push", die)
        patch.setattr(journal, "undo", lambda *_: None)
        with pytest.raises(Killed):
            rollback(repository, PUSHING)
    assert rollback(repository, PUSHING).version == "v1.1.0"
    assert git(repository, "tag") == git(remotes, "tag")
    assert "critic@v1.1.0" in git(repository, "tag").split()


def test_a_killed_undo_is_completed(
    repository: Path, remotes: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = promote(repository, yes(repository), PUSHING)
    train(repository, "2")
    before = state(repository, store)
    deleted: list[str] = []

    def fail(*_: object) -> None:
        raise PromotionError("origin didn't accept the push")

    def delete_one_and_die(repository: Path, *command: str) -> str:
        if command[:2] == ("tag", "-d"):
            deleted.append(command[2])
            if len(deleted) == 2:
                raise Killed
        return git(repository, *command)

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "push", fail)
        patch.setattr(journal, "git", delete_one_and_die)
        with pytest.raises(Killed):
            promote(repository, yes(repository), PUSHING)
    assert deleted == ["critic#champion#2", "critic@v1.1.0"]
    recover(repository)
    assert state(repository, store) == before and registry.champion(repository) == champion


def test_changes_after_the_gates_decision_are_not_released(repository: Path, store: Store) -> None:
    before = git(repository, "rev-parse", "HEAD")
    (repository / "secret").write_text("mine")
    git(repository, "add", "secret")
    with pytest.raises(CheckoutError, match="secret"):
        promote(repository, yes(repository), SETTINGS)
    git(repository, "rm", "--quiet", "--cached", "secret")
    (repository / "secret").unlink()
    (repository / "models/grpo/weights").write_text("other ones")
    with pytest.raises(GateError, match="dvc repro"):
        promote(repository, yes(repository), SETTINGS)
    assert git(repository, "rev-parse", "HEAD") == before


def test_a_rollback_waits_for_no_training(repository: Path, store: Store) -> None:
    for weights in "12":
        train(repository, weights)
        promote(repository, yes(repository), SETTINGS)
    with hold_lock(repository, "retrain crimson-fox"):
        assert rollback(repository, SETTINGS).version == "v1.0.0"
    with hold_lock(repository, "a promotion", RELEASES), pytest.raises(CheckoutError, match="a promotion"):
        rollback(repository, SETTINGS, "v1.1.0")


def test_a_withdrawn_critic_is_recognised_by_its_files(repository: Path, store: Store) -> None:
    models = []
    for weights in "12":
        train(repository, weights)
        promote(repository, yes(repository), SETTINGS)
        outs = yaml.safe_load((repository / "dvc.lock").read_text())["stages"]["grpo"]["outs"]
        models += [out["md5"] for out in outs if out["path"] == "models/grpo"]
    assert [promotion_gate._withdrawn(repository, model) for model in models] == [None, None]
    rollback(repository, SETTINGS)
    assert [promotion_gate._withdrawn(repository, model) for model in models] == [None, "v1.1.0"]


def test_a_rollback_serves_the_bento_that_was_tried(repository: Path, store: Store) -> None:
    for weights in "12":
        train(repository, weights)
        promote(repository, yes(repository), SETTINGS)
    store.bentos.add("v1.0.0-cpu-2")  # by `critic package`, without a smoke test
    logged: list[str] = []
    rollback(repository, SETTINGS, log=logged.append)
    assert logged[-1] == "v1.0.0 is the champion: bentoml serve edit_critic:v1.0.0-cpu-1"


def test_an_interrupt_after_the_push_undoes_nothing(
    repository: Path, remotes: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = promotion.push

    def push_and_be_interrupted(*arguments: object) -> None:
        push(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "push", push_and_be_interrupted)
        with pytest.raises(KeyboardInterrupt):
            promote(repository, yes(repository), PUSHING)
    champion = registry.champion(repository)
    assert champion is not None and champion.commit == git(remotes, "rev-parse", "main")
    assert git(repository, "tag") == git(remotes, "tag") and not (repository / JOURNAL).exists()


def test_a_rollback_pushes_its_tag_and_no_work_in_progress(repository: Path, remotes: Path, store: Store) -> None:
    promote(repository, yes(repository), PUSHING)
    train(repository, "2")
    released = promote(repository, yes(repository), PUSHING)
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "Not for others yet")
    git(repository, "checkout", "--quiet", "--detach")
    rollback(repository, PUSHING)
    assert "critic#champion#3" in git(remotes, "tag").split()
    assert git(remotes, "rev-parse", "main") == released.commit


def test_pushing_needs_both_remotes(repository: Path, store: Store, tmp_path: Path) -> None:
    with pytest.raises(CheckoutError, match="origin"):
        promote(repository, yes(repository), PUSHING)
    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    git(repository, "remote", "add", "origin", str(tmp_path / "origin.git"))
    with pytest.raises(PromotionError, match="DVC has no default remote"):
        promote(repository, yes(repository), PUSHING)
