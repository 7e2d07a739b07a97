"""How the test split was made, and whether its source images are also in train or validation.

    split = read_split(Path("data/validation.json"))
    split.leak    # "leaks source images: 370 of 970 test edits share one of 120 sources with train or validation"

A published split may share source images (IE-Bench-4k's does). A critic has then seen the pictures that it is
tested on, and its figures are too high. Pictures that were made from text may share prompts. Whatever prints a
figure of the test split prints `Split.leak` beside it, unless it is "".
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VALIDATION = Path("data/validation.json")
OFFICIAL = "official"


class SplitError(ValueError):
    """Nobody knows how the test split was made; the message names the file and the fix."""


@dataclass(frozen=True)
class Split:
    """A test split.

    Attributes:
        name: "official" (as published), "by_source" (made by source image), "given" (neither from the hub).
        edits: number of its edits.
        leaked: how many of them have a source image that is, or looks, the same as one of train or validation.
        sources: the number of such source images.
        of: "source images", or "prompts" if the edits are pictures that were made from these.
        same_edits: how many of the leaked edits are in train or validation themselves.
    """

    name: str
    edits: int
    leaked: int = 0
    sources: int = 0
    of: str = "source images"
    same_edits: int = 0

    @property
    def leak(self) -> str:
        """What must be said of the test split beside each of its figures, as a predicate; "" if nothing."""
        if self.leaked:
            share = "shares" if self.leaked == 1 else "share"
            items, source = ("pictures", "prompt") if self.of == "prompts" else ("edits", "source")
            one = f"one {source}" if self.sources == 1 else f"one of {self.sources:,} {source}s"
            is_are = "is" if self.same_edits == 1 else "are"
            same = f", and {self.same_edits:,} of these edits {is_are} there too" if self.same_edits else ""
            return (
                f"leaks {self.of}: {self.leaked:,} of {self.edits:,} test {items} {share} {one} with train or "
                f"validation{same}"
            )
        if self.name == OFFICIAL:
            return f"is the published one: none of {self.edits:,} test edits shares a source image with the others"
        return ""

    def note(self, text: str) -> str:
        """A text with figures of the test split, and the leak after it."""
        return f"{text}, on a test split that {self.leak}" if self.leak else text

    def mark(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Figures of the test split by name, with the key `split` if there is a leak to say."""
        if not self.leak:
            return dict(figures)
        leak = {"edits": self.leaked, "sources": self.sources, "same_edits": self.same_edits}
        return {**figures, "split": {"name": self.name, "leak": leak, "note": self.leak}}


def parse_split(report: Mapping[str, Any], path: Path | str = VALIDATION) -> Split:
    """The test split in the content of data/validation.json (`path` in errors), or a `SplitError`."""
    try:
        name, leak, test = report["split"]["name"], report["split"]["leak"], report["splits"]["test"]
        of, same_edits = str(report["split"].get("of", Split.of)), int(leak.get("same_edits", 0))
        return Split(str(name), int(test["edits"]), int(leak["edits"]), int(leak["sources"]), of, same_edits)
    except (KeyError, TypeError, ValueError):
        raise SplitError(
            f"{path} doesn't say how the test split was made and what it leaks: run `dvc repro validate`"
        ) from None


def read_split(path: Path = VALIDATION) -> Split:
    """The test split that `validate` has described; a `SplitError` if its report is missing or doesn't say it."""
    try:
        report = json.loads(path.read_text())
    except FileNotFoundError:
        raise SplitError(f"{path} is missing, which has the test split's leak: run `dvc repro validate`") from None
    except ValueError as error:
        raise SplitError(f"{path} isn't JSON ({error}): run `dvc repro validate`") from None
    return parse_split(report, path)


def is_of_project(table: Path) -> bool:
    """Whether a table is in data/raw or data/validated of a project, which has a params.yaml."""
    folder = table.parent.resolve()  # not the table, which may be a link to DVC's cache
    in_data = folder.parent.name == "data" and folder.name in ("raw", "validated")
    return in_data and (folder.parents[1] / "params.yaml").exists()


def split_of(table: Path) -> Split | None:
    """The split of a table of opinions, if it is test.parquet of a project's data/raw or data/validated.

    Raises:
        SplitError: as `read_split`.
    """
    is_test = table.name == "test.parquet" and is_of_project(table)
    return read_split(table.parent.resolve().with_name(VALIDATION.name)) if is_test else None


def unknown_leak(table: Path, of: str = Split.of) -> str:
    """What is said once beside figures of a table that isn't a project's own; "" if it is.

    Args:
        of: "source images", or "prompts", as `Split.of`.
    """
    if is_of_project(table):
        return ""
    return f"It isn't known whether {table.name} shares {of} with the edits that the critic was trained on."
