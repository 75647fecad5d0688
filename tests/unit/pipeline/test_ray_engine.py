"""Who gets which shard, and what becomes of it, on a Ray that does what the test says.

A real one with nodes and workers that are killed stands in tests/clusters/test_ray.py; here are
the ways of failing that a real one shows too rarely.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from cache.storage import LocalStorage
from pipeline import ray_engine
from pipeline.ray_engine import embed_on_ray
from pipeline.ray_worker import LABELS
from schemas.errors import (
    ConfigError,
    EncoderError,
    LeaseError,
    PipelineError,
    ShardError,
    ShardsFailedError,
    TooManyBadRowsError,
    WorkspaceError,
)
from tests.fakes import fake_embeddings, fake_plan, write_labels_of, write_shard


class _RayError(Exception):
    """A worker or its node is gone."""


class _RayTaskError(_RayError):
    """A worker lives and says what went wrong."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(repr(cause))
        self.cause = cause


class Call:
    """A call under way; made when somebody waits for it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function, self._outcome = function, None

    def settle(self) -> Any:
        if self._outcome is None:
            try:
                self._outcome = (self._function(), None)
            except _RayError as error:
                self._outcome = (None, error)
            except Exception as error:
                self._outcome = (None, _RayTaskError(error))
        value, error = self._outcome
        if error is not None:
            raise error
        return value


class Method:
    """A method of an actor."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def options(self, **options: object) -> "Method":
        return self

    def remote(self, *arguments: Any) -> Call:
        return Call(lambda: self._function(*arguments))


class FakeRay:
    """Nodes and workers of one process."""

    exceptions = SimpleNamespace(RayError=_RayError, RayTaskError=_RayTaskError)
    util = SimpleNamespace(
        scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda key, soft: key)
    )

    def __init__(self, nodes: dict[str, dict[str, float]]) -> None:
        self.alive = dict(nodes)
        self._order = random.Random(0)
        self.tries: Counter[int] = Counter()
        self.done: list[tuple[str, int]] = []
        self.num_actors: Counter[str] = Counter()
        self.killed: list[object] = []
        self.asked: list[dict[str, Any]] = []
        self.on_load: Callable[[str], None] = lambda node: None
        self.on_embed: Callable[[str, int, int], None] = lambda node, task, number: None

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": key, "Alive": True, "NodeManagerHostname": key, "Resources": resources}
            for key, resources in self.alive.items()
        ]

    def remote(self, **options: object) -> Callable[[type], Any]:
        return lambda kind: SimpleNamespace(options=self._place)

    def _place(self, **asked: Any) -> Any:
        self.asked.append(asked)
        return SimpleNamespace(remote=lambda *arguments: self._actor(asked["scheduling_strategy"]))

    def _actor(self, node: str) -> Any:
        self.num_actors[node] += 1
        task_now = LABELS

        def load() -> None:
            if node not in self.alive:
                raise _RayError(f"{node} is gone")
            self.on_load(node)

        def embed(task: int) -> int:
            nonlocal task_now
            task_now = task
            self.tries[task] += 1
            self.on_embed(node, task, self.tries[task])
            self.done.append((node, task))
            if task == LABELS:
                write_labels_of(self.workspace, self.plan)
                return 0
            write_shard(self.workspace, self.plan, task, fake_embeddings(self.plan))
            return 128

        return SimpleNamespace(
            load=Method(load),
            embed=Method(embed),
            look=Method(lambda: (task_now, 0, [])),
            stop=Method(lambda: None),
        )

    def wait(
        self, calls: Sequence[Call], num_returns: int = 1, timeout: float = 0
    ) -> tuple[list[Call], list[Call]]:
        if num_returns > 1:
            return list(calls), []
        return [self._order.choice(calls)], []  # each is the first to end at times

    def get(self, call: Call) -> Any:
        return call.settle()

    def kill(self, actor: object) -> None:
        """End an actor, which may be dead."""
        self.killed.append(actor)

    def init(self, **options: object) -> None:
        """All is there."""

    def shutdown(self) -> None:
        """Nothing stays."""


