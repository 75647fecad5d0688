"""Workers may be killed, and may be any number: the pixels come out right and in order."""

import functools
import io
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.storage import LocalStorage
from cache.verify import shard_state
from pipeline import decode_pool
from pipeline.decode_pool import TASK_PICTURES, DecodePool
from pipeline.pictures import load
from tests.fakes import PREPROCESS, HashEncoder, picture_bytes
from tests.faults import (
    ROOT,
    Deadly,
    Processes,
    check_finished,
    children_of,
    copy_files,
    decode_for_ever,
    decoders_of,
    embed_all,
    embed_here,
    files_of,
    is_alive,
    plan_catalog,
    wait_until,
)

Tasks = list[tuple[int, list[bytes]]]


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """Return a place to run what is to be killed."""
    with Processes() as found:
        yield found


def tasks_of(num_tasks: int, num_pictures: int = TASK_PICTURES) -> Tasks:
    """Return tasks of small pictures that all differ."""
    pictures = [picture_bytes((i % 256, i // 256, 50)) for i in range(num_tasks * num_pictures)]
    return [(i, pictures[i * num_pictures : (i + 1) * num_pictures]) for i in range(num_tasks)]


def pixels_of(pictures: list[bytes]) -> np.ndarray:
    return np.stack([load(bytes(each), PREPROCESS, is_scaled=True) for each in pictures])


def pool_of(num_workers: int) -> DecodePool:
    return DecodePool(PREPROCESS, is_scaled=True, num_workers=num_workers)


def workers() -> list[int]:
    """Return the decode workers of this process."""
    return [pid for pid in decoders_of(os.getpid()) if is_alive(pid)]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_outcomes_come_in_order_whatever_the_number_of_workers(num_workers: int) -> None:
    """A task that takes longer than those after it must not be overtaken."""
    tasks = tasks_of(40)
    big = io.BytesIO()
    Image.effect_noise((1500, 1500), 90).save(big, "PNG")
    for task in (0, 7, 8):
        tasks[task][1][3] = big.getvalue()
    tasks[5] = (5, [b"<html>", *tasks[5][1][1:]])
    tasks[6] = (6, [])
    with pool_of(num_workers) as pool:
        number = -1
        for number, outcome in enumerate(pool.decode(iter(tasks))):
            tag, pictures = tasks[number]
            assert outcome.tag == tag
            assert len(outcome.errors) == len(pictures)
            bad = [i for i, error in enumerate(outcome.errors) if error]
            assert bad == ([0] if number == 5 else [])
            good = [i for i in range(len(pictures)) if i not in bad]
            if good:
                expected = pixels_of([pictures[i] for i in good])
                np.testing.assert_array_equal(outcome.pixels[good], expected)
    assert number == 39


def test_two_workers_make_the_same_cache_as_none(tmp_path: Path) -> None:
    """A node with more cores goes on where another stopped."""
    planned = LocalStorage(tmp_path / "planned")
    images: list[object] = [picture_bytes((i, 0, 0)) for i in range(40)]
    images[3], images[4] = b"<html>", images[2]
    plan = plan_catalog(planned, tmp_path / "catalog", image=images)
    found = []
    for num_workers in (0, 2):
        workspace = LocalStorage(tmp_path / str(num_workers))
        copy_files(planned, workspace)
        embed_here(workspace, plan, num_workers=num_workers)
        found.append(files_of(workspace))
    assert found[0] == found[1]


def test_a_worker_that_is_killed_costs_nothing() -> None:
    """By a machine out of memory, say: its task is done again, and no picture gets the blame."""
    tasks, dice, num_kills = tasks_of(120), random.Random(3), 0
    with pool_of(2) as pool:
        for number, outcome in enumerate(pool.decode(iter(tasks))):
            if number % 25 == 3 and (found := workers()):  # none while a broken pool is not needed
                os.kill(dice.choice(found), signal.SIGKILL)
                num_kills += 1
            assert outcome.errors == [None] * TASK_PICTURES
            np.testing.assert_array_equal(outcome.pixels, pixels_of(tasks[number][1]))
    assert num_kills > 1


SCRIPT = """
import contextlib, os, signal
from tests.fakes import PREPROCESS, picture_bytes
from tests.faults import decoders_of, is_alive, wait_until
from pipeline.decode_pool import DecodePool

with DecodePool(PREPROCESS, is_scaled=True, num_workers=3) as pool:
    tasks = [(i, [picture_bytes()]) for i in range(3)]
    assert [each.errors for each in pool.decode(iter(tasks))] == [[None]] * 3
    # All wait for work now; one of them holds the lock under which it is handed out.
    for pid in decoders_of(os.getpid())[:{num}]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid))
    assert [each.errors for each in pool.decode(iter(tasks))] == [[None]] * 3
print("ended")
"""


@pytest.mark.parametrize("num", [1, 2, 3])
def test_a_process_whose_workers_were_killed_still_ends(num: int) -> None:
    """Else a job holds its node until its time is up, with all its work done."""
    for _ in range(2):
        found = subprocess.run(
            [sys.executable, "-c", SCRIPT.replace("{num}", str(num))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        assert found.stdout == "ended\n"


def test_a_worker_of_a_broken_pool_spoils_no_later_picture() -> None:
    """It may wake up late, in a machine out of memory, and finish into pixels of other tasks."""
    big = io.BytesIO()
    Image.effect_noise((2000, 2000), 90).save(big, "PNG")
    tasks = [(0, [picture_bytes()]), *((i, [big.getvalue()] * 2) for i in range(1, 5))]
    tasks += [(i, each) for i, each in tasks_of(90) if i > 4]
    earlier, stopped = set(workers()), 0

    def mine() -> list[int] | None:
        found = sorted(set(workers()) - earlier)
        return found if len(found) == 2 else None

    with pool_of(2) as pool:
        for number, outcome in enumerate(pool.decode(iter(tasks))):
            if number == 0:
                stopped, killed = wait_until(mine)
                os.kill(stopped, signal.SIGSTOP)
                os.kill(killed, signal.SIGKILL)
            # By now the first slots have been given to tasks that come much later.
            if number == 33:
                wait_until(functools.partial(are_idle, earlier | {stopped}))
                os.kill(stopped, signal.SIGCONT)
                wait_until(functools.partial(is_idle, stopped))
            assert not any(outcome.errors), number
            expected = pixels_of(tasks[number][1][-1:])
            np.testing.assert_array_equal(outcome.pixels[-1:], expected, err_msg=str(number))
            if number > 4:
                expected = pixels_of(tasks[number][1])
                np.testing.assert_array_equal(outcome.pixels, expected, err_msg=str(number))


def are_idle(others: set[int]) -> bool:
    """Say whether all workers but those wait for work."""
    return all(is_idle(pid) for pid in workers() if pid not in others)


def is_idle(pid: int) -> bool:
    """Say whether a worker waits for work or has ended."""
    return all(is_asleep(pid) for _ in range(20))


def is_asleep(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "SZ"


def test_a_picture_that_kills_its_worker_each_time_gets_a_reason(tmp_path: Path) -> None:
    """A bug in a decoder: the picture is lost, its neighbors are not."""
    tasks = tasks_of(12)
    for task, place in ((2, 0), (2, 9), (11, 15)):
        pictures = tasks[task][1]
        pictures[place] = Deadly.of(pictures[place], tmp_path / f"{task}-{place}")
    with pool_of(2) as pool:
        for number, outcome in enumerate(pool.decode(iter(tasks))):
            bad = {2: [0, 9], 11: [15]}.get(number, [])
            good = [i for i in range(TASK_PICTURES) if i not in bad]
            assert [i for i, error in enumerate(outcome.errors) if error] == bad
            assert all("decoder died" in str(outcome.errors[i]) for i in bad)
            expected = pixels_of([tasks[number][1][i] for i in good])
            np.testing.assert_array_equal(outcome.pixels[good], expected)


@pytest.mark.parametrize("place", [0, 5])
def test_a_picture_is_tried_twice_alone_before_it_gets_the_blame(
    tmp_path: Path, place: int
) -> None:
    """A worker that is killed from outside, at a bad moment, must not cost a good picture."""
    tasks = tasks_of(3)
    tasks[1][1][place] = Deadly.of(tasks[1][1][place], tmp_path / "log", times=2)
    with pool_of(1) as pool:
        for number, outcome in enumerate(pool.decode(iter(tasks))):
            assert outcome.errors == [None] * TASK_PICTURES
            np.testing.assert_array_equal(outcome.pixels, pixels_of(tasks[number][1]))


def test_a_picture_that_no_worker_takes_is_not_a_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the shared memory then is another picture's pixels."""
    with pool_of(1) as pool:
        monkeypatch.setattr(pool, "_submit", lambda *_: None)
        (outcome,) = pool.decode(iter(tasks_of(1, num_pictures=3)))
        assert all(outcome.errors)


def test_workers_killed_during_a_run_cost_no_row(tmp_path: Path) -> None:
    """The same through a whole run of `embed`."""
    workspace = LocalStorage(tmp_path / "w")
    plan = plan_catalog(workspace, tmp_path / "catalog")

    class Killer(HashEncoder):
        def encode_texts(self, texts: list[str], batch_size: int = 64) -> np.ndarray:
            if self.num_images in (8, 24) and (found := workers()):
                os.kill(found[0], signal.SIGKILL)
            return super().encode_texts(texts, batch_size)

    embed_here(workspace, plan, Killer(), num_workers=2, max_bad=0.0)
    alone = LocalStorage(tmp_path / "alone")
    copy_files(workspace, alone, "items")
    for name in ("plan.json", "labels.parquet"):
        alone.write(name, workspace.read(name))
    embed_here(alone, plan)
    check_finished(workspace, plan, files_of(alone))


def test_no_worker_outlives_a_main_process_that_is_killed(
    processes: Processes, tmp_path: Path
) -> None:
    """Orphans would keep a node's memory and its job."""
    ready = tmp_path / "ready"
    child = processes.start(decode_for_ever, tasks_of(1)[0][1], 2, str(ready))
    wait_until(ready.exists)
    wait_until(lambda: len(decoders_of(child.pid)) == 2)
    below = children_of(child.pid)
    assert len(below) >= 3
    child.send(signal.SIGKILL)
    assert child.wait().was_killed
    wait_until(lambda: not any(is_alive(pid) for pid in below))


@pytest.mark.parametrize("in_group", [False, True])
def test_sigterm_keeps_whole_chunks_frees_the_lease_and_ends_the_workers(
    processes: Processes, tmp_path: Path, in_group: bool
) -> None:
    """To the one process, or to all of them at once as Slurm sends it."""
    planned, alone = LocalStorage(tmp_path / "planned"), LocalStorage(tmp_path / "alone")
    plan = plan_catalog(planned, tmp_path / "catalog")
    for place in (alone, workspace := LocalStorage(tmp_path / "w")):
        copy_files(planned, place)
    embed_here(alone, plan)
    options = {"pause": 0.1, "num_workers": 2, "stop_nicely": True, "in_group": True}
    child = processes.start(embed_all, workspace.location, **options)
    wait_until(lambda: workspace.size("cache/parts/00000/0"))
    below = children_of(child.pid)
    assert len(below) >= 3
    if in_group:
        os.killpg(child.pid, signal.SIGTERM)
    else:
        child.send(signal.SIGTERM)
    assert os.waitstatus_to_exitcode(child.wait().status) == 128 + signal.SIGTERM
    wait_until(lambda: not any(is_alive(pid) for pid in below))
    assert workspace.sizes("cache/leases") == {}
    assert not [name for name in workspace.sizes("") if name.endswith(".tmp")]
    assert shard_state(workspace, plan, 0).chunks_done == 1
    again = processes.run(embed_all, workspace.location).result()
    assert again["images"] == 32
    check_finished(workspace, plan, files_of(alone))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_ahead_is_bounded_by_pictures_and_by_bytes(
    monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    """A shard's pictures are gigabytes: only so many of them may wait in memory."""
    most_tasks = 512 // TASK_PICTURES + num_workers if num_workers else 1
    assert furthest(tasks_of(100), num_workers) == most_tasks
    tasks = tasks_of(100, num_pictures=4)
    size = max(sum(map(len, pictures)) for _, pictures in tasks)
    monkeypatch.setattr(decode_pool, "_MAX_BYTES_AHEAD", 3 * size)
    assert furthest(tasks, num_workers) <= min(5, most_tasks)


def furthest(tasks: Tasks, num_workers: int) -> int:
    """Return how many tasks were at most read and not yet used."""
    num_read = num_most = 0

    def read() -> Iterator[tuple[int, list[bytes]]]:
        nonlocal num_read
        for task in tasks:
            num_read += 1
            yield task

    with pool_of(num_workers) as pool:
        for number, _ in enumerate(pool.decode(read())):
            num_most = max(num_most, num_read - number)
    assert num_read == len(tasks)
    return num_most


def test_the_main_script_runs_once_however_many_workers_start(tmp_path: Path) -> None:
    """A script without `if __name__ == "__main__"` would run again in every worker."""
    script = tmp_path / "script.py"
    script.write_text(
        "print('script runs')\n"
        "from pipeline.decode_pool import DecodePool\n"
        "from tests.fakes import PREPROCESS, picture_bytes\n"
        "with DecodePool(PREPROCESS, is_scaled=True, num_workers=2) as pool:\n"
        "    tasks = ((i, [picture_bytes((i, 0, 0))] * 16) for i in range(40))\n"
        "    print(sum(outcome.errors == [None] * 16 for outcome in pool.decode(tasks)))\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["script runs", "40"]


def test_two_pools_that_start_workers_at_a_time_leave_the_main_module_in_place() -> None:
    """The later one put back the earlier one's stand-in, and every process after it failed."""
    main = sys.modules["__main__"]
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def first() -> None:
        with decode_pool._without_main_module():
            first_is_in.set()
            second_is_in.wait(0.2)  # in vain, as only one may be in

    def second() -> None:
        first_is_in.wait(5)
        with decode_pool._without_main_module():
            second_is_in.set()
            one.join(0.5)

    one, other = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    other.start()
    one.join(5)
    other.join(5)
    assert sys.modules["__main__"] is main
