"""Time the scoring of edits: `critic score` beside a loop over transformers, and beside vLLM alone.

    python benchmarks/score.py models/grpo data/validated/train.parquet
    python benchmarks/score.py models/grpo data/validated/train.parquet --json runs/score.json
    python benchmarks/score.py models/grpo data/validated/train.parquet --one-source --side 560

The loop is upstream's way: `generate` of transformers on 32 edits after the other, with the model's own
processor. vLLM alone gets all edits in one call, decoded and unresized. Both take the prompts from the critic's
contract. Each way runs in a process of its own, from its start to its last score, greedily, in float32 on a CPU
and in bfloat16 on a GPU. The rate is that between the two sizes: without the start.

With `--one-source`, vLLM as `critic score` runs it gets one edit at a time, several of each source image: the
first edit of a source is compared with the others, whose source picture it has read already. `--side` enlarges
the critic's pictures, so that the tiny critic reads prompts as long as those of the 7B.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image
from tqdm import tqdm

from critic.files import write_json

LOOP = "transformers, a loop"
WAYS = (LOOP, "vLLM alone", "critic score, transformers", "critic score, vLLM")
PER_SOURCE = 4
_SCORE = re.compile(r"<answer>\s*([\d.]+)\s*</answer>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="The critic's folder.")
    parser.add_argument("pairs", type=Path, help="A validated table, data/validated/*.parquet.")
    parser.add_argument(
        "--edits", type=int, nargs="+", default=[400, 1000], help="Numbers of edits (default: 400 1000)."
    )
    parser.add_argument("--max-tokens", type=int, default=80, help="Tokens of an answer at most (default: 80).")
    parser.add_argument("--one-source", action="store_true", help="Compare edits of the same source image.")
    parser.add_argument("--sources", type=int, default=16, help="Source images with --one-source (default: 16).")
    parser.add_argument("--side", type=int, help="Side of the pictures in pixels with --one-source.")
    parser.add_argument("--json", type=Path, help="Write all figures to this file.")
    parser.add_argument("--way", choices=WAYS[:2], help="Run only this way, and print its scores as JSON.")
    given = parser.parse_args()
    if given.way:
        table = pq.read_table(given.pairs, columns=["id", "images", "instruction"])
        score = with_transformers if given.way == LOOP else with_vllm
        print(json.dumps(score(given.model, table.to_pylist(), given.max_tokens)))
        return
    found = one_source(given) if given.one_source else compare(given)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, found)


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each way at each number of edits, and its scores beside the loop's."""
    sizes: list[int] = sorted(given.edits)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    scores: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory() as scratch, tqdm(total=len(sizes) * len(WAYS), desc="runs") as bar:
        for size in sizes:
            table = Path(scratch) / f"{size}.parquet"
            pq.write_table(first(given.pairs, size), table)
            for way in WAYS:
                began = time.perf_counter()
                scores[way] = run(way, given.model, table, given.max_tokens)
                seconds[way].append(time.perf_counter() - began)
                bar.update()
    found = {}
    heads = "".join(f" {size} edits, s | ratio |" for size in sizes)
    print(f"| |{heads} edits/s | same scores |\n|---|{'---:|' * (2 * len(sizes) + 2)}")
    for way, took in seconds.items():
        rate = (sizes[-1] - sizes[0]) / (took[-1] - took[0]) if len(sizes) > 1 else float("nan")
        same = statistics.mean(scores[way].get(id) == score for id, score in scores[LOOP].items())
        ratios = [loop / own for loop, own in zip(seconds[LOOP], took, strict=True)]
        cells = "".join(f" {own:.1f} | {ratio:.2f} |" for own, ratio in zip(took, ratios, strict=True))
        print(f"| {way} |{cells} {rate:.0f} | {same:.1%} |")
        found[way] = {
            "edits": sizes, "seconds": took, "ratios": ratios, "edits_per_second": rate, "same_scores": same,
        }  # fmt: skip
    return found


def first(pairs: Path, size: int) -> pa.Table:
    """The first `size` edits, with those of a source image together."""
    table = pq.read_table(pairs, columns=["id", "source_id", "images", "instruction"]).sort_by("source_id")
    if len(table) < size:
        raise SystemExit(f"{pairs} has {len(table)} edits: give a table of {size}, or a smaller --edits")
    return table[:size]


