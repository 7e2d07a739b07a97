"""Rehearse profiles `full`, `single-gpu` and `paper` on a CPU, from the hub to a Bento, at a small size.

    make rehearse
    python tests/rehearse.py single-gpu --folder /tmp/rehearsal    # one profile, in a folder that stays
    python tests/rehearse.py qwen3-vl-8b                           # one more profile: `full` with a newer base

In a copy of the project, `dvc repro` runs each stage of a profile as params.yaml has it, except for `OVERRIDES`.
A hub on the loopback serves sets in the released shapes and the tiny base in place of the 7B. Each training is
killed by SIGKILL after its first checkpoint, and resumed. Then the critic is packaged as a Bento, which is served
and must score as `evaluate` did. `paper` goes to `evaluate` without a kill: with the official split, whose leak
must stand beside the figures, and the contract learnt from the SFT set, which both models must hold and which must
render the set's rows. Prints what was done and how long it took; the exit code is 0 if all of it was, within
`BUDGETS`.

Real GPUs, NCCL, the kernels and the shape of the 7B stay unrehearsed: see `make gpu-check`.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import psutil
import released
import yaml
from local_hub import Hub, serve
from smoke import ROOT, Project

from critic import loopback, params, process_tree
from critic.prompts import CONTRACT_FILE, IMAGE_MARK, LEARNT, load_contract
from critic.tables import read_parquet

USUAL = ("full", "single-gpu", "paper")
PROFILES = (*USUAL, "qwen3-vl-8b")
PACKAGED = ("bentofile.yaml", "pyproject.toml", "requirements", "LICENSE", "docs/serve.md")
"""What a Bento needs besides the pipeline."""
BUDGETS = {("full", "single-gpu"): 25, USUAL: 30}
"""The minutes that profiles may take together on two cores, if all of them run."""


class Override(NamedTuple):
    """A key of a profile that the rehearsal changes."""

    key: str
    value: Any
    reason: str
    profiles: Sequence[str] = PROFILES


OVERRIDES = (
    Override("model.dtype", "float32", "bfloat16 takes 20 times as long on a CPU without AVX-512"),
    Override("sft.bf16", False, "likewise"),
    Override("grpo.bf16", False, "likewise"),
    Override("sft.use_liger_kernel", False, "its kernels are Triton's, which need a GPU"),
    Override(
        "prompt.contract",
        "contract.yaml",
        "the profile's own, with pictures of 4 x 4 tokens: see `shrunk`",
        ("full", "single-gpu", "qwen3-vl-8b"),
    ),
    Override("download.learn_contract.min_pixels", 12544, "likewise, of the learnt one", ("paper",)),
    Override("download.learn_contract.max_pixels", 12544, "likewise", ("paper",)),
    Override("launch.nproc_per_node", 2, "two cores instead of eight GPUs", ("full", "qwen3-vl-8b")),
    Override("launch.nproc_per_node", 1, "`full` has two", ("paper",)),
    Override("launch.zero_stage", None, "nothing to shard in one process", ("paper",)),
    Override(
        "sft.learning_rate",
        1e-3,
        "the tiny base has to learn the form of an answer in a minute",
        ("full", "qwen3-vl-8b"),
    ),
    Override("sft.learning_rate", 2e-3, "likewise", ("single-gpu", "paper")),
    Override("sft.num_train_epochs", 12.0, "likewise, of 50 samples", ("full", "single-gpu", "qwen3-vl-8b")),
    Override(
        "sft.per_device_train_batch_size", 2, "a small batch: few samples need more steps", ("single-gpu", "paper")
    ),
    Override("sft.gradient_accumulation_steps", 2, "a small batch, still accumulated"),
    Override("sft.save_steps", 10, "a checkpoint within these steps"),
    Override("grpo.max_steps", 4, "a few steps", ("full", "single-gpu", "qwen3-vl-8b")),
    Override("grpo.max_steps", 2, "a few steps", ("paper",)),
    Override("grpo.gradient_accumulation_steps", 2, "a small batch, still accumulated"),
    Override("grpo.steps_per_generation", 1, "a part of the small batch", ("single-gpu",)),
    Override("grpo.save_steps", 1, "a checkpoint within these steps"),
    Override("grpo.eval_steps", 2, "a validation within these steps", ("full", "single-gpu", "qwen3-vl-8b")),
    Override("grpo.max_eval_samples", 4, "a small sample"),
    Override("grpo.max_completion_length", 48, "the tiny base reads 4,096 tokens in all"),
    Override("grpo.vllm_tensor_parallel_size", 1, "one process", ("paper",)),
    Override(
        "grpo.vllm_enable_sleep_mode",
        False,
        "only a GPU's memory can be given back",
        ("full", "paper", "qwen3-vl-8b"),
    ),
    Override("grpo.vllm_max_model_length", 4096, "likewise", ("qwen3-vl-8b",)),
    Override("evaluate.max_model_len", 4096, "likewise", ("qwen3-vl-8b",)),
    Override("evaluate.max_tokens", 48, "the tiny base reads 4,096 tokens in all"),
    Override("evaluate.data_parallel_size", 2, "two cores instead of eight GPUs", ("full", "qwen3-vl-8b")),
    Override("evaluate.tensor_parallel_size", 1, "likewise; `paper` has two", ("full", "qwen3-vl-8b")),
    Override("evaluate.data_parallel_size", 1, "two cores, for the two processes of one engine", ("paper",)),
    Override("release.variant", "cpu", "the container of this machine"),
)


class Failed(RuntimeError):
    """A step didn't do what it should; the message says what it did."""


