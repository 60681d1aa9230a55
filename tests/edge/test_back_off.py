"""Pauses between attempts."""

from edge_component import BackOff


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    back_off = BackOff(1, 8)

    steps = [back_off.pause_s() for _ in range(6)]
    back_off.reset()

    for pause_s, step_s in zip([*steps, back_off.pause_s()], (1, 2, 4, 8, 8, 8, 1), strict=True):
        assert step_s / 2 <= pause_s <= step_s


def test_a_fleet_that_fails_in_the_same_moment_does_not_knock_in_step() -> None:
    pauses = [BackOff(1, 8).pause_s() for _ in range(1000)]

    # Spread over the second half of the step, no tenth of which is empty or crowded.
    tenths = [sum(0.5 + tenth / 20 <= pause_s < 0.55 + tenth / 20 for pause_s in pauses) for tenth in range(10)]
    assert min(tenths) > 30
    assert max(tenths) < 200
