"""Check on one GPU of 80 GB, within ten minutes, what only a GPU can tell.

    make gpu-check
    python benchmarks/gpu_check.py sft grpo         # some of the checks
    python benchmarks/gpu_check.py --shape tiny     # on any CPU: does this script run?

Run it from the top folder of the project, after `make setup LOCK=gpu`. It needs no hub and no data, but 35 GB of
disk: the 7B has random weights, as in benchmarks/train_7b.py. Each check runs in a process of its own with a limit
of its own, so one that fails doesn't stop the others. The table goes to the terminal, to runs/gpu_check.md and,
with all figures, to runs/gpu_check.json. docs/gpu-results.md says what the figures mean and keeps them. The exit
code is 1 if a check failed, or wasn't run for want of time.
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from critic import loopback, params, process_tree
from critic.files import write_json, write_text

RUN = Path("runs/gpu_check")
MINUTES = 10.0
SHORTEST = 10
"""Seconds without which no check is started."""
PROFILE = "single-gpu"
ATTENTION = {
    "flash_attention_2": "flash-attn",
    "flash_attention_4": "flash-attn-4",
    "kernels-community/flash-attn2": "kernels",
}
"""The values of `model.attn_implementation` that need a package, and the package."""
MAX_MEAN_GAP = 0.05
"""Nats by which a kernel's log-probabilities in bfloat16 may differ from SDPA's, on average over the tokens."""
MAX_TIE = 0.25
"""Nats between two tokens that bfloat16 can't tell apart: two steps of its grid at logits of 16 to 32."""

Status = Literal["passed", "failed", "skipped", "not run"]


@dataclass
class Row:
    """What a check found.

    Attributes:
        figures: name to value, with the unit in the name.
        status: "skipped" without a GPU or the package that it checks, "not run" if there was no time left.
        note: why it didn't pass.
    """

    name: str
    status: Status
    figures: dict[str, float | str] = field(default_factory=dict)
    note: str = ""


# --- the checks


def device(given: argparse.Namespace) -> Iterator[Row]:
    """The GPU, and its speed in a product of matrices."""
    if not torch.cuda.is_available():
        yield Row("device", "skipped", {"torch": version("torch")}, "no GPU")
        return
    side, times = 8192, 20
    matrix = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    for repeats in (3, times):  # the first are a warm-up
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(repeats):
            matrix @ matrix
        torch.cuda.synchronize()
    speed = 2 * side**3 * times / (time.perf_counter() - began) / 1e12
    properties = torch.cuda.get_device_properties(0)
    figures: dict[str, float | str] = {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory, GB": properties.total_memory / 1e9,
        "CUDA": torch.version.cuda or "",
        "bfloat16 matmul, TFLOP/s": speed,
    }
    yield Row("device", "passed", figures)


def kernels(given: argparse.Namespace) -> Iterator[Row]:
    """Each kernel against SDPA in bfloat16, in some layers of the 7B with random weights; vLLM's by import."""
    if not torch.cuda.is_available():
        yield from (Row(name, "skipped", note="no GPU") for name in (*ATTENTION, "liger", "vLLM's kernels"))
        return
    expected = _logprobs("sdpa")
    for name, package in ATTENTION.items():
        yield _attempt(name, package, partial(_compare, name, False, expected))
    yield _attempt("liger", "liger-kernel", partial(_compare, "sdpa", True, expected))
    yield _attempt("vLLM's kernels", "vllm", _import_vllm)


def _attempt(name: str, package: str, check: Callable[[], dict[str, float | str]]) -> Row:
    """A row of a kernel, skipped if its package isn't installed; a package that can't be imported has failed."""
    try:
        version(package)
        figures = check()
    except PackageNotFoundError:
        return Row(name, "skipped", note=f"{package} isn't installed")
    except Exception as error:  # any failure is a result here
        return Row(name, "failed", note=f"{type(error).__name__}: {error}")
    gap = figures.get("mean gap to SDPA, nats", 0.0)
    failed = isinstance(gap, float) and not gap <= MAX_MEAN_GAP
    return Row(name, "failed" if failed else "passed", figures, f"above {MAX_MEAN_GAP} nats" if failed else "")


