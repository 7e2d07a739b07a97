"""The HTTP interface: routes, responses and errors."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from math import ceil, inf
from typing import Annotated

import anyio.to_thread
import httpx
from fastapi import APIRouter, Depends, FastAPI, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from critic.client import Reward, schemas
from critic.pictures import file_format
from critic.ratings.picture_store import PictureStore
from critic.ratings.receipts import Receipt, Receipts
from critic.ratings.store import Feedback
from critic.results import Failure
from critic.service.chat_filter import check_chat
from critic.service.compat_routes import compat_routes
from critic.service.errors import INTERNAL, REFUSALS, Refused
from critic.service.fetching import fetch
from critic.service.input_checks import CheckedJsonRoute, picture_bytes
from critic.service.keys import Caller
from critic.service.monitoring import RATINGS, count
from critic.service.page import mount_page
from critic.service.pair_routes import pair_routes, store_errors
from critic.service.scoring_queue import ScoringQueue, Submission
from critic.service.settings import Settings

log = logging.getLogger("critic.service")

routes = APIRouter(responses=REFUSALS)
json_routes = APIRouter(responses=REFUSALS, route_class=CheckedJsonRoute)


class Upload(schemas.Options):
    """A form with an edit to score."""

    source: UploadFile
    edited: UploadFile
    instruction: schemas.Instruction


def create_app(settings: Settings, find_critic: Callable[[], tuple[str, str]]) -> FastAPI:
    """Make the app, which runs vLLM from its start to its end. For `find_critic` see `critic.service.bento`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.settings = settings
        app.state.receipts = Receipts(settings.receipt_key)
        app.state.feedback = Feedback(settings.feedback_url.get_secret_value())
        app.state.pictures = None if settings.keep_images is None else PictureStore(settings.keep_images)
        async with ScoringQueue(settings, *find_critic()) as app.state.scoring:
            yield

    app = FastAPI(
        title="Critic of image edits",
        description="Scores edits of pictures from 1 (very bad) to 5 (excellent).",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(routes)
    app.include_router(json_routes)
    app.include_router(compat_routes(partial(_score_pairs, patient=True)))
    if settings.study is not None:
        app.include_router(pair_routes(settings.study, settings))
    mount_page(app)
    for kind in (ClientDisconnect, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _failed)
    return app


@routes.post("/score", summary="Score one edit")
async def score(
    request: Request, upload: Annotated[Upload, Form(media_type="multipart/form-data")]
) -> schemas.Scored:
    submission = Submission("0", await upload.source.read(), await upload.edited.read(), upload.instruction)
    (scored,) = await _score(request, [submission], upload)
    return scored


@json_routes.post("/score_batch", summary="Score many edits")
async def score_batch(request: Request, batch: schemas.Batch) -> schemas.ScoredBatch:
    """An invalid pair gets the status `bad_input`; if all are invalid, the request is refused."""
    results = await _score_pairs(request, batch.pairs, batch)
    return schemas.ScoredBatch(request_id=request.state.request_id, verdicts=results)


@json_routes.post("/compare", summary="Rank several edits of one source")
async def compare(request: Request, comparison: schemas.Comparison) -> schemas.Ranking:
    pairs = [
        schemas.Pair(source=comparison.source, edited=edit.edited, instruction=comparison.instruction, id=edit.id)
        for edit in comparison.edits
    ]
    results = await _score_pairs(request, pairs, comparison)
    scores = [result.score for result in results if result.score is not None]
    ranks = [None if one.score is None else 1 + sum(other > one.score for other in scores) for one in results]
    ranked = [schemas.Ranked(**dict(one), rank=rank) for one, rank in zip(results, ranks, strict=True)]
    ranked.sort(key=lambda result: result.rank or len(results) + 1)
    return schemas.Ranking(request_id=request.state.request_id, ranking=ranked)


@json_routes.post("/rewards", summary="Reward many edits, for trainers")
async def rewards(request: Request, batch: schemas.Rewards) -> schemas.Rewarded:
    """The reward of an edit without a score is null: leave such a sample out of training."""
    results = await _score_pairs(request, batch.pairs, batch)
    return schemas.Rewarded(
        request_id=request.state.request_id,
        rewards=[Reward.of(result, batch.scale).value for result in results],
        statuses=[result.status for result in results],
        details=[result.detail for result in results],
        version=results[0].version,
        model=results[0].model,
        contract=results[0].contract,
    )


@json_routes.post("/feedback", summary="Give your own score of an edit", status_code=201)
async def feedback(request: Request, rating: schemas.Rating) -> schemas.Kept:
    store: Feedback = request.app.state.feedback
    with store_errors():
        receipt = request.app.state.receipts.read(rating.receipt)
        number = await asyncio.to_thread(store.add, receipt, rating.rater, rating.score, rating.comment)
    RATINGS.inc()
    return schemas.Kept(id=number)


@routes.get("/v1/models", summary="List the model of the OpenAI-compatible API")
async def models(request: Request) -> Response:
    scoring: ScoringQueue = request.app.state.scoring
    scoring.check_ready()
    with _vllm_errors():
        reply = await scoring.vllm.get("/v1/models")
    return Response(reply.content, reply.status_code, media_type=reply.headers.get("content-type"))


async def _until_sent() -> AsyncIterator[AsyncExitStack]:
    """What to close when the response is sent or the client is gone."""
    async with AsyncExitStack() as resources:
        yield resources


@routes.post("/v1/chat/completions", summary="Complete a chat, OpenAI-compatible")
async def chat(request: Request, resources: Annotated[AsyncExitStack, Depends(_until_sent)]) -> Response:
    """Pictures must be data URLs. vLLM's documentation describes the fields."""
    scoring: ScoringQueue = request.app.state.scoring
    scoring.check_ready()
    check = partial(
        check_chat, await request.body(), request.app.state.settings, scoring.contract, served="critic"
    )
    body = await anyio.to_thread.run_sync(check, limiter=scoring.decoding)
    answers = body.get("n") or 1
    _check_rate(request, answers)
    resources.enter_context(scoring.limiter.admit(answers))
    with _vllm_errors():
        reply = await resources.enter_async_context(scoring.vllm.stream("POST", "/v1/chat/completions", json=body))
    return StreamingResponse(reply.aiter_raw(), reply.status_code, media_type=reply.headers.get("content-type"))


@contextmanager
def _vllm_errors() -> Iterator[None]:
    """Turn failures to reach vLLM into refusals."""
    try:
        yield
    except httpx.TimeoutException:
        raise Refused(504, "timed_out", "vLLM didn't answer in time") from None
    except httpx.HTTPError as error:
        raise Refused(503, "unreachable", f"the connection to vLLM failed: {error}", retry_after=5) from None


async def _score_pairs(
    request: Request, pairs: Sequence[schemas.Pair], options: schemas.Options, *, patient: bool = False
) -> list[schemas.Scored]:
    """`patient`: score any number of pairs, for clients that neither split their batches nor wait."""
    if not patient and len(pairs) > (limit := request.app.state.settings.max_pairs):
        raise Refused(413, "too_many_pairs", f"{len(pairs)} edits, the limit is {limit}: send fewer")
    return await _score(request, await _submissions(request, pairs), options, patient=patient)


async def _submissions(request: Request, pairs: Sequence[schemas.Pair]) -> list[Submission]:
    settings: Settings = request.app.state.settings
    scoring: ScoringQueue = request.app.state.scoring
    fetched = 0

    async def read(text: str) -> bytes | Refused:
        nonlocal fetched
        try:
            data = await anyio.to_thread.run_sync(picture_bytes, text, settings, limiter=scoring.decoding)
            if isinstance(data, bytes):
                return data
            async with scoring.fetching:
                if fetched > settings.max_body_bytes:
                    raise Refused(413, "too_big", "the files at the URLs have too many bytes: send fewer")
                data = await fetch(data, settings)
            fetched += len(data)
            return data
        except Refused as refused:
            return refused

    files = iter(await asyncio.gather(*(read(text) for pair in pairs for text in (pair.source, pair.edited))))
    return [
        Submission(pair.id if pair.id is not None else str(number), next(files), next(files), pair.instruction)
        for number, pair in enumerate(pairs)
    ]


async def _score(
    request: Request, submissions: Sequence[Submission], options: schemas.Options, *, patient: bool = False
) -> list[schemas.Scored]:
    scoring: ScoringQueue = request.app.state.scoring
    _check_rate(request, len(submissions) * options.answers)
    scored = [
        schemas.Scored(
            **asdict(result),
            version=scoring.version,
            notice=scoring.contract.notice,
            request_id=request.state.request_id,
        )
        for result in await (scoring.score_all if patient else scoring)(submissions, options)
    ]
    for result in scored:
        count(result)
    await asyncio.to_thread(_add_receipts, request.app.state, submissions, scored)
    return scored


def _add_receipts(state: State, submissions: Sequence[Submission], scored: Sequence[schemas.Scored]) -> None:
    """Add a receipt to each valid edit's result, and store its pictures if the operator wants that."""
    for submission, result in zip(submissions, scored, strict=True):
        if result.status == Failure.BAD_INPUT:
            continue
        source, edited = submission.source, submission.edited
        assert isinstance(source, bytes) and isinstance(edited, bytes)
        receipt = Receipt(
            **result.model_dump(include={*Receipt.model_fields}),
            pair_id=result.id,
            source_sha256=sha256(source).hexdigest(),
            edited_sha256=sha256(edited).hexdigest(),
            instruction=submission.instruction,
            scored_at=datetime.now(UTC),
        )
        result.receipt = state.receipts.sign(receipt)
        if state.pictures is not None:
            for file in (source, edited):
                state.pictures.add(file, file_format(file))


def _check_rate(request: Request, answers: int) -> None:
    caller: Caller = request.state.caller
    wait = request.state.keys.allow(caller, answers)
    limit = f"the key allows {caller.per_minute} answers per minute"
    if wait == inf:
        raise Refused(413, "too_many_answers", f"{limit}: send fewer edits")
    if wait is not None:
        raise Refused(429, "rate_limited", f"{limit}: try again later", retry_after=ceil(wait))


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """The response to an exception. `RequestMiddleware` logs those that aren't the client's fault."""
    refused = INTERNAL
    if isinstance(error, Refused):
        refused = error
    elif isinstance(error, HTTPException):
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        refused = Refused(error.status_code, code, str(error.detail))
    elif isinstance(error, RequestValidationError):
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5]]
        refused = Refused(422, "invalid", "; ".join(faults))
    elif isinstance(error, ClientDisconnect):  # nobody reads it, but the metrics count no failure of the service
        refused = Refused(400, "client_gone", "the client disconnected before the end of its request")
    return refused.response(request.state.request_id)