def run(way: str, model: str, table: Path, max_tokens: int) -> dict[str, float | None]:
    """Run one way in a new process. Returns the scores by id, None where an answer can't be read."""
    if way in WAYS[:2]:
        command = [sys.executable, __file__, model, str(table), "--way", way, "--max-tokens", str(max_tokens)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return dict(json.loads(output.splitlines()[-1]))
    out = table.with_name(f"{table.stem}-{way.rpartition(' ')[2]}.jsonl")
    engine = way.rpartition(" ")[2].lower()
    options = ["--engine", engine, "--max-tokens", str(max_tokens), "--out", str(out)]
    command = [str(Path(sys.executable).parent / "critic"), "score", "-m", model, str(table), *options]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode not in (0, 1):  # 1: some edit has no score
        raise SystemExit(f"`{' '.join(command)}` failed")
    lines = map(json.loads, out.read_text().splitlines())
    return {line["id"]: line["score"] for line in lines}


def with_transformers(model: str, rows: list[dict[str, Any]], max_tokens: int) -> dict[str, float | None]:
    """Score with `generate` of transformers, 32 edits after the other."""
    import torch
    from qwen_vl_utils import process_vision_info
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from critic.prompts import load_contract

    contract = load_contract(f"{model}/contract.yaml")
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    processor = AutoProcessor.from_pretrained(model, padding_side="left")
    loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype).to(device).eval()
    limits = {"min_pixels": contract.min_pixels, "max_pixels": contract.max_pixels}
    scores: dict[str, float | None] = {}
    for start in range(0, len(rows), 32):
        batch = rows[start : start + 32]
        chats = []
        for row in batch:
            content = [{"type": "image", "image": picture, **limits} for picture in pictures(row)]
            text = contract.user_text["reasoning"].format(
                instruction=row["instruction"], request=contract.requests["reasoning"]
            )
            chats.append([{"role": "user", "content": [*content, {"type": "text", "text": text}]}])
        prompts = processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        images, _ = process_vision_info(chats)
        inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt").to(device)
        with torch.inference_mode():
            output = loaded.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=max_tokens)
        texts = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        scores |= {row["id"]: read(text) for row, text in zip(batch, texts, strict=True)}
    return scores


def with_vllm(model: str, rows: list[dict[str, Any]], max_tokens: int) -> dict[str, float | None]:
    """Score with vLLM alone, in one call."""
    import os

    import torch
    from vllm import LLM, SamplingParams

    from critic.edits import Edit
    from critic.prompts import load_contract

    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    contract = load_contract(f"{model}/contract.yaml")
    engine = LLM(
        model,
        dtype="bfloat16" if torch.cuda.is_available() else "float32",
        enforce_eager=not torch.cuda.is_available(),
        limit_mm_per_prompt={"image": 2, "video": 0},
    )
    asked: list[Any] = []
    for row in rows:
        source, edited = pictures(row)
        prompt = contract.render(contract.messages(Edit(row["id"], source, edited, row["instruction"])))
        asked.append({"prompt": prompt, "multi_modal_data": {"image": [source, edited]}})
    outputs = engine.generate(asked, SamplingParams(temperature=0, max_tokens=max_tokens), use_tqdm=False)
    return {row["id"]: read(output.outputs[0].text) for row, output in zip(rows, outputs, strict=True)}


def pictures(row: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(BytesIO(image["bytes"])).convert("RGB") for image in row["images"]]


def read(text: str) -> float | None:
    """The score of an answer."""
    found = _SCORE.search(text)
    return float(found[1]) if found else None


def one_source(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an edit alone: of the first of its source image, and of those that follow."""
    from critic.engines.load import contract_of, open_engine
    from critic.scoring.inputs import read_pairs
    from critic.scoring.scorer import Scorer

    table = pq.read_table(given.pairs, columns=["id", "source_id", "images", "instruction"])
    ids = table["source_id"].to_pylist()
    chosen = [source for source in dict.fromkeys(ids) if ids.count(source) >= PER_SOURCE][: given.sources + 1]
    rows = [[n for n, id in enumerate(ids) if id == source][:PER_SOURCE] for source in chosen]
    spent: dict[str, list[float]] = {"first": [], "further": []}
    with tempfile.TemporaryDirectory() as scratch:
        pq.write_table(table.take([n for group in rows for n in group]), f"{scratch}/pairs.parquet")
        edits: Any = [*read_pairs(Path(scratch) / "pairs.parquet")]
        model = given.model if given.side is None else enlarged(given.model, given.side, Path(scratch) / "model")
        contract = contract_of(model)
        scorer = Scorer(open_engine("vllm", model, contract, max_tokens=given.max_tokens, batch_size=4), contract)
        if given.side is not None:
            size = (given.side, given.side)
            edits = [replace(e, source=e.source.resize(size), edited=e.edited.resize(size)) for e in edits]
        for number, edit in enumerate(tqdm(edits, desc="edits")):
            began = time.perf_counter()
            (result,) = scorer([edit])
            if number >= PER_SOURCE:  # the first source is a warm-up
                spent["further" if number % PER_SOURCE else "first"].append(time.perf_counter() - began)
    first, further = (statistics.median(spent[which]) for which in ("first", "further"))
    print("| tokens of a prompt | first edit of a source, s | further, s | ratio |\n|---:|---:|---:|---:|")
    print(f"| {result.prompt_tokens} | {first:.3f} | {further:.3f} | {further / first:.2f} |")
    return {"prompt_tokens": result.prompt_tokens, "first": first, "further": further, "ratio": further / first}


def enlarged(model: str, side: int, folder: Path) -> str:
    """Make a copy of a critic whose contract has pictures of `side` x `side` pixels."""
    from transformers import AutoProcessor

    folder.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (folder / name).symlink_to(Path(model, name).absolute())
    processor = AutoProcessor.from_pretrained(model)
    processor.image_processor.size = {"shortest_edge": side**2, "longest_edge": side**2}
    contract = yaml.safe_load(Path(model, "contract.yaml").read_text())
    contract |= {"name": f"{contract['name']}-{side}", "pixels": {"min": side**2, "max": side**2}}
    processor.save_pretrained(folder)
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract))
    return str(folder)


if __name__ == "__main__":
    main()