def _logprobs(attention: Any, liger: bool = False) -> torch.Tensor:
    """Log-probabilities [tokens, vocabulary] of an edit under some layers of the 7B in bfloat16."""
    from shapes import TINY, config_of
    from transformers import AutoModelForImageTextToText

    from critic.checkpoints import load_model, load_processor, save_checkpoint
    from critic.data.minibench import make_table
    from critic.edits import edits_from_table, normalise
    from critic.engines.base import request
    from critic.prompts import load_contract

    place = "cuda" if torch.cuda.is_available() else "cpu"
    folder, contract = RUN / "layers", load_contract("tiny")
    if not folder.exists():
        config = config_of("7b")
        config.text_config.vocab_size, config.text_config.num_hidden_layers = 2048, 2
        config.text_config.layer_types = config.text_config.layer_types[:2]
        config.vision_config.depth, config.vision_config.fullatt_block_indexes = 2, [1]
        torch.manual_seed(7)
        with torch.device(place):
            made = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
        save_checkpoint(made, load_processor(TINY["tiny"], contract), contract, folder)
    edit = next(iter(edits_from_table(normalise(make_table("test", 1, 112, 7), "test"))))
    asked = request(contract, edit)
    inputs = load_processor(folder, contract)(text=[asked.prompt], images=[asked.pictures], return_tensors="pt")
    section = params.Model(base=str(folder), revision=None, attn_implementation=attention, dtype="bfloat16")
    try:
        model = load_model(folder, section).to(place)
    except ValueError as error:
        raise error.__cause__ or error from None
    if liger:
        from transformers.integrations.liger import apply_liger_kernel

        apply_liger_kernel(model, None)
    with torch.no_grad():
        return model(**inputs.to(place)).logits[0].float().log_softmax(-1)


def _compare(attention: str, liger: bool, expected: torch.Tensor) -> dict[str, float | str]:
    found = _logprobs(attention, liger)
    likeliest = expected.argmax(-1, keepdim=True)
    gaps = (found.gather(1, likeliest) - expected.gather(1, likeliest)).abs()
    return {"mean gap to SDPA, nats": gaps.mean().item(), "largest gap, nats": gaps.max().item()}


def _import_vllm() -> dict[str, float | str]:
    import vllm._C_stable_libtorch  # noqa: F401
    from vllm.v1.attention.backends.fa_utils import get_flash_attn_version
    from vllm.vllm_flash_attn import flash_attn_varlen_func  # noqa: F401

    return {"vLLM": version("vllm"), "its flash attention": f"version {get_flash_attn_version()}"}


def sft(given: argparse.Namespace) -> Iterator[Row]:
    """Steps of SFT in the profile's settings, with fewer samples an update."""
    yield Row("SFT", "passed", _steps(_train(given, "sft", "sft.gradient_accumulation_steps=4")["measured"]))


def grpo(given: argparse.Namespace) -> Iterator[Row]:
    """Steps of GRPO with a vLLM that sleeps during updates, and then the rollout check: vLLM woke for it."""
    changes = ["grpo.gradient_accumulation_steps=4", "grpo.steps_per_generation=2"]
    if torch.cuda.is_available():
        changes += ["grpo.vllm_enable_sleep_mode=true"]
    result = _train(given, "grpo", *changes, "--check-rollouts")
    yield Row("GRPO", "passed", _steps(result["measured"]))
    sleeps = bool(result["settings"]["grpo"]["vllm_enable_sleep_mode"])
    name = "rollouts after sleep and wake" if sleeps else "rollouts after the updates"
    wrong = result["rollout_check"]
    yield Row(name, "failed" if wrong else "passed", note=wrong or "")


def _train(given: argparse.Namespace, training: str, *changes: str) -> dict[str, Any]:
    import train_7b

    settings = [change for change in changes if not change.startswith("--")]
    options = [change for change in changes if change.startswith("--")]
    sizes = ["--steps", "2", "--warmup", "1"]
    if given.shape == "7b":
        sizes += ["--profile", PROFILE]
    else:
        settings += [f"{training}.per_device_train_batch_size=8"]
    return train_7b.measure(
        train_7b.parse([training, "--shape", given.shape, *sizes, *options, "--set", *settings])
    )


