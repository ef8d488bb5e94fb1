"""The HTTP service: recommendations for histories, requests answered together where they come together.

While the model answers one batch the next one gathers, so nobody waits for a batch to fill up.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from serving.recommender import WARMEST, Answer, Question, Recommender
from sid.errors import UserError

LARGEST_BATCH, LONGEST_QUEUE, LARGEST_BODY = 64, 1024, 1 << 20
MOST_ITEMS, MOST_BEAMS, LONGEST_HISTORY, LONGEST_ID, FOUND, SHOWN_BEAMS = 100, 200, 2000, 200, 20, 10
ItemId = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]


class Asked(BaseModel):
    """The body of /recommend."""

    model_config = ConfigDict(extra="forbid")

    history: Annotated[list[ItemId], Field(min_length=1, max_length=LONGEST_HISTORY)]
    """Item ids, oldest first; unknown ones are left out and named in the answer."""
    user: ItemId | None = None
    """For models that know users."""
    k: Annotated[int, Field(ge=1, le=MOST_ITEMS)] = 10
    beams: Annotated[int, Field(ge=0, le=MOST_BEAMS)] = 0
    temperature: Annotated[float, Field(ge=0, le=WARMEST, allow_inf_nan=False)] = 0.0
    """0, or from .01 on."""
    first_temperature: Annotated[float, Field(ge=0, le=WARMEST, allow_inf_nan=False)] = 0.0
    """0, or from .01 on."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    fresh: bool = False
    explain: bool = False
    """Also tell the likeliest prefixes after every level."""

    @property
    def question(self) -> Question:
        seed = self.seed if self.temperature or self.first_temperature else 0  # questions of one kind go together
        return Question(self.k, self.beams, self.temperature, self.first_temperature, seed, self.fresh)


class Item(BaseModel):
    item: str
    title: str
    category: str
    codes: list[int] | None = None
    """Semantic ID; none for a model that reads no codes."""
    score: float | None = None
    """What items are ranked by, or drawn by at a temperature above 0: two scales, which do not compare."""


class Prefix(BaseModel):
    codes: list[int]
    items: int
    """Items of the catalogue that begin so."""
    example: str
    """The title of one of them."""


class Answered(BaseModel):
    history: list[Item]
    unknown: list[str]
    items: list[Item]
    levels: list[list[Prefix]] | None = None


class Waiting(NamedTuple):
    history: list[int]
    user: int
    answer: "asyncio.Future[Answer]"


