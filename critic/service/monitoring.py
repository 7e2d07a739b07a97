"""The service's own Prometheus metrics. `/metrics` has BentoML's and vLLM's too."""

import re

import httpx
from prometheus_client import Counter, Gauge, Histogram

from critic.client.schemas import Scored

REQUESTS = Counter("critic_requests", "Requests by route, HTTP status and caller.", ["route", "code", "caller"])
SECONDS = Histogram(
    "critic_request_seconds",
    "Seconds from a request to the end of its response.",
    ["route"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120),
)
VERDICTS = Counter(
    "critic_verdicts", "Results by mode and status: ok, or why there is no score.", ["mode", "status"]
)
SCORES = Histogram("critic_score", "Scores, 1 to 5.", ["mode"], buckets=(1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5))
TOKENS = Counter("critic_tokens", "Tokens of results: read and written.", ["kind"])
PENDING = Gauge("critic_pending", "Answers that vLLM generates or that wait for it.", multiprocess_mode="livesum")
READY = Gauge("critic_engine_ready", "1 while vLLM can score.", multiprocess_mode="livemin")
LOSSES = Counter("critic_engine_losses", "Times that vLLM was lost.")
RATINGS = Counter("critic_ratings", "Stored ratings by people.")
VOTES = Counter("critic_votes", "Stored votes by people on pairs of edits.")


def count(scored: Scored) -> None:
    VERDICTS.labels(scored.mode, scored.status).inc()
    TOKENS.labels("read").inc(scored.prompt_tokens)
    TOKENS.labels("written").inc(scored.tokens)
    if scored.score is not None:
        SCORES.labels(scored.mode).observe(scored.score)


async def with_vllm(own: str, vllm: httpx.AsyncClient) -> str:
    """Append vLLM's metrics, unless vLLM doesn't answer."""
    try:
        reply = await vllm.get("/metrics", timeout=5)
    except httpx.HTTPError:
        return own
    vllm_lines = re.findall(r"^(?:# (?:HELP|TYPE) )?vllm:.*\n", reply.text, re.MULTILINE)
    return own + "".join(vllm_lines)