def _steps(measured: dict[str, Any]) -> dict[str, float | str]:
    shown = {
        "tokens/s": "tokens_per_second",
        "MFU": "mfu",
        "MFU without rollouts": "mfu_of_updates",
        "peak memory, GiB": "peak_memory_gib",
        "device memory, GiB": "device_memory_gib",
        "step, s": "seconds_per_step",
        "rollout, s": "rollout_seconds_per_step",
        "log-probs, s": "logprob_seconds_per_step",
        "update, s": "update_seconds_per_step",
        "sync, s": "sync_seconds_per_step",
    }
    return {name: measured[key] for name, key in shown.items() if measured[key]}


def parity(given: argparse.Namespace) -> Iterator[Row]:
    """`critic parity` of the tiny critic in bfloat16: it chooses its tokens clearly, and random weights don't."""
    from critic.data.minibench import make_table
    from critic.edits import TYPES
    from critic.scoring.parity import compare_engines
    from critic.tables import write_parquet

    pairs = RUN / "pairs.parquet"
    write_parquet(make_table("test", {"7b": 8, "tiny": 1}[given.shape], 112, 7), pairs, TYPES)
    for result in compare_engines("assets/tiny-critic", None, pairs, "bfloat16", 48, 16, 80, print):
        gaps = [difference.gap for difference in result.differences]
        widest = max((gap for gap in gaps if gap is not None), default=0.0)
        unknown = sum(gap is None for gap in gaps)
        figures: dict[str, float | str] = {
            "edits": result.edits,
            "same text": result.same_text,
            "same score": result.same_score,
            "widest gap, nats": widest,
        }
        tied = widest <= MAX_TIE and not unknown
        note = "" if tied else f"texts differ where the tokens weren't tied: {widest:.2f} nats, {unknown} unknown"
        yield Row(f"bfloat16: {result.name}", "passed" if tied else "failed", figures, note)


def service(given: argparse.Namespace) -> Iterator[Row]:
    """Edits a second of the service with random weights, whose answers all have the largest number of tokens."""
    import httpx
    import serve
    import train_7b
    from accelerate import PartialState

    from critic.checkpoints import load_processor
    from critic.data.trl_datasets import load_samples
    from critic.pictures import png
    from critic.prompts import load_contract

    profile = {"7b": PROFILE, "tiny": "tiny"}[given.shape]
    edits, clients, tokens = {"7b": (128, 32, 256), "tiny": (8, 4, 16)}[given.shape]
    sides = {"7b": (768, 1024), "tiny": (84, 112)}[given.shape]
    PartialState()
    contract = load_contract(params.load(params.Prompt, profile=profile).contract)
    model = train_7b.make_base(given.shape, params.load(params.Model, profile=profile), contract, params.seed())
    words = train_7b.one_token_words(load_processor(model, contract))
    train_7b.make_samples(RUN / "edits.parquet", edits, None, sides, contract, words)
    forms: list[dict[str, Any]] = [
        {
            "data": {"instruction": "make it red"},
            "files": {
                part: png(image) for part, image in zip(("source", "edited"), sample["images"], strict=True)
            },
        }
        for sample in load_samples(RUN / "edits.parquet", contract)
    ]
    gc.collect()
    torch.cuda.empty_cache()

    async def load(address: str) -> tuple[list[float], float]:
        def ask(client: httpx.AsyncClient, n: int) -> Any:
            return client.post(f"{address}/score", **forms[n])

        async with httpx.AsyncClient(timeout=600, mounts=loopback.MOUNTS) as client:
            await serve.many(client, ask, range(min(edits, clients)), edits, clients)  # warm-up
            alone = [(await serve.many(client, ask, [n], edits, 1))[0] for n in range(4)]
            began = time.perf_counter()
            await serve.many(client, ask, range(edits), edits, clients)
            return alone, time.perf_counter() - began

    with serve.serve(str(model), tokens, 1) as address:
        alone, seconds = asyncio.run(load(address))
    figures: dict[str, float | str] = {
        "edits/s": edits / seconds,
        "completion tokens/s": edits * tokens / seconds,
        "clients": clients,
        "one edit alone, s": statistics.median(alone),
    }
    yield Row("service", "passed", figures)