class Row(NamedTuple):
    """A step of the rehearsal: its seconds, None if it wasn't reached, and what was seen."""

    profile: str
    step: str
    passed: bool
    seconds: float | None
    seen: str


def small(content: dict[str, Any], profile: str) -> dict[str, Any]:
    """The content of params.yaml with `profile` active and its `OVERRIDES`.

    Raises:
        KeyError: neither the profile nor the shared part has a key of the overrides.
    """
    content = json.loads(json.dumps(content))
    content["profile"] = profile
    for override in OVERRIDES:
        if profile in override.profiles:
            *sections, key = override.key.split(".")
            own, shared = content["profiles"][profile], content
            for section in sections:
                own, shared = own[section], shared.get(section, {})
            if key not in own.keys() | shared.keys():
                raise KeyError(f"profile {profile} has no {override.key}")
            own[key] = override.value
    content["evaluate"]["n_boot"] = 100
    return content


def shrunk(contract: str) -> str:
    """A contract's text with pictures of 4 x 4 tokens: at 512 x 512 a step takes 10 seconds."""
    own = load_contract(contract)
    pixels = (4 * own.pixel_unit) ** 2
    line = f"pixels: {{min: {pixels}, max: {pixels}, unit: {own.pixel_unit}}}"
    return re.sub(r"(?m)^pixels: .*$", line, own.text)


