"""The service's answers: the same as predict's, and one clear error for each odd request."""

import asyncio
import base64
import json
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from cache.storage import LocalStorage
from pipeline.items import RawItem, find_items
from pipeline.predict import predict_items
from pipeline.serve_app import Service, make_app
from pipeline.serve_batches import Batches
from pipeline.serve_model import Said, Shelves
from schemas.serve import MAX_ITEMS, ServeConfig
from tests.corpus import picture_corpus, title_corpus
from tests.serving import NUM_ITEMS, PICTURES, TITLES, Served, Shop, make_shop, served

CORPUS = picture_corpus()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Shop:
    return make_shop(tmp_path_factory.mktemp("shop"), small_model)


@pytest.fixture(scope="module")
def service(shop: Shop) -> Iterator[Served]:
    with served(shop) as found:
        yield found
    assert not [line for line in found.lines if "Traceback" in line], found.lines


@pytest.fixture(scope="module")
def client(service: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.address, timeout=60) as found:
        yield found


@pytest.fixture(scope="module")
def predicted(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what `predict` says of the shop's items."""
    source = find_items(shop.workspace.root / "catalog" / "items.parquet", None, is_labeled=False)
    out = tmp_path_factory.mktemp("answers") / "answers.parquet"
    predict_items(*shop.model(), source, out, num_workers=0)
    return pq.read_table(out).to_pylist()


def item_json(image: bytes | None, title: str | None) -> dict[str, str]:
    """Return an item as JSON has it."""
    found = {} if image is None else {"image": base64.b64encode(image).decode()}
    return found if title is None else found | {"title": title}


def assert_same(answer: dict[str, Any], row: dict[str, Any]) -> None:
    """Compare an answer with a row of the schema PREDICTED; sums may run in another order."""
    assert [each["label_id"] for each in answer["top"]] == row["top_label_ids"]
    probabilities = [each["probability"] for each in answer["top"]]
    np.testing.assert_allclose(probabilities, row["top_probabilities"], atol=1e-5)
    for name in ("label_id", "name", "path", "abstains"):
        assert answer[name] == row[name]
    assert answer["error"] == (row["error"] and row["error"].replace("null", "not given"))
    if row["label_id"] is not None:
        assert answer["probability"] == answer["top"][0]["probability"]


def error_of(response: httpx.Response, status: int) -> str:
    """Check that a refusal is one of ours; return what it says."""
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert response.json()["error"].keys() == {"what", "fix"}
    return response.json()["error"]["what"]


def test_single_requests_get_the_answers_of_predict(
    client: httpx.Client, predicted: list[dict[str, Any]]
) -> None:
    """The acceptance test: 200 items one by one, as forms, by eight clients at once."""

    def ask(item: int) -> httpx.Response:
        image, title = PICTURES[item], TITLES[item]
        files = {} if image is None else {"image": ("a.png", image)}
        if title is not None:
            files["title"] = (None, title.encode())
        return client.post("/v1/predict", files=files)

    asked = [item for item in range(NUM_ITEMS) if PICTURES[item] or TITLES[item]]
    assert len(asked) > 190
    with ThreadPoolExecutor(8) as pool:
        for item, response in zip(asked, pool.map(ask, asked), strict=True):
            assert response.status_code == 200, response.text
            (answer,) = response.json()["items"]
            assert_same(answer, predicted[item])


def test_batches_get_the_answers_of_predict(
    client: httpx.Client, shop: Shop, predicted: list[dict[str, Any]]
) -> None:
    """And in the order of the request; what is said of the runs is said once."""
    asked = [item for item in range(NUM_ITEMS) if PICTURES[item] or TITLES[item]]
    for start in range(0, len(asked), MAX_ITEMS):
        part = asked[start : start + MAX_ITEMS]
        items = [item_json(PICTURES[item], TITLES[item]) for item in part]
        response = client.post("/v1/predict", json={"items": items})
        assert response.status_code == 200, response.text
        found = response.json()
        assert (found["runs"], found["decision"], found["threshold"]) == (
            [shop.run],
            "argmax",
            None,
        )
        for answer, item in zip(found["items"], part, strict=True):
            assert_same(answer, predicted[item])


def test_a_bad_picture_fails_no_other_item(client: httpx.Client) -> None:
    """Each of the corpus beside a good one: a reason, or an answer, and never a lost item."""
    items = [item_json(each.data, None) for each in CORPUS]
    for start in range(0, len(items), MAX_ITEMS - 1):
        part = [*items[start : start + MAX_ITEMS - 1], {"title": "thing 1"}]
        response = client.post("/v1/predict", json={"items": part})
        assert response.status_code == 200, response.text
        *answers, good = response.json()["items"]
        assert good["label_id"]
        for answer, specimen in zip(answers, CORPUS[start:], strict=False):
            assert bool(answer["top"]) == specimen.is_readable, specimen.name
            assert (answer["label_id"] is not None) == specimen.is_readable
            if not specimen.is_readable:
                assert re.search(specimen.reason, answer["error"].lower()), specimen.name


def test_a_single_bad_picture_is_refused_unless_there_is_a_title(client: httpx.Client) -> None:
    """Bombs among them; with a title there is something to answer from, and the reason too."""
    bad = [each for each in CORPUS if not each.is_readable]
    for specimen in bad:
        response = client.post("/v1/predict", files={"image": specimen.data})
        assert "image:" in error_of(response, 422), specimen.name
    with_title = client.post("/v1/predict", files={"image": bad[0].data}, data={"title": "thing 1"})
    (answer,) = with_title.json()["items"]
    assert answer["label_id"]
    assert answer["error"].startswith("image: ")


def test_every_title_that_is_text_is_answered(client: httpx.Client) -> None:
    """Empty, emoji and 100 kB ones; others are refused with the byte at fault."""
    for name, text, is_title in title_corpus():
        if text is None:
            continue
        response = client.post("/v1/predict", files={"title": (None, text)})
        if is_title:
            assert response.json()["items"][0]["label_id"], name
        else:
            assert "UTF-8" in error_of(response, 422), name


@pytest.mark.parametrize(
    "text", ["/etc/passwd", "file:///etc/passwd", "../../etc/passwd", "http://127.0.0.1:9/a.png"]
)
def test_a_path_or_address_is_text_and_bytes_like_any_other(
    client: httpx.Client, text: str
) -> None:
    """Nothing that a request names is opened."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        url = text.replace(":9/", f":{listener.getsockname()[1]}/")
        answered = client.post("/v1/predict", json={"title": url})
        assert answered.json()["items"][0]["label_id"]
        as_picture = client.post("/v1/predict", files={"image": url.encode()})
        assert "not a picture" in error_of(as_picture, 422)
        error_of(client.post("/v1/predict", json={"image": url}), 422)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b"[[]," * 60_000, "far too many values"),
        (b'{"title": "a", "title": "b"}', "a name comes twice"),
        (b'{"\\ud800": 1}', r"\\ud800 is no field"),
        (b"9" * 5000, "not JSON"),
        (b"[]", "`items`"),
        (b"null", "`items`"),
        (b'{"items": {}}', "`items`"),
        (b'{"items": [], "top": 3}', "`items`"),
        (b'{"items": []}', "0 items"),
        (json.dumps({"items": [{"title": "a"}] * 65}).encode(), "65 items"),
        (b'{"items": ["a"]}', r"items\[0\] is no object"),
        (b'{"items": [{"title": "a"}, {}]}', r"items\[1\] has neither"),
        (b"{}", "neither image nor title"),
        (b'{"image": null}', "neither image nor title"),
        (b'{"items": [{"title": 3}]}', r"items\[0\]\.title is no text"),
        (b'{"title": "a", "path": "/etc/passwd"}', "path is no field"),
        (b'{"image": "%%%"}', "image is not base64"),
        (b'{"image": "AAAA\\u00e9"}', "image is not base64"),
        (b'{"image": "data:image/png;base64,AAAA"}', "image is not base64"),
        (b'{"title": "\\ud83d"}', "title is not UTF-8"),
    ],
)
def test_json_that_is_wrong_is_told_where(
    client: httpx.Client, content: bytes, problem: str
) -> None:
    """422 with the place, so that a client's author need not guess."""
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/predict", content=content, headers=headers)
    assert re.search(problem, error_of(response, 422))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "ends too early"),
        (b"rubbish", "not a form"),
        (b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nthing', "ends too early"),
        (b'--x\r\nContent-Disposition: form-data; name="path"\r\n\r\n/etc\r\n--x--\r\n', "'path'"),
        (b"--x\r\nContent-Type: text/plain\r\n\r\nthing\r\n--x--\r\n", "no field"),
        (
            b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\na\r\n' * 2 + b"--x--\r\n",
            "comes twice",
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="image"; filename=""\r\n'
            b"\r\n\r\n--x--\r\n",
            "neither image nor title",
        ),
    ],
)
def test_a_form_that_is_wrong_is_told_what(client: httpx.Client, body: bytes, problem: str) -> None:
    """A form that was cut is refused: half of it must not be answered as the whole."""
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = client.post("/v1/predict", content=body, headers=headers)
    assert problem in error_of(response, 422)


