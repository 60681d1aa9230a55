"""The live page in a real browser: the demo's deploy watched, a digit drawn, a device killed. In this order."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from config.loader import load_stage
from config.names import Names
from tests.device_processes import device_pid
from tools.fleet_page import of_account
from tools.offline_deploy import OfflineDeploy
from tools.screenshots import HOW, Browser, browser, find, page_of
from twin import TwinError, lifecycle
from twin.operator import OperatorClient
from twin.page import parts
from twin.page.fleet import Fleet, View
from twin.state import TwinState

CHROMIUM = find()
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason=HOW),
]
NAMES = Names("twin")
DEVICE = NAMES.edge_server
LONGEST_MS = 50  # of processor time: a task that takes longer is felt


@dataclass
class Live:
    """A twin, its page, and a browser that looks at it."""

    state: TwinState
    url: str
    browser: Browser
    out: Path

    def row(self, *words: str) -> str:
        """An expression: the device's row has all these words."""
        text = f"document.getElementById('d-{DEVICE}')?.innerText ?? ''"
        return " && ".join(f"({text}).toLowerCase().includes({json.dumps(word)})" for word in words)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("page")
    state = lifecycle.start(folder / "twin")
    try:
        with page_of(state.home) as (url, _pid), browser(str(CHROMIUM)) as chromium:
            yield Live(state, url, chromium, folder / "out")
    finally:
        lifecycle.stop(state.home)


def test_stacks_that_change_are_shown_unless_the_reader_closed_their_list(live: Live) -> None:
    live.browser.do("open", url=live.url)
    here = "document.createElement('div')"  # the page's server sends nothing for it
    live.browser.do("evaluate", code=f"document.querySelector('main').prepend(Object.assign({here}, {{ id: 'here' }}))")

    def shown(status: str) -> bool:
        html = parts.rollout(View(stacks=(("edgewright-twin-storage", status, 1.0, ""),)))
        live.browser.do("evaluate", code=f"take('here', {json.dumps(html)})")
        return bool(live.browser.do("evaluate", code="document.querySelector('#here details').open"))

    assert not shown("CREATE_COMPLETE"), "a page that is opened before a deploy begins with a settled list"
    assert shown("UPDATE_IN_PROGRESS")
    assert shown("UPDATE_COMPLETE"), "what is read is not closed between two stacks"
    live.browser.do("click", on="#here summary")
    assert not shown("UPDATE_IN_PROGRESS")
    live.browser.do("click", on="#here summary")
    assert shown("UPDATE_COMPLETE")


def test_the_demos_deploy_is_watched_as_it_goes(live: Live) -> None:
    deploy = OfflineDeploy(environment=live.state.environment(), out=live.out)
    live.browser.do("open", url=live.url)
    live.browser.wait("document.getElementById('live').textContent === 'live'")
    assert "Nothing of the stage is deployed" in live.browser.do("text", on="#rollout")

    def run() -> None:
        deploy.synth()
        deploy.bootstrap()
        deploy.deploy()

    running = threading.Thread(target=run)
    running.start()
    live.browser.wait(
        "[...document.querySelectorAll('#rollout li')].some((each) => /in progress/i.test(each.innerText))", 200
    )
    live.browser.wait(live.row("healthy", "succeeded", "2.6.0 lite"), 300)
    running.join(200)
    live.browser.wait("/all settled/.test(document.getElementById('rollout').innerText)")

    assert "Ring all" in live.browser.do("text", on="#r-all")
    assert "1 succeeded" in live.browser.do("text", on="#r-all")
    live.browser.wait("/of 13 alarms are OK/.test(document.getElementById('alarms').innerText)")
    assert live.browser.do("problems") == []