class Rehearsal:
    """One profile in a copy of the project. Its methods are the steps; each returns what was seen."""

    def __init__(self, profile: str, folder: Path, hub: Hub):
        self.profile, self.log = profile, folder.with_suffix(".log")
        project = Project(folder)
        self.folder = project.folder
        (folder / "docs").mkdir()
        for name in PACKAGED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
        content = small(yaml.safe_load((ROOT / "params.yaml").read_text()), profile)
        own = params.load(params.Prompt, ROOT / "params.yaml", profile=profile).contract
        if own != LEARNT:
            (folder / CONTRACT_FILE).write_text(shrunk(own))
        (folder / "params.yaml").write_text(yaml.safe_dump(content))
        self.launch = params.load(params.Launch, folder / "params.yaml")
        self.environment = {
            **loopback.environment(),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "hf"),
            "BENTOML_HOME": str(folder / "bentoml"),
            "DS_ACCELERATOR": "cpu",
            # Its own: a process that is killed while it builds DeepSpeed's extension leaves a lock there for ever
            "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
            "OMP_NUM_THREADS": "1",
            # vLLM would bind each worker to a NUMA node of its own, and there may be only one
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            self.environment.pop(name, None)
        self.bento = ""

    def steps(self) -> Iterator[tuple[str, Callable[[], str]]]:
        yield "download", self.download
        yield "validate", self.validate
        yield "build", self.build
        if self.profile == "paper":
            yield "sft", lambda: self.train("sft")
            yield "grpo", lambda: self.train("grpo")
            yield "evaluate", self.evaluate
            yield "contract", self.check_contract
            return
        for stage in ("sft", "grpo"):
            yield f"{stage}, killed", lambda stage=stage: self.kill(stage)
            yield f"{stage}, resumed", lambda stage=stage: self.resume(stage)
        yield "evaluate", self.evaluate
        yield "cards", self.cards
        yield "Bento built", self.package
        yield "Bento served", self.try_bento

    def download(self) -> str:
        output = self.run("dvc", "repro", "download")
        hub = json.loads((self.folder / "data/raw/checksums.json").read_text())["hub"]
        seen = [f"{one['dataset']} at {one['commit'][:7]}" for one in hub.values()]
        if learnt := re.search(r"the learnt contract renders (\d+) of (\d+) rows", output):
            if learnt[1] != learnt[2]:
                raise Failed(learnt[0])
            seen.append(learnt[0])
        return ", ".join(seen)

    def validate(self) -> str:
        self.run("dvc", "repro", "validate")
        report = json.loads((self.folder / "data/validation.json").read_text())
        edits = " + ".join(str(report["splits"][split]["edits"]) for split in ("train", "validation", "test"))
        split, given = report["split"], report["rationales"]
        if (split["name"] == "official") != (split["leak"]["edits"] > 0):
            raise Failed(f"the split is {split}")
        leak = f"split {split['name']}, of which {split['leak']['edits']} test edits leak"
        samples = f"{given['train']} + {given['validation']} samples of the SFT set"
        return f"{edits} edits, {leak}; {samples}, {given['bare_numbers']} of them bare numbers"

    def build(self) -> str:
        self.run("dvc", "repro", "build")
        sft, rl = (read_parquet(self.folder / f"data/{kind}/train.parquet", ["id"]) for kind in ("sft", "rl"))
        return f"{len(sft)} samples of SFT, {len(rl)} of GRPO"

    def kill(self, stage: str) -> str:
        """Start a training, and kill all its processes once it has a checkpoint."""
        processes = self.launch.nnodes * self.launch.nproc_per_node
        running = self.start("dvc", "repro", stage)
        while running.poll() is None:
            time.sleep(0.1)
            found = next((self.folder / f"runs/{stage}").glob("checkpoint-*/trainer_state.json"), None)
            if found is not None:
                break
        else:
            raise Failed(f"it ended with code {running.returncode} before it had a checkpoint:\n{self.tail()}")
        tree = [*psutil.Process(running.pid).children(recursive=True), psutil.Process(running.pid)]
        for process in tree:
            with suppress(psutil.NoSuchProcess):  # a parent's death has ended it
                process.kill()
        running.wait()
        psutil.wait_procs(tree, timeout=60)
        if (self.folder / f"models/{stage}").exists():
            raise Failed(f"models/{stage} exists after the kill")
        shards = len([*found.parent.glob("global_step*/*optim_states.pt")])
        if self.launch.zero_stage is not None and shards != processes:
            raise Failed(f"{found.parent.name} has optimizer states of {shards} processes, not {processes}")
        adapters = (found.parent / "adapter_config.json").exists()
        how = f"ZeRO-{self.launch.zero_stage} on {shards} processes" if shards else f"{processes} process"
        return f"{how}, {'LoRA' if adapters else 'all weights'}, killed after {found.parent.name}"

    def resume(self, stage: str) -> str:
        output = self.run("dvc", "repro", stage)
        _, resumed, rest = output.partition("resuming from ")
        if not resumed:
            raise Failed(f"it started from the beginning:\n{output[-2000:]}")
        return f"from {Path(rest.split()[0]).name} {self.curves(stage)}"

    def train(self, stage: str) -> str:
        self.run("dvc", "repro", stage)
        return self.curves(stage)

    def curves(self, stage: str) -> str:
        """What a training's curves say."""
        folder = self.folder / f"reports/curves/{stage}/plots/metrics"
        loss = pd.read_csv(folder / "loss.tsv", sep="\t")
        if [*loss["step"]] != [*range(1, len(loss) + 1)]:
            raise Failed(f"its curve has the steps {[*loss['step']]}")
        seen = f"to step {len(loss)}"
        if stage == "grpo":
            reward = pd.read_csv(folder / "reward.tsv", sep="\t")["reward"]
            if not reward.any():
                raise Failed("all rewards are 0, so no update changed anything")
            seen += f", reward {reward.iloc[0]:.2f} to {reward.iloc[-1]:.2f}"
            grpo = params.load(params.Grpo, self.folder / "params.yaml")
            engine = (
                f"vLLM at tensor parallel {grpo.vllm_tensor_parallel_size}" if grpo.use_vllm else "transformers"
            )
            seen += f", rollouts by {engine}"
            return seen
        return f"{seen}, loss {loss['loss'].iloc[0]:.2f} to {loss['loss'].iloc[-1]:.2f}"

    def evaluate(self) -> str:
        self.run("dvc", "repro", "evaluate")
        metrics = json.loads((self.folder / "reports/metrics.json").read_text())
        leak = json.loads((self.folder / "data/validation.json").read_text())["split"]["leak"]
        beside = [scores.get("split", {}).get("leak") for scores in metrics.values()]
        if any(one != (leak if leak["edits"] else None) for one in beside):
            raise Failed(f"the leak is {leak}, and beside the figures in metrics.json stand {beside}")
        return (
            "main score (coverage): "
            + ", ".join(
                f"{name} {metrics[name]['main_score']['value']:.2f} ({metrics[name]['coverage']['value']:.0%})"
                for name in ("base", "sft", "grpo")
            )
            + (f", beside a leak of {leak['edits']} edits" if leak["edits"] else "")
        )

    def check_contract(self) -> str:
        """Both models hold the learnt contract, and the prompts that SFT read are the rows of the SFT set."""
        learnt = (self.folder / "data/raw" / CONTRACT_FILE).read_text()
        raw = read_parquet(self.folder / "data/raw/rationales.parquet", ["id", "messages"])
        expected = {row.id: rendering(row.messages[0]["content"]) for row in raw.itertuples()}
        samples = read_parquet(self.folder / "data/sft/train.parquet", ["id", "prompt"])
        for model in ("sft", "grpo"):
            contract = load_contract(str(self.folder / f"models/{model}" / CONTRACT_FILE))
            if contract.text != learnt:
                raise Failed(f"models/{model} has another contract than data/raw")
            for row in samples.itertuples():
                prompt = [{**turn, "content": [*turn["content"]]} for turn in row.prompt]
                if (found := contract.render(prompt)) != expected[row.id]:
                    raise Failed(f"row {row.id} is rendered as {found!r}, not {expected[row.id]!r}")
        return f"models/sft and models/grpo render {len(samples)} rows of the SFT set byte for byte"

    def cards(self) -> str:
        self.run("dvc", "repro", "cards")
        return ", ".join(sorted(file.name for file in (self.folder / "reports/cards").iterdir()))

    def package(self) -> str:
        variant = params.load(params.Release, self.folder / "params.yaml").variant
        output = self.run("critic", "package", "models/grpo", "--variant", variant)
        self.bento = output.rpartition("Built ")[2].split(". ")[0]
        return self.bento

    def try_bento(self) -> str:
        output = self.run(sys.executable, "-c", TRY_BENTO, self.bento)
        return output.splitlines()[-1]

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            return subprocess.Popen(
                process_tree.command(command), cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )

    def run(self, *command: str) -> str:
        """Run a command to its end; return what it printed.

        Raises:
            Failed: its exit code isn't 0.
        """
        before = self.log.stat().st_size if self.log.exists() else 0
        if code := self.start(*command).wait():
            raise Failed(f"{' '.join(command[:3])} ended with code {code}:\n{self.tail()}")
        return self.log.read_bytes()[before:].decode(errors="replace")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