@pytest.mark.parametrize("kind", ["text/plain", "image/png", "multipart/mixed", "", None])
def test_other_content_types_are_refused(client: httpx.Client, kind: str | None) -> None:
    """415, before a byte of the body is read."""
    headers = {} if kind is None else {"Content-Type": kind}
    error_of(client.post("/v1/predict", content=b"x" * 10_000, headers=headers), 415)
    headers = {"Content-Type": "multipart/form-data"}
    assert "form" in error_of(client.post("/v1/predict", content=b"x", headers=headers), 422)


def test_what_is_not_there_is_refused_as_json(client: httpx.Client) -> None:
    """Clients parse one kind of error."""
    error_of(client.get("/nothing"), 404)
    error_of(client.post("/nothing", content=b"x" * 3_000_000), 404)
    error_of(client.get("/v1/predict"), 405)
    error_of(client.get("/docs"), 404)
    error_of(client.get("/healthz/", follow_redirects=False), 404)
    assert [client.head(path).status_code for path in ("/", "/healthz", "/readyz")] == [200] * 3
    for top in ("0", "21", "many"):
        error_of(client.post("/v1/predict", params={"top": top}, json={"title": "a"}), 422)
    (answer,) = client.post("/v1/predict?top=2", json={"title": "a"}).json()["items"]
    assert len(answer["top"]) == 2


