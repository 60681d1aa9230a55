"""Work on several inputs at a time, whose results are handed on in the order of the inputs."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")
#: Hands a result on; None where there is nothing to hand on.
HandOver = Callable[[], object] | None
#: So many results may wait, for each that is worked on, behind one that takes longer.
AHEAD = 2
#: How soon a lane without room is asked again.
ROOM_POLL_S = 0.1


class _Lane(Generic[Item]):
    """Items whose results keep their order among themselves."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, Item]] = deque()
        self.results: dict[int, HandOver] = {}
        self.taken = self.handed = 0
        self.handing = False


class Pipeline(Generic[Item]):
    """Threads that take items from a queue, the oldest first; any method may be called from any thread.

    A thread is started when an item comes and nobody is free, so that a quiet model has one. What one thread has done
    is handed on by it, and of a lane by no two at the same time; a result that must wait for an earlier one is handed
    on by the thread that has that.

    Args:
        name: Of the threads.
        work: Turns an item into a hand-over. What it raises is logged, and its item has no result.
        parallel: How many items are worked on at a time.
        has_room: Tells whether a lane's results can be handed on; its items wait until then, those of others do not.
            All can by default.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Item], HandOver],
        parallel: int = 1,
        has_room: Callable[[Hashable], bool] = lambda _lane: True,
    ) -> None:
        self._name = name
        self._work = work
        self._parallel = parallel
        self._has_room = has_room
        self._changed = threading.Condition()
        self._lanes: dict[Hashable, _Lane[Item]] = {}
        self._put = self._workers = self._idle = 0
        self._started = self._finished = False

    @property
    def waiting(self) -> int:
        """How many items nobody works on yet."""
        return sum(len(lane.waiting) for lane in list(self._lanes.values()))

    def waiting_in(self, lane: Hashable) -> int:
        """How many of them there are in a lane."""
        found = self._lanes.get(lane)
        return len(found.waiting) if found else 0

    @property
    def is_quiet(self) -> bool:
        """Whether nothing waits, and all that was taken has been handed on."""
        return not any(lane.waiting or lane.taken > lane.handed for lane in list(self._lanes.values()))

    @property
    def parallel(self) -> int:
        """How many items are worked on at a time; may be changed at any time."""
        return self._parallel

    @parallel.setter
    def parallel(self, value: int) -> None:
        with self._changed:
            self._parallel = value
            self._employ()
            self._changed.notify_all()

    def put(self, item: Item, lane: Hashable = None) -> None:
        """Add an item; never blocks.

        Args:
            item: To be worked on.
            lane: Results of one lane are handed on in the order of their items.
        """
        with self._changed:
            self._lanes.setdefault(lane, _Lane()).waiting.append((self._put, item))
            self._put += 1
            self._employ()

    def start(self) -> None:
        """Begin with what waits."""
        with self._changed:
            self._started = True
            self._employ()

    def finish(self) -> None:
        """Let the threads end behind the last of the waiting items."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> int:
        """Wait for the threads after `finish`.

        Args:
            timeout_s: How long at most.

        Returns:
            How many items are left.
        """
        with self._changed:
            return 0 if self._changed.wait_for(lambda: not self._workers, max(timeout_s, 0)) else self.waiting

    def _employ(self) -> None:
        """See to it that somebody takes what waits."""
        if not self._started:
            return
        wanted = min(self.waiting, self._parallel - self._workers + self._idle)
        for _ in range(wanted - self._idle):
            name = f"{self._name}-{self._workers + 1}" if self._workers else self._name
            try:
                threading.Thread(target=self._run, name=name, daemon=True).start()
            except RuntimeError as exc:
                # What waits is taken by those that there are, or by one that the next item starts.
                log.error("%s: the system gives no thread: %s", self._name, exc)
                break
            self._workers += 1
        self._changed.notify(max(min(wanted, self._idle), 0))

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            lane, number, item = taken
            try:
                result = self._work(item)
            except Exception:
                log.exception("%s: an input has no result", self._name)
                result = None
            self._hand_over(lane, number, result)

    def _take(self) -> tuple[_Lane[Item], int, Item] | None:
        with self._changed:
            while True:
                waiting = [(name, lane) for name, lane in self._lanes.items() if lane.waiting]
                if self._workers > self._parallel or (self._finished and not waiting):
                    self._workers -= 1
                    self._changed.notify_all()
                    return None
                ahead = AHEAD * self._parallel
                free = [lane for name, lane in waiting if lane.taken - lane.handed < ahead and self._has_room(name)]
                if free:
                    lane = min(free, key=lambda each: each.waiting[0][0]) if len(free) > 1 else free[0]
                    number = lane.taken
                    lane.taken += 1
                    return lane, number, lane.waiting.popleft()[1]
                self._idle += 1
                self._changed.wait(ROOM_POLL_S if waiting else None)
                self._idle -= 1

    def _hand_over(self, lane: _Lane[Item], number: int, result: HandOver) -> None:
        with self._changed:
            lane.results[number] = result
            if lane.handing:
                return
            lane.handing = True
        while True:
            with self._changed:
                if lane.handed not in lane.results:
                    lane.handing = False
                    return
                result = lane.results.pop(lane.handed)
            try:
                if result is not None:
                    result()
            except Exception:
                log.exception("%s: a result is lost", self._name)
            with self._changed:
                lane.handed += 1
                if self._workers > 1:
                    self._changed.notify_all()  # who waited for room ahead
