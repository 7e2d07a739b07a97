"""Check whether the hub has a newer commit of a data set than the one in data/raw."""

import json
from pathlib import Path

from huggingface_hub import HfApi

from critic.params import Download


def moved(section: Download, record: Path) -> list[str]:
    """A message for each data set of params.yaml on the hub whose branch or tag now points to another commit.

    Data sets that weren't downloaded, by `record` (data/raw/checksums.json), or that are pinned to a commit are
    skipped.

    Raises:
        ParamsError: the hub's settings in params.yaml are wrong.
        httpx.HTTPError, HfHubHTTPError: the hub can't be reached, it has no such data set or revision, or access
            is denied.
    """
    from critic.data.readers.hub import Settings

    benchmark = section.settings(Settings) if section.source == "hub" else None
    downloaded = json.loads(record.read_text())["hub"] if record.exists() else {}
    messages = []
    for part, given in (("benchmark", benchmark), ("rationales", section.rationales)):
        if given is None or given.dataset is None or given.revision is None or part not in downloaded:
            continue
        known = downloaded[part]
        if (known["dataset"], known["revision"]) != (given.dataset, given.revision):
            continue  # params.yaml has changed, so `dvc repro` downloads it
        if given.revision == known["commit"]:
            continue
        commit = HfApi().dataset_info(given.dataset, revision=given.revision).sha
        if commit != known["commit"]:
            messages.append(
                f"{given.dataset} at {given.revision} is now {commit}, and data/raw has {known['commit']}"
            )
    return messages