CPU = {"CPU": 8.0}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    found = FakeRay({"node-a": CPU, "node-b": CPU})
    monkeypatch.setattr(ray_engine, "_import_ray", lambda: found)
    monkeypatch.setattr(ray_engine, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(ray_engine, "_NODES_SECONDS", 0.0)
    return found


def run(workspace: LocalStorage, num_shards: int = 6, **options: object) -> Any:
    plan = fake_plan(workspace, num_items=128 * num_shards)
    FakeRay.workspace, FakeRay.plan = workspace, plan
    given = {
        "with_labels": False,
        "address": None,
        "gpus_per_worker": None,
        "num_workers": None,
        "device": "auto",
        "compute_dtype": "auto",
        "max_bad": 0.05,
        "redo": False,
    }
    return embed_on_ray(workspace, plan, range(num_shards), **(given | options))


@pytest.fixture(autouse=True)
def _no_worker_stays(ray: FakeRay) -> Iterator[None]:
    """Every worker that was started is ended: one that stays holds its node's GPU."""
    yield
    assert len({id(actor) for actor in ray.killed}) == sum(ray.num_actors.values())


def shards(ray: FakeRay) -> list[int]:
    return sorted(task for _, task in ray.done)


def bad(task: int) -> TooManyBadRowsError:
    return TooManyBadRowsError(f"shard {task} is bad", where="there", fix="mend it")


def test_every_shard_and_the_labels_are_done_once_by_all_nodes(
    workspace: LocalStorage, ray: FakeRay
) -> None:
    """And the report counts the items of each node."""
    report = run(workspace)
    assert shards(ray) == [LABELS, *range(6)]
    assert {node for node, _ in ray.done} == {"node-a", "node-b"}
    assert sum(node.num_items for node in report.nodes) == 128 * 6
    assert "768 items" in (report.table().note or "")


def test_what_is_done_is_not_given_out(workspace: LocalStorage, ray: FakeRay) -> None:
    """A rerun of a finished cache starts no worker; --redo makes all of it again."""
    plan = fake_plan(workspace, num_items=128 * 3)
    for shard in (0, 2):
        write_shard(workspace, plan, shard, fake_embeddings(plan))
    write_labels_of(workspace, plan)
    run(workspace, 3)
    assert shards(ray) == [1]
    write_shard(workspace, plan, 1, fake_embeddings(plan))
    ray.done.clear()
    report = run(workspace, 3)
    assert (ray.done, report.nodes) == ([], ())
    assert report.table().note == "nothing was open"
    run(workspace, 3, redo=True)
    assert shards(ray) == [0, 1, 2]


def test_a_bad_shard_is_told_after_all_others_are_done(
    workspace: LocalStorage, ray: FakeRay
) -> None:
    """One bad folder must not cost a night. One error is shown as it is, several are counted."""

    def refuse(node: str, task: int, number: int) -> None:
        if task in failing:
            raise bad(task)

    ray.on_embed, failing = refuse, {2}
    with pytest.raises(TooManyBadRowsError, match="shard 2 is bad"):
        run(workspace)
    assert shards(ray) == [LABELS, 0, 1, 3, 4, 5]
    failing |= {0, 4, 5}
    with pytest.raises(
        ShardsFailedError, match=r"4 shards failed.*shard 0.*shard 2.*shard 4"
    ) as all_:
        run(workspace, redo=True)
    assert (all_.value.can_retry, all_.value.where) == (False, "there")
    assert ray.tries[2] == 2, "once a run: a bad shard is not tried again"


def test_a_shard_that_kills_its_workers_is_given_up(workspace: LocalStorage, ray: FakeRay) -> None:
    """After three of them: a picture that eats all memory must not eat all workers for ever."""

    def die(node: str, task: int, number: int) -> None:
        if task == 3:
            raise _RayError("out of memory")

    ray.on_embed = die
    with pytest.raises(ShardsFailedError, match=r"shard 00003 failed 3 times.*out of memory"):
        run(workspace)
    assert shards(ray) == [LABELS, 0, 1, 2, 4, 5]
    assert ray.tries[3] == 3


def test_what_may_pass_is_tried_again(workspace: LocalStorage, ray: FakeRay) -> None:
    """A lost connection, or a lease that a lost node still holds."""

    def refuse(node: str, task: int, number: int) -> None:
        if task == 1 and number < 3:
            raise LeaseError("held", where="there", fix="wait")

    ray.on_embed = refuse
    run(workspace)
    assert (shards(ray), ray.tries[1]) == ([LABELS, *range(6)], 3)
    ray.on_embed = lambda node, task, number: refuse(node, task, 0)
    with pytest.raises(LeaseError) as caught:
        run(workspace, redo=True)
    assert caught.value.can_retry


def test_what_meets_every_shard_ends_the_run(workspace: LocalStorage, ray: FakeRay) -> None:
    """A full disk: the next hundred shards would be embedded for nothing."""

    def refuse(node: str, task: int, number: int) -> None:
        if task == 1:
            raise WorkspaceError("No space left on device", where="there", fix="free some")

    ray.on_embed = refuse
    with pytest.raises(WorkspaceError, match="No space"):
        run(workspace, 40)
    assert len(ray.done) < 5


def test_a_node_that_cannot_load_takes_no_shards(workspace: LocalStorage, ray: FakeRay) -> None:
    """Else it would fail them all faster than the others do them."""

    def refuse(node: str) -> None:
        if node in unfit:
            raise EncoderError("the checkpoint is not here", where=node, fix="put it there")

    ray.on_load, unfit = refuse, {"node-b"}
    run(workspace)
    assert {node for node, _ in ray.done} == {"node-a"}
    assert shards(ray) == [LABELS, *range(6)]
    unfit.add("node-a")
    with pytest.raises(EncoderError, match="the checkpoint is not here"):
        run(workspace, redo=True)


def test_a_lost_node_leaves_its_shards_to_others_and_a_new_one_joins(
    workspace: LocalStorage, ray: FakeRay, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue is all that a run knows; nodes come and go under it."""

    def lose(node: str, task: int, number: int) -> None:
        if node == "node-b" and task >= 0:
            ray.alive.pop("node-b", None)
            ray.alive["node-c"] = CPU
            raise _RayError("node died")

    ray.on_embed = lose
    run(workspace, 12)
    assert shards(ray) == [LABELS, *range(12)]
    assert {node for node, task in ray.done if task >= 0} == {"node-a", "node-c"}
    assert "node-b is lost" in caplog.text
    assert ray.num_actors["node-b"] == 1, "nobody is sent to a dead node"


def test_where_no_worker_ever_starts_a_person_has_to_look(
    workspace: LocalStorage, ray: FakeRay, caplog: pytest.LogCaptureFixture
) -> None:
    """A node without the packages: it would be the same tomorrow."""

    def die(node: str) -> None:
        raise _RayError("runtime environment failed")

    ray.on_load = die
    with pytest.raises(ShardsFailedError, match=r"7 shards are open.*runtime env") as caught:
        run(workspace)
    assert not caught.value.can_retry
    assert ray.num_actors == {"node-a": 3, "node-b": 3}
    assert "a worker died: runtime environment failed" in caplog.text


def test_where_all_nodes_are_lost_a_scheduler_may_try_again(
    workspace: LocalStorage, ray: FakeRay
) -> None:
    """It goes on when there are nodes; what was given up before is told too."""

    def lose(node: str, task: int, number: int) -> None:
        if task == 4:
            ray.alive.clear()
            raise _RayError("node died")
        if task == 1:
            raise bad(1)

    ray.on_embed = lose
    with pytest.raises(ShardsFailedError, match=r"shard 00001: shard 1 is bad") as caught:
        run(workspace)
    assert not caught.value.can_retry, "for the bad one"
    ray.alive = {"node-a": CPU}
    ray.on_embed = lambda node, task, number: lose(node, 4, 0)
    with pytest.raises(ShardsFailedError, match=r"all workers are lost.*node died") as caught:
        run(workspace, redo=True)
    assert caught.value.can_retry


def test_a_node_that_sees_another_workspace_is_found_out(
    workspace: LocalStorage, ray: FakeRay
) -> None:
    """A mount that is missing there: its shards would lie on its own disk."""

    def elsewhere(node: str, task: int, number: int) -> None:
        if node == "node-b":
            FakeRay.workspace = LocalStorage(workspace.root / "elsewhere")
        else:
            FakeRay.workspace = workspace

    ray.on_embed = elsewhere
    with pytest.raises(ShardsFailedError, match=r"node-b.* is done, and here it is not"):
        run(workspace)


def test_a_worker_that_fails_in_an_unforeseen_way_is_replaced(
    workspace: LocalStorage, ray: FakeRay
) -> None:
    """A broken GPU fails in milliseconds: it would eat the queue while the others work."""

    def fail(node: str, task: int, number: int) -> None:
        if node == "node-b":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    ray.on_embed = fail
    run(workspace)
    assert shards(ray) == [LABELS, *range(6)]
    assert ray.num_actors["node-b"] > 1
    assert max(ray.tries.values()) == 2, "the other node gets what failed on this one"


@pytest.mark.parametrize(
    ("gpus_per_worker", "seats", "cores"), [(None, 4, 4), (1.0, 4, 4), (0.5, 8, 2), (2.0, 2, 8)]
)
def test_gpus_are_divided_among_workers(
    workspace: LocalStorage, ray: FakeRay, gpus_per_worker: float, seats: int, cores: int
) -> None:
    """Each with its share of the cores for decoding; a head node without GPUs gets none."""
    ray.alive = {"head": {"CPU": 4.0}, "node-a": {"CPU": 16.0, "GPU": 4.0}}
    run(workspace, 10, gpus_per_worker=gpus_per_worker)
    assert ray.num_actors == {"node-a": seats}
    assert {each["num_cpus"] for each in ray.asked} == {cores}
    assert {each["num_gpus"] for each in ray.asked} == {gpus_per_worker or 1.0}


def test_no_more_workers_start_than_there_is_work(workspace: LocalStorage, ray: FakeRay) -> None:
    """An encoder takes ten seconds to load and a GPU from others."""
    ray.alive = {f"node-{number}": CPU for number in range(20)}
    run(workspace, 2)
    assert sum(ray.num_actors.values()) == 3  # two shards and the labels


def test_what_cannot_work_is_refused_at_once(workspace: LocalStorage, ray: FakeRay) -> None:
    """GPUs that nobody has, one device for everybody, a shard that is not there."""
    wrong: list[tuple[type[PipelineError], str, dict[str, object]]] = [
        (ConfigError, "no node has 1 GPUs", {"gpus_per_worker": 1.0}),
        (ConfigError, "every worker's device", {"device": "cuda:0"}),
    ]
    for kind, message, options in wrong:
        with pytest.raises(kind, match=message):
            run(workspace, **options)
    with pytest.raises(ShardError):
        embed_on_ray(
            workspace,
            fake_plan(workspace, num_items=10),
            [1],
            with_labels=False,
            address=None,
            gpus_per_worker=None,
            num_workers=None,
            device="auto",
            compute_dtype="auto",
        )
    assert not ray.done