def thinking(template: str) -> str:
    """The tiny base's chat template, but it begins the answer, as the released critic's does."""
    return template.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")


def rendering(text: str) -> str:
    """A user's turn of the released SFT set as the chat template of `fill` renders it."""
    pictures = text.replace(IMAGE_MARK, "<|vision_start|><|image_pad|><|vision_end|>")
    return f"<|im_start|>user\n{pictures}<|im_end|>\n<|im_start|>assistant\n<think>"


TRY_BENTO = """
import sys
from pathlib import Path
from critic import loopback, params, process_tree
from critic.service.smoke import smoke_edits, try_bento

release, bento = params.load(params.Release), sys.argv[1]
edits = smoke_edits(Path.cwd(), release.smoke_edits)
smoke = try_bento(bento, edits, version=bento.rsplit("-", 2)[0], tolerance=release.tolerance)
print(f"{len(edits)} edits scored as by evaluate, within {smoke.largest_gap:.2f}; {smoke.latency:.2f} s each")
"""


def rehearse(profile: str, folder: Path, hub: Hub) -> Iterator[Row]:
    """Take the steps of a profile, up to the first that fails."""
    steps = Rehearsal(profile, folder, hub).steps()
    for step, take in steps:
        began = time.monotonic()
        try:
            seen, passed = take(), True
        except Failed as error:
            seen, passed = str(error), False
        yield Row(profile, step, passed, time.monotonic() - began, seen)
        if not passed:
            break
    for step, _ in steps:
        yield Row(profile, step, False, None, "not reached")