def test_labels_come_in_pages_and_are_searched(client: httpx.Client) -> None:
    """A catalog has thousands."""
    first = client.get("/v1/labels", params={"limit": 3}).json()
    assert (first["num_labels"], first["offset"], len(first["labels"])) == (8, 0, 3)
    assert first["labels"][0] == {"label_id": "L0", "name": "Thing 0", "path": "Things > Thing 0"}
    last = client.get("/v1/labels", params={"limit": 3, "offset": 6}).json()
    assert [each["label_id"] for each in last["labels"]] == ["L6", "L7"]
    found = client.get("/v1/labels", params={"search": "THING 5"}).json()
    assert [each["label_id"] for each in found["labels"]] == ["L5"]
    error_of(client.get("/v1/labels", params={"limit": 0}), 422)
    error_of(client.get("/v1/labels", params={"offset": -1}), 422)


def test_neighbors_are_those_of_the_label_graph(client: httpx.Client, shop: Shop) -> None:
    """Nearest first, with the similarity."""
    found = client.get("/v1/labels/L3/neighbors").json()
    graph = pq.read_table(shop.workspace.root / "neighbors.parquet").to_pylist()
    expected = [row for row in graph if row["label"] == 3]
    assert [each["label_id"] for each in found["neighbors"]] == [
        f"L{row['neighbor']}" for row in expected
    ]
    assert found["neighbors"][0]["similarity"] == pytest.approx(expected[0]["similarity"], abs=1e-5)
    assert "L99" in error_of(client.get("/v1/labels/L99/neighbors"), 404)
    error_of(client.get("/v1/labels/a%2Fb/neighbors"), 404)


