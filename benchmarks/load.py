"""Load on the service by locust: every answer is checked against the score that `critic score` gave offline.

    critic score -m models/grpo data/validated/test.parquet --out scores.jsonl
    make serve &
    CRITIC_PAIRS=data/validated/test.parquet CRITIC_SCORES=scores.jsonl \\
        locust -f benchmarks/load.py --headless -u 64 -r 64 -t 5m -H http://127.0.0.1:3000

A user asks for one edit after the other, chosen at random. An answer of another edit, or another score, is a
failure; a 429 is not: the user waits as long as it says. CRITIC_KEY is sent as the API key if it is set.
"""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from locust import FastHttpUser, constant, task

_TABLE = pq.read_table(os.environ["CRITIC_PAIRS"], columns=["id", "images", "instruction"]).to_pylist()
_LINES = [json.loads(line) for line in Path(os.environ["CRITIC_SCORES"]).read_text().splitlines()]
SCORES: dict[str, float] = {line["id"]: line["score"] for line in _LINES}
EDITS: list[dict[str, Any]] = [row for row in _TABLE if row["id"] in SCORES]
HEADERS = {"Authorization": f"Bearer {os.environ['CRITIC_KEY']}"} if "CRITIC_KEY" in os.environ else {}


class Editor(FastHttpUser):
    """Asks for scores, one at a time and without a pause."""

    wait_time = constant(0)

    @task
    def score(self) -> None:
        edit = random.choice(EDITS)
        source, edited = (("picture", image["bytes"]) for image in edit["images"])
        with self.client.post(
            "/score",
            files={"source": source, "edited": edited},
            data={"instruction": edit["instruction"]},
            headers=HEADERS,
            catch_response=True,
        ) as answer:
            if answer.status_code == 429:
                answer.success()
                time.sleep(int(answer.headers["Retry-After"]))
            elif answer.status_code != 200:
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")
            elif (score := answer.json()["score"]) != SCORES[edit["id"]]:
                answer.failure(f"{edit['id']} has {SCORES[edit['id']]}, the service says {score}")