def test_the_page_over_aws_sees_the_same_by_the_same_calls(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in live.state.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # an earlier test's has the keys of another twin

    source = of_account(boto3.Session(), load_stage("twin"))
    fleet = Fleet(source)
    try:
        view = fleet.look()
        lines = fleet.log(next(group for group in fleet.log_groups() if "HealthHandlerLog" in group))
    finally:
        fleet.close()

    assert view.trouble == ""
    assert [(device.thing, device.ring, device.status) for device in view.devices] == [(DEVICE, "all", "HEALTHY")]
    assert "RUNNING" in [component.state for component in view.devices[0].components]
    assert [rollout.ring for rollout in view.rollouts] == ["canary", "early", "all"]
    assert {status for _, status, _, _ in view.stacks} <= {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
    assert len(view.alarms) == 13
    assert lines
    assert NAMES.iot_policy in source.left()["IoT policies"]


def test_a_drawn_digit_is_answered_and_shown_with_its_picture(live: Live) -> None:
    live.browser.do("open", url=live.url)
    circle = [(0.5 + 0.22 * math.sin(at / 4), 0.5 - 0.36 * math.cos(at / 4)) for at in range(26)]
    live.browser.do("draw", on="#pad", strokes=[circle])

    live.browser.do("click", on="#ask button.main")
    live.browser.wait("/says/.test(document.getElementById('answer').innerText)")

    assert f"{DEVICE} says 0 (" in live.browser.do("text", on="#answer")
    drawn = "[...document.querySelectorAll('#predictions li[id]')].find((each) => /digits/.test(each.innerText))"
    # A picture that the device looks at by itself may come first.
    live.browser.wait(f"({drawn})?.querySelector('img').naturalWidth === 64")
    assert live.browser.do("evaluate", code=f"({drawn}).querySelector('b').innerText") == "0"


def test_a_row_and_a_sample_are_asked_by_keyboard(live: Live) -> None:
    live.browser.do("open", url=live.url)
    live.browser.do("choose", on="#ask-model", value="iris")
    assert not live.browser.do("evaluate", code="document.getElementById('ask-row').closest('div').hidden")
    live.browser.do(
        "fill",
        on="#ask-row",
        value='{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}',
    )
    live.browser.do("evaluate", code="document.getElementById('ask-row').focus()")
    live.browser.do("press", key="Tab")
    live.browser.do("press", key="Enter")
    live.browser.wait("/says setosa/.test(document.getElementById('answer').innerText)")

    live.browser.do("fill", on="#ask-row", value="{")
    live.browser.do("click", on="#ask button.main")
    live.browser.wait("/must be JSON/.test(document.getElementById('answer').innerText)")


def test_a_killed_device_is_seen_and_comes_back(live: Live) -> None:
    live.browser.do("open", url=live.url)
    before = device_pid(live.state.home)
    live.browser.wait(live.row("healthy"))
    seen = f"window.words.add(document.getElementById('d-{DEVICE}').innerText.toLowerCase())"
    changes = "{subtree: true, childList: true, characterData: true}"
    observe = f"new MutationObserver(() => {seen}).observe(document.getElementById('devices'), {changes})"
    live.browser.do("evaluate", code=f"(() => {{ window.words = new Set(); {observe}; }})()")

    live.browser.do("choose", on="#fault-name", value="kill")
    live.browser.do("click", on="#fault button.main")
    live.browser.wait("/was killed/.test(document.getElementById('done').innerText)")
    live.browser.wait("[...window.words].some((each) => each.includes('not running'))")
    live.browser.wait(f"!({live.row('not running')}) && {live.row('healthy')}")

    assert device_pid(live.state.home) not in (None, before)


def test_a_cut_network_is_seen_and_comes_back(live: Live) -> None:
    live.browser.do("open", url=live.url)
    live.browser.do("choose", on="#fault-name", value="cut-network")
    live.browser.do("click", on="#fault button.main")
    live.browser.wait(live.row("cut off"))

    live.browser.do("choose", on="#fault-name", value="restore-network")
    live.browser.do("click", on="#fault button.main")
    live.browser.wait(f"!({live.row('cut off')})")
    with OperatorClient(live.state) as operator:
        deadline = time.monotonic() + 90
        while True:
            try:
                operator.request(
                    NAMES.request_topic("digits"), {"index": 1}, NAMES.response_topic("digits"), timeout_s=2
                )
                break
            except TwinError:
                assert time.monotonic() < deadline


def test_a_thousand_messages_do_not_slow_the_page(live: Live) -> None:
    live.browser.do("open", url=live.url)
    live.browser.wait("document.getElementById('live').textContent === 'live'")
    live.browser.wait("document.querySelectorAll('#plots canvas').length === 3")
    count = "Number([...document.querySelectorAll('#glance div')].at(-1).querySelector('dd').innerText)"
    before = live.browser.do("evaluate", code=count)
    live.browser.do("trace")

    with OperatorClient(live.state) as operator, operator.listen(NAMES.response_topic("digits")) as heard:
        for number in range(1000):
            request = json.dumps({"request_id": f"many-{number}", "index": number % 200}).encode()
            operator.publish(NAMES.request_topic("digits"), request)
        answered = 0
        deadline = time.monotonic() + 90
        while answered < 1000:
            answered += json.loads(heard.get(timeout=max(1, deadline - time.monotonic())))["request_id"].startswith(
                "many-"
            )
    live.browser.wait(f"{count} >= {before} + 1000")

    tasks = live.browser.do("tasks")
    assert len(tasks) == 5
    assert [each for each in tasks if each["ms"] > LONGEST_MS] == []
    assert live.browser.do("evaluate", code="document.querySelectorAll('#predictions > li').length") == 24
    assert live.browser.do("problems") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_is_accessible_and_fits_its_window(live: Live, width: int, scheme: str) -> None:
    live.browser.do("open", url=live.url, width=width, scheme=scheme)
    live.browser.wait("document.querySelectorAll('#plots canvas').length === 3")
    live.browser.do("evaluate", code="document.querySelectorAll('details').forEach((each) => { each.open = true; })")

    assert live.browser.do("axe") == []
    outside = (
        "[...document.querySelectorAll('body *')].filter((each) => each.getBoundingClientRect().right > innerWidth + 1)"
    )
    assert live.browser.do("evaluate", code=f"{outside}.map((each) => each.outerHTML.slice(0, 200))") == []
    assert live.browser.do("problems") == []


def test_logs_and_what_a_destroy_takes_away_are_accessible_pages(live: Live) -> None:
    live.browser.do("open", url=live.url)
    live.browser.do("choose", on="#log-name", value=f"{DEVICE}/core_device")
    live.browser.do("click", on="nav button")
    live.browser.wait("/connected to/.test(document.querySelector('.log')?.innerText)")
    assert live.browser.do("axe") == []

    live.browser.do("open", url=f"{live.url}destroy")
    live.browser.wait(f"document.body.innerText.includes('{NAMES.thing_group}')")
    assert live.browser.do("axe") == []


def test_without_javascript_the_tables_are_there(live: Live) -> None:
    live.browser.do("open", url=live.url, script=False)

    text = live.browser.do("text", on="body")
    for words in (DEVICE, "Ring all", "alarms are OK", "Without JavaScript"):
        assert words in text
    assert "Clear" not in text


def test_when_the_twin_ends_the_page_says_so_and_goes_on_with_the_next(live: Live) -> None:
    live.browser.do("open", url=live.url)
    os.kill(live.state.pid, signal.SIGKILL)
    live.browser.wait("/does not answer|has ended/.test(document.getElementById('trouble').innerText)")

    lifecycle.start(live.state.home)
    live.browser.wait("document.getElementById('trouble').innerText === ''", 110)
    live.browser.do("choose", on="#ask-model", value="digits")
    live.browser.do("click", on="#ask input[value=sample]")
    live.browser.do("click", on="#ask button.main")
    live.browser.wait("/says/.test(document.getElementById('answer').innerText)")