def files(base: str) -> dict[str, bytes]:
    """The files of a tiny base, by name."""
    return {file.name: file.read_bytes() for file in (ROOT / "assets" / base).iterdir() if file.suffix != ".py"}


def fill(hub: Hub, content: dict[str, Any]) -> None:
    """Put on the hub what the profiles of params.yaml read: the benchmark, the SFT set and the base model."""
    sets = released.make(sources=12, side=112)
    base = files("tiny-base")
    template = base["chat_template.jinja"].decode()
    for profile in PROFILES:
        download, model = (content["profiles"][profile][section] for section in ("download", "model"))
        sets.push(hub, download["hub"]["dataset"], download["rationales"]["dataset"])
        hub.files[model["base"]] = files("tiny-base-qwen3-vl") if "Qwen3-VL" in model["base"] else base
        if critic := download.get("learn_contract"):
            hub.files[critic["model"]] = {**base, "chat_template.jinja": thinking(template).encode()}


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| profile | step | | seconds | seen |", "|---|---|---|---:|---|"]
    for profile, step, passed, seconds, seen in rows:
        took = "" if seconds is None else f"{seconds:.0f}"
        lines.append(f"| {profile} | {step} | {'ok' if passed else 'FAILED'} | {took} | {seen.splitlines()[0]} |")
    return "\n".join(lines)


def over_budget(rows: Sequence[Row]) -> list[str]:
    """A line for each budget that the profiles have passed, if all of its profiles ran."""
    took = minutes(rows)
    lines = []
    for profiles, most in BUDGETS.items():
        if {*profiles} <= {*took} and (total := sum(took[profile] for profile in profiles)) > most:
            lines.append(f"{', '.join(profiles)} took {total:.1f} minutes, more than {most}")
    return lines


def minutes(rows: Sequence[Row]) -> dict[str, float]:
    """How long each profile took."""
    took: dict[str, float] = {}
    for row in rows:
        took[row.profile] = took.get(row.profile, 0.0) + (row.seconds or 0.0) / 60
    return took


def main() -> None:
    summary, more = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="python tests/rehearse.py",
        description=summary,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "profiles",
        nargs="*",
        metavar="PROFILE",
        help=f"of {', '.join(PROFILES)} (default: the first {len(USUAL)})",
    )
    parser.add_argument("--folder", type=Path, help="an empty folder that is kept (default: a temporary one)")
    given = parser.parse_args()
    if unknown := {*given.profiles} - {*PROFILES}:
        parser.error(f"unknown profile {', '.join(unknown)}: choose from {', '.join(PROFILES)}")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="rehearsal-"))
    rows = []
    with serve() as hub:
        fill(hub, yaml.safe_load((ROOT / "params.yaml").read_text()))
        for profile in given.profiles or USUAL:
            place = folder.absolute() / profile
            place.mkdir(parents=True)
            for row in rehearse(profile, place, hub):
                rows.append(row)
                print(f"{profile}: {row.step}: {row.seen}", flush=True)
    failed = [row for row in rows if not row.passed]
    print(f"\n{table(rows)}\n")
    print("\n".join(f"{profile}: {took:.1f} minutes" for profile, took in minutes(rows).items()))
    late = over_budget(rows)
    print("\n".join(late))
    if given.folder is None and not failed:
        shutil.rmtree(folder)
    elif failed:
        print(f"Logs: {folder}/*.log")
    sys.exit(bool(failed or late))


if __name__ == "__main__":
    main()
