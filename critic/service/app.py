"""The HTTP interface: what is asked for, what is answered, and how what goes wrong is."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from math import ceil, inf
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
import httpx
from fastapi import APIRouter, FastAPI, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from critic.client.schemas import (
    Batch,
    Comparison,
    Instruction,
    Kept,
    Options,
    Pair,
    Ranked,
    Ranking,
    Rating,
    Refusal,
    Rewarded,
    Rewards,
    Scored,
    ScoredBatch,
)
from critic.ratings.picture_store import Keeper
from critic.ratings.receipts import ForgedReceipt, Receipt, Receipts
from critic.ratings.store import Feedback, FeedbackError
from critic.results import Failure
from critic.service.chat_filter import check_chat
from critic.service.errors import INTERNAL, Refused
from critic.service.fetching import fetch
from critic.service.input_checks import check_json, picture_bytes, picture_format
from critic.service.keys import Caller
from critic.service.monitoring import RATINGS, count
from critic.service.page import mount_page
from critic.service.scoring_queue import Judge, Submission
from critic.service.settings import Settings

log = logging.getLogger("critic.service")
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": HTTPStatus(status).phrase}
    for status in (400, 401, 403, 413, 415, 422, 429, 502, 503, 504)
}


class _Counted(APIRoute):
    """Takes JSON from strangers: its values are counted before it is parsed, which is before any dependency."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def count_first(request: Request) -> Response:
            check_json(await request.body())
            return await handle(request)

        return count_first


routes = APIRouter(responses=_REFUSALS)
json_routes = APIRouter(responses=_REFUSALS, route_class=_Counted)


class Upload(Options):
    """An edit to score, as a form."""

    source: UploadFile
    edited: UploadFile
    instruction: Instruction


def create_app(settings: Settings, find_critic: Callable[[], tuple[Path, str]]) -> FastAPI:
    """The app; when it starts, so does vLLM with the critic: its folder, and which release it is."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.settings = settings
        app.state.receipts = Receipts(settings.receipt_key)
        app.state.feedback = Feedback(settings.feedback_url.get_secret_value())
        app.state.keeper = None if settings.keep_images is None else Keeper(settings.keep_images)
        async with Judge(settings, *find_critic()) as app.state.judge:
            yield

    app = FastAPI(
        title="Critic of image edits",
        description="Scores how well a picture was edited, from 1 (very bad) to 5 (excellent).",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(routes)
    app.include_router(json_routes)
    mount_page(app)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)
    return app


@routes.post("/score", summary="Score one edit")
async def score(request: Request, upload: Annotated[Upload, Form(media_type="multipart/form-data")]) -> Scored:
    submission = Submission("0", await upload.source.read(), await upload.edited.read(), upload.instruction)
    (scored,) = await _score(request, [submission], upload)
    return scored


@json_routes.post("/score_batch", summary="Score many edits")
async def score_batch(request: Request, batch: Batch) -> ScoredBatch:
    """What can't be taken of a pair is that pair's failure `bad_input`; if none can, the request is refused."""
    verdicts = await _score(request, await _submissions(request, batch.pairs), batch)
    return ScoredBatch(request_id=request.state.request_id, verdicts=verdicts)


@json_routes.post("/compare", summary="Rank several edits of one source")
async def compare(request: Request, comparison: Comparison) -> Ranking:
    pairs = [
        Pair(source=comparison.source, edited=edit.edited, instruction=comparison.instruction, id=edit.id)
        for edit in comparison.edits
    ]
    verdicts = await _score(request, await _submissions(request, pairs), comparison)
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    ranked = [
        Ranked(
            **dict(verdict),
            rank=None if verdict.score is None else 1 + sum(other > verdict.score for other in scores),
        )
        for verdict in verdicts
    ]
    ranked.sort(key=lambda verdict: verdict.rank or len(verdicts) + 1)
    return Ranking(request_id=request.state.request_id, ranking=ranked)


@json_routes.post("/rewards", summary="Reward many edits, for trainers")
async def rewards(request: Request, batch: Rewards) -> Rewarded:
    """A reward is null where there is no score: a trainer leaves such a sample out."""
    verdicts = await _score(request, await _submissions(request, batch.pairs), batch)
    low, width = (0.0, 1.0) if batch.scale == "mos" else (1.0, 4.0)
    return Rewarded(
        request_id=request.state.request_id,
        rewards=[None if verdict.score is None else (verdict.score - low) / width for verdict in verdicts],
        statuses=[verdict.status for verdict in verdicts],
        details=[verdict.detail for verdict in verdicts],
        version=verdicts[0].version,
        model=verdicts[0].model,
        contract=verdicts[0].contract,
    )


@json_routes.post("/feedback", summary="Give your own score of an edit", status_code=201)
async def feedback(request: Request, rating: Rating) -> Kept:
    store: Feedback = request.app.state.feedback
    try:
        receipt = request.app.state.receipts.read(rating.receipt)
        number = await asyncio.to_thread(store.add, receipt, rating.rater, rating.score, rating.comment)
    except ForgedReceipt as error:
        raise Refused(422, "forged_receipt", str(error)) from None
    except FeedbackError as error:
        log.error("a rating wasn't kept: %s", error)
        raise Refused(503, "no_feedback", "the rating wasn't kept: come again later", retry_after=60) from None
    RATINGS.inc()
    return Kept(id=number)


@routes.get("/v1/models", summary="What the OpenAI-compatible interface serves")
async def models(request: Request) -> Response:
    judge: Judge = request.app.state.judge
    judge.check_ready()
    with _lost():
        reply = await judge.vllm.get("/v1/models")
    return Response(reply.content, reply.status_code, media_type=reply.headers.get("content-type"))


@routes.post("/v1/chat/completions", summary="vLLM's own chat completions, as OpenAI's clients ask for them")
async def chat(request: Request) -> Response:
    """Pictures are data URLs. See vLLM's documentation for the fields."""
    judge: Judge = request.app.state.judge
    judge.check_ready()
    check = partial(check_chat, await request.body(), request.app.state.settings, judge.contract, served="critic")
    asked = await anyio.to_thread.run_sync(check, limiter=judge.decoding)
    answers = asked.get("n") or 1
    _allow(request, answers)
    async with AsyncExitStack() as room:
        room.enter_context(judge.admission.admit(answers))
        with _lost():
            reply = await judge.vllm.send(
                judge.vllm.build_request("POST", "/v1/chat/completions", json=asked), stream=True
            )
        room.push_async_callback(reply.aclose)
        return _PassedOn(reply, room.pop_all())


