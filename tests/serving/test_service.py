"""The service: what it answers, together and alone, and what it refuses."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from experiments import serve
from experiments.deploy import recommender
from serving import service
from serving.recommender import Answer, Question, Recommender
from serving.service import create_app
from sid.errors import UserError


@pytest.fixture(scope="module")
def ready(runs: dict[str, Path]) -> Recommender:
    return recommender(runs["causal_tiny"])


@pytest.fixture
def client(ready: Recommender) -> Iterator[TestClient]:
    with TestClient(create_app(ready)) as client:
        yield client


def ids(ready: Recommender, *numbers: int) -> list[str]:
    return [ready.shown(number)["item"] for number in numbers]


@asynccontextmanager
async def running(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


def test_an_answer_is_that_of_the_recommender(client: TestClient, ready: Recommender) -> None:
    history = [3, 8, 5]
    body = {"history": [*ids(ready, *history), "unheard of"], "k": 4, "explain": True}
    answer = client.post("/recommend", json=body).json()
    found = ready.answer([history], Question(k=4))
    assert [item["item"] for item in answer["items"]] == ids(ready, *found.lists.items_BK[0].tolist())
    assert [item["score"] for item in answer["items"]] == pytest.approx(found.lists.scores_BK[0].tolist(), abs=1e-4)
    assert answer["unknown"] == ["unheard of"]
    assert [item["item"] for item in answer["history"]] == ids(ready, *history)
    table = ready.bundle.table
    assert table is not None and len(answer["levels"]) == table.num_levels
    for level, shown in enumerate(answer["levels"], 1):
        assert len(shown) <= 10
        for prefix in shown:
            same_N = (table.codes_NL[:, :level] == torch.tensor(prefix["codes"])).all(1)
            assert prefix["items"] == int(same_N.sum()) > 0
    assert "levels" not in client.post("/recommend", json={**body, "explain": False}).json() or answer is not None


def test_requests_that_come_together_are_answered_together_and_right(ready: Recommender) -> None:
    app = create_app(ready, largest_batch=8)
    histories = [[number, number + 1] for number in range(20)]

    async def ask() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        async with running(app) as http:
            bodies = [
                {"history": ids(ready, *history), "k": 3 + row % 2, "seed": row}
                for row, history in enumerate(histories)
            ]
            answers = await asyncio.gather(*(http.post("/recommend", json=body) for body in bodies))
            return [answer.json() for answer in answers], (await http.get("/health")).json()

    answers, health = asyncio.run(ask())
    for row, (answer, history) in enumerate(zip(answers, histories, strict=True)):
        alone = ready.answer([history], Question(k=3 + row % 2)).lists.items_BK[0].tolist()
        assert [item["item"] for item in answer["items"]] == ids(ready, *alone)
    assert health["answered"] == 20 and health["batches"] < 10 and health["waiting"] == 0


def test_an_answer_that_fails_fails_alone(ready: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(ready)

    def fails(histories: Any, question: Question, users: Any) -> Answer:
        if question.k == 7:
            raise RuntimeError("out of memory")
        return answer(histories, question, users)

    answer = ready.answer
    monkeypatch.setattr(ready, "answer", fails)

    async def ask() -> list[Any]:
        async with running(app) as http:
            bodies = [{"history": ids(ready, 1), "k": k} for k in (7, 5)]
            return await asyncio.gather(
                *(http.post("/recommend", json=body) for body in bodies), return_exceptions=True
            )

    broken, fine = asyncio.run(ask())
    assert isinstance(broken, RuntimeError) and fine.status_code == 200


def test_too_many_that_wait_are_sent_away(ready: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LONGEST_QUEUE", 2)
    app = create_app(ready, largest_batch=1)

    async def ask() -> list[httpx.Response]:
        async with running(app) as http:
            return await asyncio.gather(
                *(http.post("/recommend", json={"history": ids(ready, number)}) for number in range(9))
            )

    statuses = [answer.status_code for answer in asyncio.run(ask())]
    assert set(statuses) == {200, 503} and statuses.count(200) >= 2


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"history": []},
        {"history": ["no such item"]},
        {"history": "abc"},
        {"history": ["x" * 201]},
        {"history": ["x"] * 2001},
        {"history": ["KNOWN"], "k": 0},
        {"history": ["KNOWN"], "k": 101},
        {"history": ["KNOWN"], "beams": 5},
        {"history": ["KNOWN"], "temperature": -1},
        {"history": ["KNOWN"], "kk": 3},
    ],
)
def test_bad_requests_are_told_what_is_wrong(body: dict[str, Any], client: TestClient, ready: Recommender) -> None:
    if body.get("history") == ["KNOWN"]:
        body = {**body, "history": ids(ready, 0)}
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 422 and answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"history":["\\ud800"]}',
        b'{"history":["a"],"user":"\\ud800"}',
        b'{"history":["a"],"\\ud800":1}',
        b'{"history":["a"],"temperature":NaN}',
        b'{"history":["a"],"temperature":1e999}',
        b'{"history":["a"],"k":1e999}',
        b"\xff\xfe",
    ],
)
def test_bodies_that_are_hardly_json(body: bytes, client: TestClient) -> None:
    answer = client.post("/recommend", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["detail"] and len(answer.content) < 2000


def test_large_bodies_are_refused_and_never_sent_back(client: TestClient) -> None:
    answer = client.post("/recommend", json={"history": ["x" * (1 << 21)]})
    assert answer.status_code == 413 and len(answer.content) < 200
    answer = client.post("/recommend", json={"history": ["x" * (1 << 19)]})
    assert answer.status_code == 422 and len(answer.content) < 2000


def test_beams_that_have_died_are_not_explained(ready: Recommender) -> None:
    items = ready.bundle.items
    some = pa.array([number < 3 for number in range(items.num_rows)])
    few = replace(ready.bundle, items=items.set_column(items.column_names.index("candidate"), "candidate", some))
    with TestClient(create_app(Recommender(few))) as client:
        answer = client.post("/recommend", json={"history": ids(ready, 1, 2), "k": 5, "explain": True}).json()
    assert len(answer["items"]) == 3 and all(prefix["items"] for level in answer["levels"] for prefix in level)


def test_items_are_found_by_id_and_by_words(client: TestClient, ready: Recommender) -> None:
    shown = ready.shown(7)
    assert [item["item"] for item in client.get("/items", params={"query": shown["item"]}).json()] == [shown["item"]]
    words = " ".join(reversed(shown["title"].upper().split()))
    found = client.get("/items", params={"query": words}).json()
    assert shown["item"] in [item["item"] for item in found] or len(found) == 20
    assert client.get("/items", params={"query": "(*["}).json() == []
    assert client.get("/items", params={"query": " "}).json() == []


def test_the_page_and_an_example_user(client: TestClient, ready: Recommender) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "http://" not in page.text and "https://" not in page.text
    example = client.get("/example").json()
    assert set(example) == {"user", "history", "next"} and example["history"]
    health = client.get("/health").json()
    assert health["items"] == ready.num_items and health["name"] == "causal_tiny"


def test_an_example_is_no_longer_than_a_question_may_be(ready: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LONGEST_HISTORY", 2)
    with TestClient(create_app(ready)) as client:
        assert all(1 <= len(client.get("/example").json()["history"]) <= 2 for _ in range(5))


def test_fuzzing_finds_no_crash(ready: Recommender) -> None:
    """Every path, with what its description allows and with what it does not: answers are as described, errors 4xx."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(ready))
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert {operation.path for operation in operations} == {"/recommend", "/health", "/items", "/example"}
    for operation in operations:

        @settings(max_examples=25, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            case.call_and_validate(excluded_checks=[positive_data_acceptance])  # no schema says which ids there are

        ask()


def test_the_command_refuses_what_it_cannot_serve(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, said in (
        ([str(tmp_path), "port=x"], "port"),
        ([str(tmp_path), "port=70000"], "port"),
        ([str(tmp_path), str(tmp_path)], "one folder"),
        ([str(tmp_path)], "is no run"),
    ):
        assert serve.main(arguments) == 2
        assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_before_any_address(
    ready: Recommender, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.deploy.recommender", lambda *_: ready)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve.main(["somewhere", f"port={port}"]) == 2
    said = capsys.readouterr()
    assert f"port={port} cannot be served: " in said.err and not said.out


def test_answers_do_not_wait_for_the_receipt_of_their_head() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serve.bound("127.0.0.1", port) as place, socket.create_connection(("127.0.0.1", port)):
        taken, _ = place.accept()
        with taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_bundle_without_examples_says_so(ready: Recommender) -> None:
    bundle = replace(ready.bundle, examples=ready.bundle.examples.slice(0, 0))
    with TestClient(create_app(Recommender(bundle))) as client:
        answer = client.get("/example")
    assert answer.status_code == 404 and "examples=false" in answer.json()["detail"]


def test_a_user_error_is_the_clients(ready: Recommender) -> None:
    with pytest.raises(UserError):
        ready.answer([[0]], Question(k=ready.num_items + 1))
