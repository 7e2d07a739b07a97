"""Read preference benchmarks: groups of edits of one source image in people's order. See docs/evaluate.md.

Each benchmark has a module with

    def read(origin: Snapshot) -> Iterator[Pair | LeftOut]    # the pairs, in the order of the files

and its row in `BENCHMARKS`. `critic.data.preferences.pairs` writes what they yield as edits to score and pairs to
evaluate; the protocol of a benchmark is in `critic.evaluation.preferences`.
"""

from dataclasses import dataclass

EDITS, PAIRS, ORIGIN = "edits.parquet", "pairs.jsonl", "origin.json"
"""The files of a folder that `critic data preferences` writes."""
OVERALL = "overall"
"""What people have judged if a benchmark names no axis."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        module: that reads it, in this folder.
        summary: one clause, for the help.
        dataset: its name on the hub; None if it is read from a file alone.
        revision: the one whose layout was looked up, or a branch.
    """

    module: str
    summary: str
    dataset: str | None = None
    revision: str = "main"


BENCHMARKS = {
    "editreward-bench": Benchmark(
        "editreward",
        "EditReward-Bench of TIGER-Lab, groups of 2, 3 and 4 edits",
        "TIGER-Lab/EditReward-Bench",
        "837769c456117bcea42f72ab1d7f5125fe589eb4",
    ),
    "editscore-bench": Benchmark(
        "editscore",
        "EditReward-Bench of EditScore (VectorSpaceLab), pairs by axis and subtask",
        "EditScore/EditReward-Bench",
        "7dc4a0ff83c143ea0476065b2bb5d35247af0fcf",
    ),
    "genai-bench": Benchmark("genai", "the editing part of GenAI-Bench, pairs with ties", "TIGER-Lab/GenAI-Bench"),
    "mmrb2": Benchmark(
        "mmrb2",
        "the editing part of MMRB2, its pairs with one source image",
        "rl-research/multimodal-rewardbench-2",
    ),
    "editreward-compass": Benchmark("compass", "EditReward-Compass, pairs by axis, with ties"),
    "table": Benchmark("table", "a table of your own: source, instruction, edited_a, edited_b, winner"),
}
"""The benchmarks by name, as `critic data preferences` takes it."""
