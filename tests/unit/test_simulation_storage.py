"""What simulated devices note of a rollout, by the time of their model."""

from __future__ import annotations

from twin.simulation.storage import Entry, Ledger


def running(*components: str) -> Ledger:
    ledger = Ledger()
    for component in components:
        ledger.start(component, 0.5, deploying=True)
    ledger.begin(1)
    return ledger


def test_a_first_start_is_no_restart_and_one_that_ran_before_is_one() -> None:
    ledger = running("a")

    ledger.stop("a")
    ledger.start("a", 2.0, deploying=True)
    ledger.start("new", 2.0, deploying=True)

    assert ledger.entry({"a", "new"}) == Entry(1, restarts=1, took_s=3.0, down_s=2.0)


def test_a_restart_takes_the_time_of_its_install_step_and_its_start() -> None:
    ledger = running("a")

    ledger.receive(1_000)
    ledger.stop("a")
    ledger.reach(ledger.now_s + 40, deploying=True)
    ledger.start("a", 5.0, deploying=True)

    assert ledger.entry({"a"}) == Entry(1, 1_000, 1, took_s=45.0, down_s=45.0)


def test_components_that_are_down_together_count_once_in_whatever_order_they_come_back() -> None:
    ledger = running("a", "b", "c")

    for component in "abc":
        ledger.stop(component)
    ledger.reach(10, deploying=True)
    ledger.start("b", 1.0, deploying=True)  # 0 to 11
    ledger.reach(20, deploying=True)
    ledger.stop("b")
    ledger.start("b", 1.0, deploying=True)  # 20 to 21
    ledger.start("a", 5.0, deploying=True)  # 0 to 25

    assert ledger.entry({"a", "b"}).down_s == 25


def test_what_stays_down_is_named_by_its_beginning_and_what_is_gone_is_not_down() -> None:
    ledger = running("a", "b")

    ledger.reach(7, deploying=True)
    ledger.stop("a")
    ledger.stop("b")

    assert ledger.entry({"a"}).broken_at_s == 7
    assert ledger.entry(()).broken_at_s is None


def test_a_crash_after_the_deployment_is_no_part_of_it() -> None:
    ledger = running("a")

    ledger.stop("a")
    ledger.start("a", 1.0, deploying=True)
    ledger.reach(600, deploying=False)
    ledger.stop("a")
    ledger.start("a", 1.0, deploying=False)

    assert ledger.entry({"a"}) == Entry(1, restarts=2, took_s=3.0, down_s=2.0)


def test_a_crash_loop_for_days_keeps_its_sum_and_takes_no_more_room() -> None:
    ledger = running("a")

    for number in range(1, 5_000):
        ledger.reach(number * 60, deploying=False)
        ledger.stop("a")
        ledger.start("a", 1.0, deploying=False)

    assert ledger.entry({"a"}).down_s == 4_999
    assert len(ledger._gaps) <= 100
