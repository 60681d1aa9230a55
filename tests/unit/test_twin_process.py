"""The twin's processes, also those that end while they are looked at."""

import subprocess
import sys

import psutil

from twin.process import end_processes, heads, with_descendants

PARENT = "import subprocess, sys; child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); child.wait()"


def test_a_process_that_has_ended_is_no_head_and_stops_nobody_from_finding_the_others() -> None:
    ended = subprocess.Popen(["sleep", "60"])
    gone = psutil.Process(ended.pid)
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        family = [*with_descendants([psutil.Process(parent.pid)]), gone]
        ended.kill()
        ended.wait()

        assert {member.pid for member in family} == {parent.pid, child, ended.pid}
        assert [head.pid for head in heads(family)] == [parent.pid]

        assert end_processes(family, term_s=5) == []