def test_without_a_workspace_there_are_no_neighbors(shop: Shop, tmp_path: Path) -> None:
    """A copied run answers all the same, and says what lacks."""
    shelves = Shelves(shop.model()[0], LocalStorage(tmp_path))
    assert shelves.no_neighbors is not None
    assert "plan" in shelves.no_neighbors
    assert len(shelves.labels) == 8


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    """Routes as they are declared, not as clients spell them: else each makes a series."""
    client.get("/v1/labels/L1/neighbors")
    client.get("/made-up")
    text = client.get("/metrics").text
    assert 'shelfwise_requests_total{route="/v1/predict",status="422"}' in text
    assert 'route="/v1/labels/{label_id}/neighbors"' in text
    assert 'shelfwise_request_seconds_bucket{le="0.1",route="/v1/predict"}' in text
    assert "shelfwise_batch_items_bucket" in text
    assert "shelfwise_queue_items 0.0" in text
    assert "shelfwise_bytes_under_way 0.0" in text
    assert "made-up" not in text


def test_the_page_asks_no_other_host(client: httpx.Client) -> None:
    """Its policy forbids it, and no file of it names one."""
    for path in ("/", "/serve.css", "/serve.js"):
        response = client.get(path)
        assert response.status_code == 200
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "unsafe" not in response.headers["content-security-policy"]
        assert "//" not in re.sub(r"^ *//.*|; //.*", "", response.text, flags=re.M)
        assert not re.search(r'<[^>]* (on\w+|style)="', response.text)


def test_health_and_readiness_are_two_things(client: httpx.Client) -> None:
    """The process lives before and after it takes requests."""
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_a_mistake_of_ours_is_logged_and_not_shown(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """A client gets 500 as JSON without a stack trace; the log has it."""

    def broken(items: list[RawItem]) -> list[Said]:
        raise ZeroDivisionError(f"secret /path/of/ours, {len(items)} items")

    async def run() -> httpx.Response:
        def batches(report: Callable[[int], None]) -> Batches[RawItem, Said]:
            numbers = {"batch_size": 4, "wait_seconds": 0.001, "max_waiting": 9}
            return Batches([broken], report=report, **numbers)

        shelves = Shelves(shop.model()[0], shop.workspace)
        service = Service(shelves, batches, ServeConfig(), {"runs": []})
        transport = httpx.ASGITransport(make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            response = await client.post("/v1/predict", json={"title": "a"})
        assert service.batches.close(10)
        return response

    response = asyncio.run(run())
    assert "mistake of the service" in error_of(response, 500)
    assert "secret" not in response.text
    assert "secret" in caplog.text


def test_answers_below_the_threshold_are_withheld(shop: Shop) -> None:
    """As `predict` does; the page and programs see the threshold."""
    options = ["--min-precision", "0.05", "--decision", "crm", "--calibrate"]
    with (
        served(shop, *options, "--lanes", "2") as strict,
        httpx.Client(base_url=strict.address) as client,
    ):
        found = client.post("/v1/predict", json={"title": "thing 1"}).json()
        assert found["decision"] == "crm"
        (answer,) = found["items"]
        is_below = answer["top"][0]["probability"] < found["threshold"]
        assert answer["abstains"] == is_below == (answer["label_id"] is None)
        with ThreadPoolExecutor(8) as pool:  # both lanes
            asked = [{"image": picture} for picture in PICTURES if picture] * 2
            answers = [
                each.json()["items"]
                for each in pool.map(lambda files: client.post("/v1/predict", files=files), asked)
            ]
        for one, other in zip(answers, answers[len(answers) // 2 :], strict=False):
            assert [each["label_id"] for each in one[0]["top"]] == [
                each["label_id"] for each in other[0]["top"]
            ]