class _PassedOn(StreamingResponse):
    """vLLM's answer as it comes; its room is free again when it is sent, or there is nobody to send it to."""

    def __init__(self, reply: httpx.Response, room: AsyncExitStack):
        super().__init__(reply.aiter_raw(), reply.status_code, media_type=reply.headers.get("content-type"))
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._room:
            await super().__call__(scope, receive, send)


@contextmanager
def _lost() -> Iterator[None]:
    """vLLM's failures as the service's own."""
    try:
        yield
    except httpx.TimeoutException:
        raise Refused(504, "timed_out", "vLLM took too long") from None
    except httpx.HTTPError as error:
        raise Refused(503, "unreachable", f"vLLM was lost: {error}", retry_after=5) from None


async def _submissions(request: Request, pairs: Sequence[Pair]) -> list[Submission]:
    settings: Settings = request.app.state.settings
    judge: Judge = request.app.state.judge
    if len(pairs) > settings.max_pairs:
        raise Refused(413, "too_many_pairs", f"{len(pairs)} edits, of {settings.max_pairs} at most: send fewer")
    fetched = 0

    async def file(text: str) -> bytes | Refused:
        nonlocal fetched
        try:
            given = await anyio.to_thread.run_sync(picture_bytes, text, settings, limiter=judge.decoding)
            if isinstance(given, bytes):
                return given
            async with judge.fetching:
                if fetched > settings.max_body_bytes:
                    raise Refused(413, "too_big", "the request's URLs have too many bytes: send fewer at a time")
                data = await fetch(given, settings)
            fetched += len(data)
            return data
        except Refused as refused:
            return refused

    files = iter(await asyncio.gather(*(file(text) for pair in pairs for text in (pair.source, pair.edited))))
    return [
        Submission(pair.id if pair.id is not None else str(number), next(files), next(files), pair.instruction)
        for number, pair in enumerate(pairs)
    ]


async def _score(request: Request, submissions: Sequence[Submission], options: Options) -> list[Scored]:
    judge: Judge = request.app.state.judge
    _allow(request, len(submissions) * (options.samples if options.mode == "average" else 1))
    verdicts = await judge(submissions, options)
    scored = [
        Scored(**asdict(verdict), version=judge.version, request_id=request.state.request_id)
        for verdict in verdicts
    ]
    for result in scored:
        count(result)
    await asyncio.to_thread(
        _acknowledge, submissions, scored, request.app.state.receipts, request.app.state.keeper
    )
    return scored


def _acknowledge(
    submissions: Sequence[Submission], scored: Sequence[Scored], receipts: Receipts, keeper: Keeper | None
) -> None:
    """Give receipts for what was scored, and keep its pictures if they are to be."""
    for submission, result in zip(submissions, scored, strict=True):
        if result.status == Failure.BAD_INPUT:
            continue
        assert isinstance(submission.source, bytes) and isinstance(submission.edited, bytes)
        result.receipt = receipts.sign(
            _receipt(result, submission.source, submission.edited, submission.instruction)
        )
        if keeper is not None:
            for file in (submission.source, submission.edited):
                keeper.keep(file, picture_format(file))


def _receipt(scored: Scored, source: bytes, edited: bytes, instruction: str) -> Receipt:
    return Receipt(
        request_id=scored.request_id,
        pair_id=scored.id,
        source_sha256=sha256(source).hexdigest(),
        edited_sha256=sha256(edited).hexdigest(),
        instruction=instruction,
        mode=scored.mode,
        score=scored.score,
        status=scored.status,
        model=scored.model,
        version=scored.version,
        contract=scored.contract,
        scored_at=datetime.now(UTC),
    )


def _allow(request: Request, answers: int) -> None:
    caller: Caller = request.state.caller
    wait = request.state.keys.allow(caller, answers)
    if wait == inf:
        raise Refused(
            413, "too_many_answers", f"the key allows {caller.per_minute} answers a minute: ask for fewer"
        )
    if wait is not None:
        raise Refused(
            429,
            "rate_limited",
            f"the key allows {caller.per_minute} answers a minute: come again later",
            retry_after=ceil(wait),
        )


async def _refused(request: Request, refused: Exception) -> JSONResponse:
    assert isinstance(refused, Refused)
    return refused.answer(request.state.request_id)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5]]
    return Refused(422, "invalid", "; ".join(faults)).answer(request.state.request_id)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """The gate logs why."""
    return INTERNAL.answer(request.state.request_id)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return Refused(error.status_code, code, str(error.detail)).answer(request.state.request_id)


async def _gone(request: Request, error: Exception) -> JSONResponse:
    """Nobody reads it, but it is counted as this and not as a failure of the service."""
    return Refused(400, "client_gone", "the client went away before all was sent").answer(request.state.request_id)
