"""The page on which people choose the better of two edits, and its routes; they are there if CRITIC_STUDY is set.

    app.include_router(pair_routes(settings))      # GET /pairs, GET /v1/pairs/next, POST /v1/pairs/vote

Who made an edit and what the critic thinks of it isn't sent: neither are the files, whose format and metadata may
tell, but their pixels as PNG files. Which edit is on the left is drawn for each ballot.
"""

import asyncio
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from critic.client import schemas
from critic.engines.http import data_url
from critic.pictures import decode, file_format
from critic.ratings.pair_study import Pair, PairStudy, Picture
from critic.ratings.picture_store import PictureStore
from critic.ratings.receipts import Ballot, Ballots, ForgedReceipt
from critic.ratings.store import AlreadyVoted, Feedback, FeedbackError, Vote
from critic.service.errors import REFUSALS, Refused
from critic.service.input_checks import CheckedJsonRoute, check_characters
from critic.service.monitoring import VOTES
from critic.service.page import HEADERS, WEB
from critic.service.settings import Settings
from critic.tables import TableError

_log = logging.getLogger("critic.service")


def pair_routes(table: Path, settings: Settings) -> APIRouter:
    """The page and the routes of the study in `table`; a `TableError` if it can't be read."""
    study, ballots = PairStudy(table), Ballots(settings.receipt_key)
    router = APIRouter(responses=REFUSALS, route_class=CheckedJsonRoute)

    @router.api_route("/pairs", methods=["GET", "HEAD"], include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(WEB / "pairs.html", headers=HEADERS)

    @router.get("/v1/pairs/next", summary="Get the next pair of edits to vote on")
    async def next_pair(
        request: Request,
        response: Response,
        rater: Annotated[str, Query(min_length=1, max_length=200, description="The person's name.")],
    ) -> schemas.NextPair:
        response.headers["Cache-Control"] = "no-store"
        rater = check_characters(rater.strip() or rater)
        with store_errors():
            return await asyncio.to_thread(_next, study, request.app.state.feedback, rater, ballots)

    @router.post("/v1/pairs/vote", summary="Vote on a pair of edits", status_code=201)
    async def vote(request: Request, given: schemas.Vote) -> schemas.Kept:
        """The same vote sent again is stored once."""
        feedback: Feedback = request.app.state.feedback
        pictures: PictureStore | None = request.app.state.pictures
        with store_errors():
            ballot = ballots.read(given.receipt)
            if ballot.pair not in study:
                raise Refused(422, "other_study", "the pair isn't in the service's study: ask for the next one")
            pair = study[ballot.pair]
            number = await asyncio.to_thread(feedback.add_vote, _vote(pair, ballot, given.choice))
        if pictures is not None:
            await asyncio.to_thread(_keep, pair, pictures)
        VOTES.inc()
        return schemas.Kept(id=number)

    return router


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn what can go wrong with a rating or a vote into refusals."""
    try:
        yield
    except ForgedReceipt as error:
        raise Refused(422, "forged_receipt", str(error)) from None
    except AlreadyVoted as error:
        raise Refused(409, "already_voted", str(error)) from None
    except FeedbackError as error:
        _log.error("the database of ratings can't be used: %s", error)
        message = "the database of ratings can't be used: try again later"
        raise Refused(503, "no_feedback", message, retry_after=60) from None


def _next(study: PairStudy, feedback: Feedback, rater: str, ballots: Ballots) -> schemas.NextPair:
    """One of the best pairs by chance, so that people who ask at once seldom get the same one."""
    voters, done = feedback.count_voters(rater)
    best = study.best(voters, done)
    shown = _show(secrets.choice(best), rater, ballots) if best else None
    return schemas.NextPair(pair=shown, voted=sum(id in study for id in done), pairs=len(study))


def _show(pair: Pair, rater: str, ballots: Ballots) -> schemas.ShownPair:
    swapped = secrets.choice((False, True))
    left, right = pair.edits[swapped], pair.edits[not swapped]
    ballot = Ballot(
        number=secrets.token_hex(16), rater=rater, pair=pair.id, swapped=swapped, shown_at=datetime.now(UTC)
    )
    return schemas.ShownPair(
        receipt=ballots.sign(ballot),
        instruction=pair.instruction,
        source=data_url(decode(_read(pair.source))),
        left=data_url(decode(_read(left.picture))),
        right=data_url(decode(_read(right.picture))),
    )


def _vote(pair: Pair, ballot: Ballot, choice: str) -> Vote:
    left, right = pair.edits[ballot.swapped], pair.edits[not ballot.swapped]
    now = datetime.now(UTC)
    return Vote(
        at=now,
        rater=ballot.rater,
        choice=choice,
        seconds=(now - ballot.shown_at).total_seconds(),
        ballot=ballot.number,
        pair_id=pair.id,
        source_sha256=pair.source.sha256,
        left_sha256=left.picture.sha256,
        right_sha256=right.picture.sha256,
        instruction=pair.instruction,
        left_editor=left.editor,
        right_editor=right.editor,
        left_score=left.score,
        right_score=right.score,
    )


def _keep(pair: Pair, pictures: PictureStore) -> None:
    for picture in (pair.source, *(edit.picture for edit in pair.edits)):
        file = _read(picture)
        pictures.add(file, file_format(file))


def _read(picture: Picture) -> bytes:
    try:
        return picture.read()
    except TableError as error:
        _log.error("the study can't be shown: %s", error)
        raise Refused(503, "broken_study", "a picture of the study is gone: tell the operators") from None
