"""What a test waits for comes soon, but a busy machine may need long: no wait of the tests gives up early."""

import re

from tools.locks import ROOT

LEAST_S = 30
#: Waits that end as soon as something has come. What must not come is no such wait, and has a fraction of a second.
WAITS = re.compile(
    r"(?:monotonic\(\) (?:\+|- \w+ <) |\.(?:wait|join|timeout|settimeout)\(|\.get\(timeout=|\blimit_s: float = |"
    r"\.(?:result|drain|communicate)\((?:timeout=)?)"
    r"([1-9][0-9]*(?:\.[0-9]+)?)\b(?!\.)"
)


def impatient(text: str) -> list[str]:
    return [found[0] for found in WAITS.finditer(text) if float(found[1]) < LEAST_S]


def test_no_wait_of_a_test_gives_up_within_half_a_minute() -> None:
    early = [
        f"{file.relative_to(ROOT)}:{number}: {wait}"
        for file in sorted((ROOT / "tests").rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        for wait in impatient(line)
    ]

    assert not early, f"a wait lasts at least {LEAST_S} s, so that a busy machine passes, too: {early}"


def test_short_waits_are_found() -> None:
    assert impatient("process." + "wait(10)") == [".wait(" + "10"]
    assert impatient("future.result" + "(timeout=5)") == [".result(timeout=" + "5"]
    assert impatient("deadline = time.monotonic() + " + "5") == ["monotonic() + " + "5"]
    assert impatient("assert time.monotonic() - " + "began < 5") == ["monotonic() - " + "began < 5"]
    assert not impatient("process.wait(30)")
    assert not impatient("waits.wait(0.1)")