CHECKS: dict[str, tuple[Callable[[argparse.Namespace], Iterator[Row]], float]] = {
    "device": (device, 0.05),
    "kernels": (kernels, 0.1),
    "sft": (sft, 0.2),
    "grpo": (grpo, 0.3),
    "parity": (parity, 0.175),
    "service": (service, 0.175),
}
"""Each check, and the share of `MINUTES` that it may take, besides what those before it have left."""


# --- how they run


def run(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the checks one after the other, each in a process; return their rows with `check` and `seconds`."""
    deadline = time.monotonic() + 60 * given.minutes
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(given.checks):
        began = time.monotonic()
        limit = (
            deadline - began - 60 * given.minutes * sum(CHECKS[later][1] for later in given.checks[number + 1 :])
        )
        if limit < SHORTEST:
            over = f"the {given.minutes:g} minutes were over: name it to run it alone, or give more --minutes"
            found = [Row(name, "not run", note=over)]
        else:
            found = run_alone(name, given.shape, limit)
        seconds = round(time.monotonic() - began, 1)
        rows += [{"check": name, "seconds": seconds, **asdict(row)} for row in found]
        for row in found:
            print(line(row), flush=True)
    return rows


def run_alone(name: str, shape: str, limit: float) -> list[Row]:
    """Run a check in a process. The rows that it wrote stay if it fails or takes longer than `limit` seconds."""
    file, log = RUN / f"{name}.jsonl", RUN / f"{name}.log"
    file.unlink(missing_ok=True)
    command = [sys.executable, __file__, name, "--shape", shape, "--rows", str(file)]
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    with log.open("wb") as output:
        process = subprocess.Popen(
            process_tree.command(command),
            env={**os.environ, "CUDA_VISIBLE_DEVICES": first},
            stdout=output,
            stderr=output,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process_tree.end(process)
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [Row(**json.loads(one)) for one in lines]
    if code is None:
        rows.append(Row(name, "failed", note=f"not finished after {limit:.0f} s, see {log}"))
    elif code:
        last = log.read_text(errors="replace").strip().rpartition("\n")[2][:300]
        rows.append(Row(name, "failed", note=f"{last or f'exit code {code}'}, see {log}"))
    return rows


def write_rows(given: argparse.Namespace) -> None:
    """Run one check in this process, and write each of its rows to `given.rows` as it comes."""
    (name,) = given.checks
    with given.rows.open("w") as file:
        for row in CHECKS[name][0](given):
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()


def line(row: Row) -> str:
    """A row of the table."""
    figures = [f"{name} {_shown(value)}" for name, value in row.figures.items()]
    return f"| {row.name} | {row.status} | {'; '.join([*figures, *([row.note] if row.note else [])])} |"


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    summary, more = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="python benchmarks/gpu_check.py",
        description=summary,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)} (default: all)")
    parser.add_argument(
        "--shape", choices=("7b", "tiny"), default="7b", help="model size (default: 7b); tiny: assets/tiny-base"
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all checks (default: %(default)g)")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if unknown := {*given.checks} - {*CHECKS}:
        parser.error(f"unknown check {', '.join(sorted(unknown))}: choose from {', '.join(CHECKS)}")
    given.checks = given.checks or [*CHECKS]
    return given


def main() -> None:
    given = parse()
    RUN.mkdir(parents=True, exist_ok=True)
    if given.rows:
        write_rows(given)
        return
    if given.shape == "7b" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here: --shape tiny runs the checks on any machine, at a tiny size")
    head = "| check | status | |\n|---|---|---|"
    print(head)
    rows = run(given)
    lines = [line(Row(row["name"], row["status"], row["figures"], row["note"])) for row in rows]
    write_text(RUN.with_suffix(".md"), "\n".join([head, *lines]) + "\n")
    packages = ("torch", "transformers", "trl", "vllm", "peft", "deepspeed", "bentoml")
    versions = {name: _version(name) for name in packages}
    write_json(RUN.with_suffix(".json"), {"shape": given.shape, "versions": versions, "rows": rows})
    print(f"\nthis table: {RUN.with_suffix('.md')}; with all figures: {RUN.with_suffix('.json')}")
    if late := [row["name"] for row in rows if row["status"] == "not run"]:
        print(f"not run for want of time: {', '.join(late)}")
    sys.exit(any(row["status"] in ("failed", "not run") for row in rows))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
