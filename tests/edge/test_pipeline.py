"""Several inputs at a time, results in the order of the inputs; and how many cores there are for it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_component.process import cores
from edge_inference.pipeline import AHEAD, Pipeline
from tests.edge.model_folder import ROOT, make_package

LIMIT_S = 30.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Work:
    """Work that is done when it is let go; keeps who came in and what went out."""

    def __init__(self, parallel: int) -> None:
        self.begun: list[int] = []
        self.handed: list[int] = []
        self.gates: dict[int, threading.Event] = {}
        self.failing: set[int] = set()
        self.pipeline: Pipeline[int] = Pipeline("work", self._work, parallel)
        self.pipeline.start()

    def ask(self, *numbers: int) -> None:
        for number in numbers:
            self.gates[number] = threading.Event()
            self.pipeline.put(number)

    def let(self, *numbers: int) -> None:
        for number in numbers:
            self.gates[number].set()

    def end(self) -> None:
        self.let(*self.gates)
        self.pipeline.finish()
        assert self.pipeline.join(LIMIT_S) == 0

    def _work(self, number: int) -> Callable[[], object]:
        self.begun.append(number)
        assert self.gates[number].wait(LIMIT_S)
        if number in self.failing:
            raise RuntimeError(f"{number} fails")
        return lambda: self.handed.append(number)


def test_works_on_as_many_as_it_may_and_hands_them_on_in_order() -> None:
    work = Work(2)
    work.ask(0, 1, 2, 3)
    until(lambda: len(work.begun) == 2)
    assert sorted(work.begun) == [0, 1]
    assert work.pipeline.waiting == 2

    work.let(1)
    until(lambda: len(work.begun) == 3)
    assert work.handed == []
    work.let(0)

    until(lambda: work.handed == [0, 1])
    work.end()
    assert work.handed == [0, 1, 2, 3]


def test_a_slow_input_holds_up_a_bounded_number_of_results() -> None:
    work = Work(2)
    work.ask(*range(20))
    work.let(*range(1, 20))

    until(lambda: len(work.begun) == AHEAD * 2)
    time.sleep(0.1)

    assert len(work.begun) == AHEAD * 2
    assert work.pipeline.waiting == 20 - AHEAD * 2
    work.end()
    assert work.handed == list(range(20))


def test_more_or_fewer_at_a_time_while_it_runs() -> None:
    work = Work(1)
    work.ask(*range(12))
    until(lambda: len(work.begun) == 1)

    work.pipeline.parallel = 3
    until(lambda: len(work.begun) == 3)
    assert sorted(work.begun) == [0, 1, 2]

    work.pipeline.parallel = 1
    work.let(0, 1, 2)
    until(lambda: work.handed == [0, 1, 2])
    until(lambda: len(work.begun) == 4)
    time.sleep(0.1)
    assert len(work.begun) == 4
    work.end()
    assert work.handed == list(range(12))


def test_a_thread_is_started_only_when_nobody_is_free() -> None:
    work = Work(4)

    for number in range(5):
        work.ask(number)
        work.let(number)
        until(lambda wanted=number: len(work.handed) == wanted + 1)  # type: ignore[misc]
        until(lambda: work.pipeline._idle == 1)

    assert work.pipeline._workers == 1
    work.end()


@pytest.mark.parametrize("refused", [1, 2])
def test_a_system_without_a_thread_to_give_costs_none_for_good(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    work, begin, starts = Work(2), threading.Thread.start, 0

    def start(thread: threading.Thread) -> None:
        nonlocal starts
        starts += 1
        if starts == refused:
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    work.ask(0, 1, 2)

    until(lambda: len(work.begun) == 2)
    work.end()
    assert work.handed == [0, 1, 2]


def test_an_input_that_fails_has_no_result_and_harms_no_other() -> None:
    work = Work(2)
    work.failing = {1, 2}
    work.ask(0, 1, 2, 3)
    work.end()

    assert work.handed == [0, 3]


def test_a_hand_over_that_fails_harms_no_other() -> None:
    handed: list[int] = []

    def hand(number: int) -> None:
        if number == 1:
            raise OSError("full")
        handed.append(number)

    pipeline: Pipeline[int] = Pipeline("work", lambda number: lambda: hand(number), 2)
    for number in range(4):
        pipeline.put(number)
    pipeline.start()
    pipeline.finish()

    assert pipeline.join(LIMIT_S) == 0
    assert handed == [0, 2, 3]


def test_says_what_is_left_when_it_has_to_end() -> None:
    work = Work(2)
    work.ask(*range(5))
    until(lambda: len(work.begun) == 2)

    work.pipeline.finish()

    assert work.pipeline.join(0.05) == 3
    work.end()


@settings(max_examples=30, deadline=None)
@given(parallel=st.integers(1, 5), pauses=st.lists(st.integers(0, 2), max_size=40), changes=st.lists(st.integers(1, 5)))
def test_no_result_overtakes_another_whatever_happens(parallel: int, pauses: list[int], changes: list[int]) -> None:
    handed: list[int] = []
    busy, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> Callable[[], object]:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(pauses[number] / 1000)
        with lock:
            busy -= 1
        return lambda: handed.append(number)

    pipeline: Pipeline[int] = Pipeline("work", work, parallel)
    pipeline.start()
    for number in range(len(pauses)):
        pipeline.put(number)
        if number < len(changes):
            pipeline.parallel = changes[number]
    pipeline.finish()

    assert pipeline.join(LIMIT_S) == 0
    assert handed == list(range(len(pauses)))
    assert most <= max([parallel, *changes])


def test_lanes_keep_their_order_and_one_without_room_holds_up_no_other() -> None:
    handed: list[str] = []
    room = {"a": False, "b": True}
    pipeline: Pipeline[str] = Pipeline(
        "work", lambda name: lambda: handed.append(name), 2, lambda lane: room[str(lane)]
    )
    for name in ("a1", "b1", "a2", "b2"):
        pipeline.put(name, name[0])
    pipeline.start()

    until(lambda: handed == ["b1", "b2"])
    assert (pipeline.waiting_in("a"), pipeline.waiting_in("b"), pipeline.waiting_in("c")) == (2, 0, 0)
    room["a"] = True
    pipeline.finish()

    assert pipeline.join(LIMIT_S) == 0
    assert handed == ["b1", "b2", "a1", "a2"]


def test_a_hand_over_that_blocks_stops_its_lane_alone() -> None:
    gate, handed = threading.Event(), list[str]()

    def hand(name: str) -> None:
        assert name != "a1" or gate.wait(LIMIT_S)
        handed.append(name)

    pipeline: Pipeline[str] = Pipeline("work", lambda name: lambda: hand(name), 2)
    pipeline.start()
    for name in ("a1", "a2", "b1", "b2"):
        pipeline.put(name, name[0])

    until(lambda: handed == ["b1", "b2"])
    gate.set()
    pipeline.finish()

    assert pipeline.join(LIMIT_S) == 0
    assert handed == ["b1", "b2", "a1", "a2"]


def groups(system: Path, own: str, limits: dict[str, str]) -> Path:
    """A file system that tells the control groups."""
    (system / "proc/self").mkdir(parents=True)
    (system / "proc/self/cgroup").write_text(own)
    for name, content in limits.items():
        file = system / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return system


@pytest.mark.parametrize(
    ("own", "limits", "share"),
    [
        ("0::/\n", {}, None),
        ("0::/a.slice/b.service\n", {"a.slice/b.service/cpu.max": "max 100000\n"}, None),
        ("0::/a.slice/b.service\n", {"a.slice/b.service/cpu.max": "100000 100000\n"}, 1),
        # The parent's quota holds, too; half a core is one thread.
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "50000 100000\n"}, 1),
        # In a container with a namespace of its own the group is the root.
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1),
        ("3:cpu,cpuacct:/x\n0::/\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "100000\n",
                                      "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 1),
        ("1:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, None),
        ("2:cpuset:/x\n", {"cpuset/x/cpu.cfs_quota_us": "1\n", "cpuset/x/cpu.cfs_period_us": "100000\n"}, None),
        ("nonsense\n\n:::\n", {"cpu.max": "many of them\n"}, None),
        ("0::/x\n", {"x/cpu.max": "100000 0\n"}, None),
    ],
)  # fmt: skip
def test_a_quota_is_kept(tmp_path: Path, own: str, limits: dict[str, str], share: int | None) -> None:
    mask = len(os.sched_getaffinity(0))

    assert cores(groups(tmp_path, own, limits)) == min(mask, share or mask)


def test_a_mask_is_kept() -> None:
    code = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}});"
    code += "from edge_component.process import cores; print(cores())"
    paths = os.environ | {"PYTHONPATH": str(ROOT / "edge_assets" / "inference")}
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=paths
    )

    assert shown.stdout.strip() == "1"


def test_the_runtimes_threads_stay_within_the_mask(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "package")
    code = f"""
import os
from functools import partial
from pathlib import Path
from edge_inference.models.runtime import Running, load
from edge_inference.models.store import load_workload
os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})
before = len(os.listdir("/proc/self/task"))
model = load_workload(Path({str(folder)!r}), partial(load, running=Running(3)))
tasks = os.listdir("/proc/self/task")
print(len(tasks) - before, *sorted({{str(os.sched_getaffinity(int(task))) for task in tasks}}))
"""
    paths = os.environ | {"PYTHONPATH": str(ROOT / "edge_assets" / "inference")}
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=paths
    )

    assert shown.stdout.strip() == f"2 {{{min(os.sched_getaffinity(0))}}}"
