"""A component's process: the environment that it follows, its memory, and that it ends with its own exit code."""

import ctypes
import errno
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_component import process
from edge_component.process import EndBudget, EnvironmentPointer
from tests.edge.model_folder import DIGITS, ROOT, point

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LOADING = f"""
import threading, time
import onnxruntime
from edge_component import process

def load():
    while True:
        onnxruntime.InferenceSession({str(DIGITS / "model.onnx")!r}, providers=["CPUExecutionProvider"])

def main():
    threading.Thread(target=load, daemon=True).start()
    time.sleep(0.2)
    return 3

process.run(main)
"""


def run(code: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "edge_assets" / "inference")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.timeout(180)
def test_ends_with_its_own_code_while_a_model_is_being_loaded() -> None:
    # With Python's own ending three of ten are aborted.
    assert [run(LOADING).returncode for _ in range(10)] == [3] * 10


def test_tells_an_error_that_nobody_expected_and_ends_with_1() -> None:
    ended = run("from edge_component import process\nprocess.run(lambda: 1 // 0)")

    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr


def test_what_was_printed_arrives() -> None:
    ended = run("from edge_component import process\nprocess.run(lambda: print('told') or 0)")

    assert (ended.returncode, ended.stdout) == (0, "told\n")


def test_a_wrong_command_line_ends_as_argparse_says(tmp_path: Path) -> None:
    code = "import sys\nfrom edge_component import process\nprocess.run(lambda: sys.exit(2))"

    assert run(code).returncode == 2


def make_environment(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return make_environment(tmp_path / "venv-1")


def test_is_current_without_a_pointer_and_with_its_own(tmp_path: Path, old: Path) -> None:
    pointer = tmp_path / "current"
    assert not EnvironmentPointer(None, old).is_outdated()
    assert not EnvironmentPointer(pointer, old).is_outdated()

    point(pointer, old)

    assert not EnvironmentPointer(pointer, old).is_outdated()


def test_is_outdated_once_the_pointer_names_another_complete_environment(tmp_path: Path, old: Path) -> None:
    pointer = tmp_path / "current"
    point(pointer, tmp_path / "venv-2")
    assert not EnvironmentPointer(pointer, old).is_outdated()

    make_environment(tmp_path / "venv-2")

    assert EnvironmentPointer(pointer, old).is_outdated()
    assert EnvironmentPointer(pointer, tmp_path / "gone").is_outdated()


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"/kept/\0/venv-2", b"\xff\xfe"])
def test_a_pointer_that_a_power_cut_has_damaged_is_as_good_as_none(tmp_path: Path, old: Path, content: bytes) -> None:
    (tmp_path / "current").write_bytes(content)

    assert not EnvironmentPointer(tmp_path / "current", old).is_outdated()


