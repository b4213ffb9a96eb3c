"""The queue: no job is lost, none is done twice, and none waits for a worker that is dead."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from anyv2v.errors import OutputError
from anyv2v.studio.limits import TooMany, Unknown
from anyv2v.studio.queue import TRIES, Queue


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "queue.db")


def submit(queue: Queue, lane: str = "quick", **settings: object) -> str:
    return queue.submit(settings, lane, "a title")


def test_a_job_from_end_to_end(queue: Queue) -> None:
    name = submit(queue, seed=1)
    assert queue.get(name).state == "queued"
    job = queue.take("quick", "w")
    assert (job.id, job.settings, job.state, job.tries) == (name, {"seed": 1}, "running", 1)
    assert queue.report(name, "w", "propagate", 3, 10, 7.5)
    told = queue.get(name)
    assert (told.stage, told.done, told.total, told.left_seconds) == ("propagate", 3, 10, 7.5)
    assert queue.finish(name, "w", {"frames": 10})
    ended = queue.get(name)
    assert (ended.state, ended.outcome, ended.worker) == ("done", {"frames": 10}, None)
    assert ended.created <= ended.started <= ended.ended


def test_lanes_and_order(queue: Queue) -> None:
    first, slow, second = submit(queue), submit(queue, "device"), submit(queue)
    assert queue.position(queue.get(second)) == 2
    assert queue.position(queue.get(slow)) == 1
    assert [queue.take("quick", "w").id for _ in range(2)] == [first, second]
    assert queue.take("quick", "w") is None
    assert queue.take("device", "w").id == slow
    assert [job.id for job in queue.list()] == [second, slow, first]
    assert [job.id for job in queue.list(limit=1, before=3)] == [slow]


def test_ids_say_nothing_of_each_other(queue: Queue) -> None:
    names = [submit(queue) for _ in range(20)]
    assert len(set(names)) == 20
    assert all(len(name) == 16 and len(set(name)) > 6 for name in names)


def test_what_is_queued_outlives_the_process(queue: Queue) -> None:
    name = submit(queue, seed=3)
    assert Queue(queue.path).take("quick", "w").id == name


def test_the_job_of_a_dead_worker_is_taken_up_again_and_first(queue: Queue) -> None:
    name, other = submit(queue), submit(queue)
    assert queue.take("quick", "dead", lease=0.05).id == name
    time.sleep(0.06)
    again = queue.take("quick", "alive")
    assert (again.id, again.worker, again.tries) == (name, "alive", 2)
    assert queue.get(other).state == "queued"
    assert not queue.beat(name, "dead")
    assert not queue.report(name, "dead", "propagate", 1, 2, None)
    assert not queue.finish(name, "dead", {"wrong": True})
    assert not queue.fail(name, "dead", "wrong")
    assert queue.get(name).state == "running"


def test_a_beat_keeps_the_lease(queue: Queue) -> None:
    name = submit(queue)
    queue.take("quick", "w", lease=0.05)
    assert queue.beat(name, "w", lease=30)
    time.sleep(0.06)
    assert queue.take("quick", "other") is None
    assert queue.holds(name, "w")


def test_a_job_that_kills_its_workers_fails_in_the_end(queue: Queue) -> None:
    name = submit(queue)
    for _ in range(TRIES):
        assert queue.take("quick", "w").id == name
        queue.bury("w")
    assert queue.take("quick", "w") is None
    assert (queue.get(name).state, queue.get(name).message) == (
        "failed",
        "the worker died 3 times while it ran",
    )


def test_a_worker_that_leaves_is_not_held_against_the_job(queue: Queue) -> None:
    name = submit(queue)
    for _ in range(TRIES + 2):
        assert queue.take("quick", "w").id == name
        queue.let_go("w")
    assert (queue.get(name).state, queue.get(name).tries) == ("queued", 0)


def test_cancelling(queue: Queue) -> None:
    waiting, running = submit(queue, "device"), submit(queue)
    queue.take("quick", "w")
    assert queue.cancel(waiting)
    assert queue.cancel(running)
    assert queue.take("device", "w") is None
    assert not queue.beat(running, "w")
    assert not queue.holds(running, "w")
    assert not queue.finish(running, "w", {})
    assert queue.get(running).state == "cancelled"
    assert not queue.cancel(running)
    assert queue.get(running).worker == "w"
    assert queue.lingering("w", 0.0)
    assert not queue.lingering("w", 60.0)
    assert not queue.remove(running)
    queue.let_go("w")
    assert not queue.lingering("w", 0.0)
    assert queue.remove(running)
    with pytest.raises(Unknown, match="no such job"):
        queue.get(running)


def test_only_what_has_ended_is_removed(queue: Queue) -> None:
    name = submit(queue)
    assert not queue.remove(name)
    queue.take("quick", "w")
    assert not queue.remove(name)
    queue.fail(name, "w", "a reason")
    assert queue.remove(name)
    for act in (queue.get, queue.cancel, queue.remove):
        with pytest.raises(Unknown):
            act(name)


def test_every_change_is_counted_and_a_beat_is_none(queue: Queue) -> None:
    name, other = submit(queue), submit(queue)
    changes = [
        lambda: queue.take("quick", "w"),
        lambda: queue.report(name, "w", "load", 0, 1, None),
        lambda: queue.cancel(other),
        lambda: queue.remove(other),
        lambda: queue.finish(name, "w", {}),
        lambda: submit(queue),
    ]
    for change in changes:
        seen = queue.revision()
        change()
        assert queue.revision() > seen
        seen = queue.revision()
        queue.beat(name, "w")
        assert queue.revision() == seen


def test_a_full_queue_says_so(queue: Queue) -> None:
    queue.submit({}, "quick", most=1)
    with pytest.raises(TooMany, match="1 jobs wait already"):
        queue.submit({}, "quick", most=1)
    queue.take("quick", "w")
    queue.submit({}, "quick", most=1)


def test_the_oldest_ended_jobs_are_outlived(queue: Queue) -> None:
    names = [submit(queue) for _ in range(4)]
    for name in names[:3]:
        queue.cancel(name)
    assert [job.id for job in queue.outlived(1)] == [names[1], names[0]]


@pytest.mark.parametrize("content", [b"no database at all, but long enough to look", None])
def test_a_file_that_is_no_queue(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "queue.db"
    if content:
        path.write_bytes(content)
    else:
        path.mkdir()
    with pytest.raises(OutputError, match="cannot keep jobs"):
        Queue(path)


def test_the_queue_of_another_version(queue: Queue) -> None:
    with sqlite3.connect(queue.path) as base:
        base.execute("PRAGMA user_version = 99")
    base.close()
    with pytest.raises(OutputError, match="another version"):
        Queue(queue.path)


def take_all(path: Path, worker: str) -> list[str]:
    """What a worker gets to do, if it does each job at once."""
    queue, done = Queue(path), []
    while job := queue.take("quick", worker):
        assert queue.finish(job.id, worker, {"by": worker})
        done.append(job.id)
    return done


def test_fifty_jobs_of_five_clients_are_each_done_once_by_three_processes(queue: Queue) -> None:
    with ThreadPoolExecutor(5) as clients:
        names = list(clients.map(lambda k: submit(queue, client=k % 5), range(50)))
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as workers:
        done = list(workers.map(take_all, [queue.path] * 3, ["w1", "w2", "w3"]))
    assert Counter(name for of_one in done for name in of_one) == Counter(names)
    assert {(job.state, job.tries) for job in queue.list(limit=100)} == {("done", 1)}
