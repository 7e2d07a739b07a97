"""A load test of the service with locust, which checks every score against the one by `critic score`.

    critic score -m models/grpo data/validated/test.parquet --out scores.jsonl
    make serve &
    CRITIC_PAIRS=data/validated/test.parquet CRITIC_SCORES=scores.jsonl \\
        locust -f benchmarks/load.py --headless -u 64 -r 64 -t 5m -H http://127.0.0.1:3000

Each user scores random edits, one after the other. A wrong score is a failure. A 429 isn't: the user waits for its
Retry-After. If CRITIC_KEY is set, it is sent as the API key.
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
    """Requests scores one after the other, without pauses."""

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
                answer.failure(f"{edit['id']}: score {score}, expected {SCORES[edit['id']]}")
