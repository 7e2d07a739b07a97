"""Read minibench, which is generated: see `critic.data.minibench`."""

from collections.abc import Iterator
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from critic.data.generated import without_sources
from critic.data.minibench import make_table
from critic.edits import SPLITS
from critic.params import Count, Part


class Settings(Part):
    """The number of source images in each split, and the side of the pictures in pixels.

    With `generated`, the edited pictures alone, each with its instruction as the prompt that it was made from.
    """

    train_sources: Count
    validation_sources: Count
    test_sources: Count
    side: Annotated[int, Field(ge=56)]
    generated: bool = False


def read(settings: Settings, seed: int, snapshots: dict[str, Any]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The splits, each made when it is reached; the same seed gives the same bytes."""
    sources = (settings.train_sources, settings.validation_sources, settings.test_sources)
    for split, number in zip(SPLITS, sources, strict=True):
        table = make_table(split, number, settings.side, seed)
        yield split, without_sources(table) if settings.generated else table
