"""What the service does at its limits and when it is stopped: it answers, and its memory ends."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.corpus import picture_corpus
from tests.serving import PICTURES, Served, Shop, make_shop, served

MEGABYTE = 1_000_000
HEAD = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LIMITS = (
    *("--max-body", "2", "--max-under-way", "4", "--body-seconds", "2"),
    *("--max-waiting", "64", "--batch-size", "4"),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Shop:
    return make_shop(tmp_path_factory.mktemp("shop"), small_model)


@pytest.fixture(scope="module")
def service(shop: Shop) -> Iterator[Served]:
    """Give a service with narrow limits."""
    with served(shop, *LIMITS) as found:
        yield found
    assert not [line for line in found.lines if "Traceback" in line], found.lines


def talk(service: Served, *parts: bytes, seconds: float = 30) -> bytes:
    """Send bytes as they are; return all that comes back until the service hangs up."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as connection:
        for part in parts:
            connection.sendall(part)
        found = b""
        while data := connection.recv(65536):
            found += data
    return found


def status_of(answer: bytes) -> int:
    """Check that an answer is whole, and an error of ours if it is one; return its status."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length, answer[:500]
    assert len(body) == int(length[1])
    status = int(head.split()[1])
    assert status == 200 or json.loads(body)["error"].keys() == {"what", "fix"}
    return status


def test_a_declared_body_that_is_too_large_is_refused_at_once(service: Served) -> None:
    """Before it is sent."""
    started = time.monotonic()
    head = HEAD + "Content-Length: 2000001\r\nExpect: 100-continue\r\n\r\n"
    assert status_of(talk(service, head.encode())) == 413
    assert time.monotonic() - started < 2


def test_a_chunked_body_is_refused_where_it_becomes_too_large(service: Served) -> None:
    """Nobody says how large it will be; memory ends at the limit."""
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = (HEAD + "Transfer-Encoding: chunked\r\n\r\n").encode()
    assert status_of(talk(service, head, chunk * 40, b"0\r\n\r\n")) == 413


def test_a_body_of_100_mb_costs_no_memory(service: Served) -> None:
    """It is answered with the reason, and what the client still sends is thrown away."""
    before = service.peak_bytes()
    with httpx.Client(base_url=service.address, timeout=60) as client:
        response = client.post("/v1/predict", files={"image": b"x" * 100 * MEGABYTE})
    assert response.status_code == 413
    assert service.peak_bytes() - before < 20 * MEGABYTE


def test_a_body_that_does_not_arrive_is_given_up(service: Served) -> None:
    """Two seconds here, whether bytes drip or none come."""
    started = time.monotonic()
    head = (HEAD + "Content-Length: 1000\r\n\r\n").encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(head)
        # Not to the end: who sends to a closed connection gets a reset, and may lose the answer.
        while time.monotonic() - started < 1.2:
            connection.send(b"x")
            time.sleep(0.1)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert status_of(answer) == 408
    assert 1.5 < time.monotonic() - started < 10
    with httpx.Client(base_url=service.address) as client:
        assert "shelfwise_bytes_under_way 0.0" in client.get("/metrics").text


def test_too_many_bytes_under_way_are_told_to_come_back(service: Served) -> None:
    """Bytes are reserved by what a request declares, before it sends them."""
    head = (HEAD + "Content-Length: 1999000\r\n\r\n").encode()
    with (
        contextlib.closing(socket.create_connection(("127.0.0.1", service.port))) as one,
        contextlib.closing(socket.create_connection(("127.0.0.1", service.port))) as other,
        httpx.Client(base_url=service.address) as client,
    ):
        one.sendall(head)
        other.sendall(head)
        deadline = time.monotonic() + 10
        while "bytes_under_way 3.998" not in client.get("/metrics").text:
            assert time.monotonic() < deadline
        refused = client.post("/v1/predict", json={"title": "a" * 10_000})
        assert refused.status_code == 429
        assert "bytes" in refused.json()["error"]["what"]
        assert refused.headers["retry-after"]
    with httpx.Client(base_url=service.address) as client:
        deadline = time.monotonic() + 10  # those two hung up
        while "bytes_under_way 0.0" not in client.get("/metrics").text:
            assert time.monotonic() < deadline
        assert client.post("/v1/predict", json={"title": "a"}).status_code == 200


def test_a_full_queue_tells_clients_to_come_back(service: Served) -> None:
    """Forty requests of 48 items against a queue of 64: some are answered, the others hear 429."""
    items = [{"title": f"thing {number}"} for number in range(48)]

    async def run() -> Counter[int]:
        async with httpx.AsyncClient(base_url=service.address, timeout=60) as client:
            asked = [client.post("/v1/predict", json={"items": items}) for _ in range(40)]
            answers = await asyncio.gather(*asked)
        for answer in answers:
            if answer.status_code == 429:
                assert answer.headers["retry-after"]
                assert "items wait" in answer.json()["error"]["what"]
        return Counter(answer.status_code for answer in answers)

    counts = asyncio.run(run())
    assert counts.keys() == {200, 429}
    assert counts[200] >= 1


def test_a_thousand_connections_with_large_bodies_cost_bounded_memory(service: Served) -> None:
    """Each gets an answer: the few that fit theirs, the others the advice to come back."""
    body = json.dumps({"title": "x" * 1_900_000}).encode()
    request = (HEAD + f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    before = service.peak_bytes()

    async def ask() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        try:
            writer.write(request[:2000])
            await asyncio.sleep(0.5)  # until all are there
            writer.write(request[2000:])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head)[1])
            content = json.loads(await reader.readexactly(length))
            assert ("items" in content) != ("error" in content)
            return int(head.split()[1])
        finally:
            writer.transport.abort()

    async def run() -> Counter[int]:
        return Counter(await asyncio.gather(*(ask() for _ in range(1000))))

    counts = asyncio.run(run())
    assert sum(counts.values()) == 1000
    assert counts.keys() <= {200, 408, 429}, counts
    assert counts[429] > 500
    assert service.peak_bytes() - before < 200 * MEGABYTE
    with httpx.Client(base_url=service.address) as client:
        assert client.post("/v1/predict", json={"title": "a"}).status_code == 200


def test_what_is_no_http_hurts_nobody(service: Served) -> None:
    """Other protocols, and numbers that are none."""
    for request in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        (HEAD + "Content-Length: -5\r\n\r\n").encode(),
        (HEAD + "Content-Length: many\r\n\r\n").encode(),
    ):
        assert talk(service, request).startswith(b"HTTP/1.1 4")
    with contextlib.suppress(ConnectionError):  # hung up on before it is through
        flood = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n"
        assert talk(service, flood).startswith(b"HTTP/1.1 4")
    with httpx.Client(base_url=service.address) as client:
        assert client.get("/readyz").status_code == 200


def test_answers_that_are_late_are_refused(shop: Shop) -> None:
    """503 with Retry-After; and in time to say so, not when the work is done."""
    bomb = next(each for each in picture_corpus() if each.is_readable)
    with (
        served(shop, "--deadline-seconds", "0.0001") as late,
        httpx.Client(base_url=late.address) as client,
    ):
        response = client.post("/v1/predict", files={"image": bomb.data})
        assert response.status_code == 503
        assert "no answer within" in response.json()["error"]["what"]
        assert late.stop(signal.SIGINT) == 0
        assert late.lines[-1] == "stopped"


def test_a_stopped_service_answers_or_refuses_every_request(shop: Shop) -> None:
    """SIGTERM under load of 16 clients: whole answers, whole refusals, then nobody listens."""
    with served(shop) as service:
        statuses: Counter[str] = Counter()
        has_stopped = threading.Event()

        def ask_on() -> None:
            while True:
                with httpx.Client(base_url=service.address, timeout=60) as client:
                    try:
                        for _ in range(50):
                            response = client.post("/v1/predict", files={"image": PICTURES[1]})
                            statuses[str(response.status_code)] += 1
                            assert response.json()
                    except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
                        # Only a connection that got no byte of an answer may end so.
                        assert has_stopped.is_set()
                        statuses["refused"] += 1
                        return

        clients = [threading.Thread(target=ask_on) for _ in range(16)]
        for each in clients:
            each.start()
        time.sleep(1.5)
        has_stopped.set()
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 20
        for each in clients:
            each.join(20)
            assert not each.is_alive()
    assert statuses.keys() <= {"200", "503", "refused"}, statuses
    assert statuses["200"] > 16
    assert statuses["refused"] == 16
    assert service.lines[-1] == "stopped"


def test_while_it_stops_it_is_not_ready_and_ends_what_hangs(shop: Shop) -> None:
    """A client that never sends its body holds the end up no longer than the grace."""
    with served(shop, "--grace-seconds", "2") as service:
        head = (HEAD + "Content-Length: 1000\r\n\r\n").encode()
        with (
            socket.create_connection(("127.0.0.1", service.port), timeout=20) as hanging,
            httpx.Client(base_url=service.address) as client,
        ):
            hanging.sendall(head)
            deadline = time.monotonic() + 10
            while "under_way 0.0" in client.get("/metrics").text:
                assert time.monotonic() < deadline
            service.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 10
            while (ready := client.get("/readyz")).status_code == 200:
                assert time.monotonic() < deadline
            assert ready.status_code == 503
            assert ready.json()["error"]["what"] == "the service is stopping"
            refused = client.post("/v1/predict", json={"title": "a"})
            assert (refused.status_code, refused.headers["connection"]) == (503, "close")
            answer = b""
            while data := hanging.recv(65536):
                answer += data
            assert status_of(answer) == 503
        assert service.stop() == 0
