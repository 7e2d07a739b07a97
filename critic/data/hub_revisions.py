"""Whether the hub has a newer revision of a data set than the one that the pipeline has read.

for news in moved(params.load(params.Download), Path("data/raw/checksums.json")):
    print(news)    # Coobiw/IE-Bench-4k at main is now 0f3c…, and data/raw has that of 9a71…
"""

import json
from pathlib import Path

from huggingface_hub import HfApi

from critic.params import Download


def moved(section: Download, record: Path) -> list[str]:
    """Each data set of the hub whose branch or tag stands for another commit now, in words.

    What was never downloaded hasn't moved, and neither has what is pinned to a commit.

    Args:
        section: what params.yaml says of the sources.
        record: the file checksums.json of data/raw.

    Raises:
        httpx.HTTPError: the hub can't be reached.
        huggingface_hub.errors.HfHubHTTPError: it has no such data set or revision, or doesn't give it away.
    """
    benchmark = section.hub if section.source == "hub" else None
    read = json.loads(record.read_text())["hub"] if record.exists() else {}
    news = []
    for part, given in (("benchmark", benchmark), ("rationales", section.rationales)):
        if given is None or given.dataset is None or given.revision is None or part not in read:
            continue
        known = read[part]
        if (known["dataset"], known["revision"]) != (given.dataset, given.revision):
            continue  # params.yaml has changed, which the pipeline sees by itself
        if given.revision == known["commit"]:
            continue
        commit = HfApi().dataset_info(given.dataset, revision=given.revision).sha
        if commit != known["commit"]:
            news.append(f"{given.dataset} at {given.revision} is now {commit}, and data/raw has {known['commit']}")
    return news