def test_restarts_the_same_command_in_the_new_environment(tmp_path: Path) -> None:
    new = make_environment(tmp_path / "venv-2")
    point(tmp_path / "current", new)
    code = (
        "import sys; from pathlib import Path; from edge_component.process import EndBudget, EnvironmentPointer\n"
        "print(sys.argv[1:], sys.executable, flush=True)\n"
        f"if sys.executable != {str(new / 'bin' / 'python')!r}: EnvironmentPointer(Path(sys.argv[1])).restart()\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "current")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "edge_assets" / "inference")},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    first, second = result.stdout.splitlines()
    assert first.split("] ")[0] == second.split("] ")[0]
    assert second.endswith(f"{new}/bin/python")


def test_what_was_imported_is_frozen_once_and_a_model_stays_visible() -> None:
    process.freeze.cache_clear()
    try:
        process.freeze()
        frozen = gc.get_freeze_count()
        model: list[list[int]] = [[] for _ in range(1000)]
        process.freeze()

        assert frozen > 1000
        assert gc.get_freeze_count() <= frozen
        assert gc.is_tracked(model)
    finally:
        gc.unfreeze()


def test_without_glibc_nothing_is_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(_name: object) -> object:
        raise OSError("no such library")

    process._library_call.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", without)

    process.trim()
    process.release_code()

    process._library_call.cache_clear()


def said(program: str) -> str:
    """What a program says that runs in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "edge_assets" / "inference")}
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=True
    ).stdout.strip()


RELEASING = """
import re
import numpy, onnxruntime
from edge_component import process

def resident_kb():
    with open("/proc/self/smaps_rollup") as table:
        return int(re.search(r"Rss: +([0-9]+)", table.read())[1])

before = resident_kb()
process.release_code()
print(before - resident_kb())
print(numpy.dot(numpy.arange(3), numpy.arange(3)))
process.release_code()
print(numpy.linalg.inv(numpy.eye(2)).sum())
"""


@linux_only
def test_code_of_libraries_leaves_memory_and_runs_again() -> None:
    released_kb, product, total = said(RELEASING).split()

    assert int(released_kb) > 10_000
    assert (product, total) == ("5", "2.0")


LOADED_MEANWHILE = """
import _ctypes, glob, os, sysconfig, threading
from edge_component import process

folder = os.path.join(sysconfig.get_paths()["platstdlib"], "lib-dynload")
files = sorted(glob.glob(os.path.join(folder, "*.so"))) + sorted(glob.glob(os.path.join(
    sysconfig.get_paths()["platlib"], "numpy.libs", "*.so*")))
assert files
ended = threading.Event()

def load(files):
    while not ended.is_set():
        for handle in [_ctypes.dlopen(file, 1) for file in files]:
            _ctypes.dlclose(handle)

threads = [threading.Thread(target=load, args=(files[half::2],)) for half in (0, 1)]
for thread in threads:
    thread.start()
for _ in range(60):
    process.release_code()
ended.set()
for thread in threads:
    thread.join()
print("whole")
"""

CHANGED = """
import ctypes, ctypes.util, mmap
from edge_component import process

library = ctypes.CDLL(ctypes.util.find_library("m"))
# A function that nobody calls, changed as a debugger changes it for a breakpoint.
address = ctypes.cast(library.ynf, ctypes.c_void_p).value
page = address // mmap.PAGESIZE * mmap.PAGESIZE
protect = ctypes.CDLL(None).mprotect
assert not protect(ctypes.c_void_p(page), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
ctypes.memset(address, 0xCC, 1)
assert not protect(ctypes.c_void_p(page), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
process.release_code()
print(ctypes.string_at(address, 1).hex())
"""


@linux_only
def test_code_that_was_changed_in_memory_stays_as_it_is() -> None:
    assert said(CHANGED) == "cc"


@linux_only
def test_libraries_that_are_loaded_meanwhile_stay_whole() -> None:
    """Two threads load and close libraries, one releases code: a page that is lost ends the process."""
    assert said(LOADED_MEANWHILE) == "whole"


MAPPING = """7f0000002000-7f0000004000 {rights} 00002000 fe:00 12                        /usr/lib/a b.so
Size:                  8 kB
Rss:                   {rss} kB
Pss:                   8 kB
Anonymous:             {anonymous} kB
Swap:                  {swap} kB
SwapPss:               0 kB
VmFlags:
"""


@pytest.mark.parametrize(
    ("rights", "rss", "anonymous", "swap", "released"),
    [
        ("r--p", 8, 0, 0, True),
        ("r--p", 8, 4, 0, False),  # relocated
        ("r--p", 4, 0, 4, False),  # relocated, and in part swapped out
        ("r--p", 0, 0, 8, False),
        ("r--p", 0, 0, 0, False),  # nothing to be had; an emulator that counts nothing
        ("rw-p", 8, 0, 0, False),
        ("r--s", 8, 0, 0, False),
    ],
)
def test_only_what_is_as_its_file_has_it_is_released(
    rights: str, rss: int, anonymous: int, swap: int, released: bool
) -> None:
    code = MAPPING.format(rights="r-xp", rss=8, anonymous=8, swap=0).replace("7f0000002000", "7f0000000000")
    other = MAPPING.format(rights=rights, rss=rss, anonymous=anonymous, swap=swap)

    found = process._unchanged_code(f"{code}{other}\n\u2028 x\n")

    assert found == ([(0x7F0000002000, 0x2000, "/usr/lib/a b.so")] if released else [])
    assert process._unchanged_code(other) == []  # data: the file has no code in memory
    assert process._unchanged_code("") == []


def test_a_component_ends_by_itself_twice_an_hour_at_most(tmp_path: Path) -> None:
    now = [1_000_000.0]

    def spend() -> bool:
        # As the next process does: what counts is in the file.
        return EndBudget(tmp_path / "ends", lambda: now[0]).spend()

    assert [spend(), spend(), spend()] == [True, True, False]
    now[0] += 3599
    assert not spend()
    now[0] += 2
    assert spend()


def test_a_clock_that_was_put_back_and_a_damaged_file_do_not_keep_a_component(tmp_path: Path) -> None:
    file = tmp_path / "ends"
    file.write_text("2000000.0\n2000001.0")
    assert EndBudget(file, lambda: 1_000_000.0).spend()
    file.write_text("nonsense")
    assert EndBudget(file).spend()


def test_a_full_disk_does_not_make_it_forget_the_ends_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, file = EndBudget(tmp_path / "ends", lambda: 1000.0), tmp_path / "ends"
    assert budget.spend()

    def full(path: Path, _text: str) -> int:
        path.open("w").close()  # emptied, then no room
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert not budget.spend()

    assert file.read_text() == "1000.0"
    assert [budget.spend(), budget.spend()] == [True, False]


def test_an_end_that_cannot_be_noted_does_not_come(tmp_path: Path) -> None:
    assert not EndBudget(tmp_path / "missing" / "ends").spend()


ARENAS = """
import ctypes, sys, threading
from edge_component import process

def main():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
    together = threading.Barrier(8)
    def take():
        together.wait()
        libc.malloc(1000)
        together.wait()
    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    return 0

process.run(main)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the heap is not glibc's")
def test_the_threads_of_a_component_share_two_arenas(tmp_path: Path) -> None:
    report = tmp_path / "heap.xml"

    environment = {**os.environ, "PYTHONPATH": str(ROOT / "edge_assets" / "inference")}
    subprocess.run([sys.executable, "-c", ARENAS, str(report)], env=environment, check=True, timeout=60)

    assert report.read_text().count("<heap nr=") == process.ARENAS