class Batcher:
    """Answers questions one batch at a time in a thread of its own; questions of one kind that wait go together."""

    def __init__(self, recommender: Recommender, largest: int = LARGEST_BATCH) -> None:
        self.recommender, self.largest = recommender, largest
        self.queues: dict[Question, list[Waiting]] = {}
        self.waiting, self.batches, self.answered = 0, 0, 0
        self.someone = asyncio.Event()

    async def ask(self, question: Question, history: list[int], user: int) -> Answer:
        """Raises UserError for what cannot be answered, HTTPException 503 when too many wait."""
        if self.waiting >= LONGEST_QUEUE:
            raise HTTPException(503, "too many requests are waiting", headers={"Retry-After": "1"})
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.queues.setdefault(question, []).append(Waiting(history, user, answer))
        self.waiting += 1
        self.someone.set()
        return await answer

    def _next(self) -> tuple[Question, list[Waiting]]:
        """The kind that has waited longest, and those of it that fit into a batch. The others of it queue again."""
        question = next(iter(self.queues))
        queue = self.queues.pop(question)
        some, rest = queue[: self.largest], queue[self.largest :]
        if rest:
            self.queues[question] = rest
        self.waiting -= len(some)
        return question, some

    async def work(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await self.someone.wait()
            while self.queues:
                await self._answer(*self._next())
            self.someone.clear()

    async def _answer(self, question: Question, some: list[Waiting]) -> None:
        try:
            found = await asyncio.to_thread(
                self.recommender.answer, [one.history for one in some], question, [one.user for one in some]
            )
        except Exception as error:  # whatever it is, those who wait must hear of it, and the next batch must run
            for one in some:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        self.batches, self.answered = self.batches + 1, self.answered + len(some)
        for row, one in enumerate(some):
            if not one.answer.done():  # done: the client has gone
                one.answer.set_result(_row(found, row))


def _row(found: Answer, row: int) -> Answer:
    one = slice(row, row + 1)
    return Answer(found.lists.part(one, slice(None)), [codes_BKl[one] for codes_BKl in found.beams])


class SmallBodies:
    """Answers 413 to requests whose body is larger than LARGEST_BODY, before anything reads them whole."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > LARGEST_BODY:
                words = {"detail": f"the request is larger than {LARGEST_BODY:,} bytes"}
                await JSONResponse(words, 413, {"Connection": "close"})(scope, receive, send)
                return
        given = False

        async def once() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, once, send)


async def refuse(_: Request, error: Exception) -> JSONResponse:
    """422 with what is wrong and where; FastAPI's own answer repeats the input, which may be no JSON, or large."""
    assert isinstance(error, RequestValidationError)
    found = [{"loc": [plain(part) for part in one["loc"]], "msg": plain(one["msg"])} for one in error.errors()[:10]]
    return JSONResponse({"detail": [{**one, "type": "value_error"} for one in found]}, 422)


def plain(part: Any) -> Any:
    """A place or message that can be sent, cut to a line."""
    return part if isinstance(part, int) else str(part).encode("ascii", "replace").decode()[:200]


def create_app(recommender: Recommender, largest_batch: int = LARGEST_BATCH) -> FastAPI:
    """The service of one model.

    Args:
        largest_batch: histories answered together at most; 1: one at a time.
    """
    batcher = Batcher(recommender, largest_batch)
    card = recommender.bundle.card

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()

    app = FastAPI(title=f"sidlight: {card.name}", description="Recommendations after a history", lifespan=lifespan)
    app.add_middleware(SmallBodies)
    app.add_exception_handler(RequestValidationError, refuse)
    refusals: dict[int | str, dict[str, Any]] = {
        413: {"description": "the request is larger than a megabyte"},
        422: {"description": "the request cannot be answered as it is"},
        503: {"description": "too many requests are waiting"},
    }

    @app.post("/recommend", responses=refusals)
    async def recommend(asked: Asked) -> Answered:
        """The k items that the model expects after the history."""
        history, unknown = recommender.numbers(asked.history)
        if not history:
            raise HTTPException(422, f"none of these ids is in the catalogue of {recommender.num_items:,} items")
        (user,) = recommender.user_numbers([asked.user])
        try:
            found = await batcher.ask(asked.question, history, user)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        levels = prefixes(recommender, found) if asked.explain else None
        return Answered(
            history=[Item(**recommender.shown(item)) for item in history],
            unknown=unknown,
            items=recommended(recommender, found),
            levels=levels,
        )

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """What is served, and how much of it."""
        levels = [] if recommender.bundle.table is None else list(recommender.bundle.table.codebook_sizes)
        return {
            "status": "ok",
            "name": card.name,
            "model": card.model["kind"].removesuffix("Config"),
            "items": recommender.num_items,
            "codebook_sizes": levels,
            "num_beams": card.num_beams,
            "test": card.provenance.get("test", {}),
            "answered": batcher.answered,
            "batches": batcher.batches,
            "waiting": batcher.waiting,
        }

    @app.get("/items")
    def items(query: Annotated[str, Query(min_length=1, max_length=LONGEST_ID)]) -> list[Item]:
        """Items with these words in their title, or with this id."""
        return [Item(**recommender.shown(item)) for item in recommender.find(query, FOUND)]

    @app.get("/example", responses={404: {"description": "the bundle was exported without examples"}})
    async def example() -> dict[str, Any]:
        """A user of the test, drawn at random: the history, and what came next."""
        rows = recommender.bundle.examples
        if not rows.num_rows:
            raise HTTPException(404, "there are no examples here: the bundle was exported with examples=false")
        number = random.randrange(rows.num_rows)
        row = {name: rows[name][number].as_py() for name in rows.column_names}
        return {
            "user": row["user"],
            "history": [recommender.shown(item) for item in row["history"][-LONGEST_HISTORY:]],
            "next": recommender.shown(row["next"]),
        }

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

    return app


def recommended(recommender: Recommender, found: Answer) -> list[Item]:
    """The items of one history, in words."""
    pairs = zip(found.lists.items_BK[0].tolist(), found.lists.scores_BK[0].tolist(), strict=True)
    return [Item(**recommender.shown(item), score=score) for item, score in pairs if item >= 0]


def prefixes(recommender: Recommender, found: Answer) -> list[list[Prefix]]:
    """The best beams after every level."""
    shown = [[recommender.under(codes) for codes in codes_BKl[0, :SHOWN_BEAMS].tolist()] for codes_BKl in found.beams]
    return [[Prefix(**one) for one in level if one is not None] for level in shown]
