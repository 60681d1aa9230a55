"""The model that is in use, and the pointer file that says which one should be."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from edge_component import BackOff
from edge_component.process import free_bytes
from edge_inference.messages import Prediction, Request
from edge_inference.models.integrity import SigningKey, read_file
from edge_inference.models.package import (
    MANIFEST,
    MEMORY_FACTOR,
    TENSORS,
    ModelPackage,
    ModelPackageError,
    declared,
    open_package,
)
from edge_inference.models.runtime import ON_ONE_THREAD, ModelRuntime, Running, RuntimeLoader
from edge_inference.models.workloads import (
    ImageClassifier,
    ObjectDetector,
    TabularClassifier,
    TensorModel,
    load_samples,
)

log = logging.getLogger(__name__)

POINTER_BYTES = 4096
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


class Workload(Protocol):
    """A model that answers requests; safe to use from several threads."""

    @property
    def package(self) -> ModelPackage:
        """Where it came from."""
        ...

    @property
    def runtime(self) -> ModelRuntime:
        """Runs it."""
        ...

    def predict(self, request: Request, count: int) -> Prediction:
        """Answer a request.

        Args:
            request: What to predict for.
            count: How many labels to name at most.

        Returns:
            The prediction.

        Raises:
            RequestError: The request is not one that this model can answer.
            ValueError: The model's output is not finite.
        """
        ...

    def warm_up(self) -> None:
        """Run the model once, so that the first request pays for nothing.

        Raises:
            ModelPackageError: The model fails, or its output has another shape than declared or is not finite.
        """
        ...


@dataclass(frozen=True)
class Served:
    """What a package must be to be served: a signature says who packed it, not what for.

    Args:
        model: Name of the model.
        component: Component that brings it; its folder on the device is named after the version.
    """

    model: str
    component: str

    def check(self, package: ModelPackage) -> None:
        """Compare.

        Raises:
            ModelPackageError: It is another model's package, or another version than the deployment's.
        """
        manifest = package.folder / MANIFEST
        # The stages name a package as its component, which ends with it.
        names = (self.model, self.component.rpartition(".")[2])
        if package.name not in names:
            raise ModelPackageError(
                f"{manifest}: name must be {' or '.join(dict.fromkeys(names))}, the served model's, got {package.name}"
            )
        parts = package.folder.parts
        if self.component in parts[:-1]:
            version = parts[len(parts) - 1 - parts[::-1].index(self.component) + 1]
            if package.version != version:
                raise ModelPackageError(
                    f"{manifest}: version must be {version}, that of the component's folder, got {package.version}"
                )


def load_workload(
    folder: Path, load_runtime: RuntimeLoader, key: SigningKey | None = None, served: Served | None = None
) -> Workload:
    """Verify, load and warm a model.

    Args:
        folder: The unpacked package.
        load_runtime: Makes a runtime of a verified package.
        key: Must have signed the package; None, the default, leaves it at the digests.
        served: What it is to be served as; None, the default, takes any.

    Returns:
        A model that has run once.

    Raises:
        ModelPackageError: Any part of it is not usable.
    """
    package = open_package(folder, key)
    if package.signed:
        log.info("%s: signature verified", package.folder)
    else:
        log.warning("%s: signature not checked, digests only: no signingKey is configured", package.folder)
    try:
        if served is not None:
            served.check(package)
        workload = _workload(package, load_runtime)
    finally:
        package.contents.drop()
    workload.warm_up()
    return workload


def _workload(package: ModelPackage, load_runtime: RuntimeLoader) -> Workload:
    runtime = load_runtime(package)
    if package.task == TENSORS:
        return TensorModel(package, runtime)
    if package.preprocessing is None:
        return TabularClassifier(package, runtime, load_samples(package))
    if package.detection is not None:
        return ObjectDetector(package, runtime, load_samples(package), package.preprocessing, package.detection)
    return ImageClassifier(package, runtime, load_samples(package), package.preprocessing)


class Candidate(NamedTuple):
    """A model that is not approved yet, beside the one in use.

    Args:
        model: Loaded and warm; None where it takes more memory than it may.
        current: Version of the model in use.
        version: Its own.
        memory_mb: By how much the process has grown with it, or what its files have, where they alone are too much.
    """

    model: Workload | None
    current: str
    version: str
    memory_mb: float


class ModelStore:
    """Keeps one model ready: a new one is loaded and warmed beside it, and takes over only when it works.

    Where versions must be approved, one that is not becomes the candidate, and the model in use goes on. It is copied,
    because a nucleus may take away the package that no deployment names any more: after a restart it is found there.

    `refresh` is for one thread; everything else for any.

    Args:
        pointer: File in the model component's work folder, holding the path of the unpacked package.
        load: Verifies, loads and warms a package, to be run in a way.
        clock: Monotonic seconds.
        copies: Folder for the copy of the model in use; without one, the default, none is kept.
        resident_mb: Memory of the process.
        free_bytes: Memory that is left on the device.
    """

    def __init__(
        self,
        pointer: Path,
        load: Callable[[Path, Running], Workload],
        clock: Callable[[], float] = time.monotonic,
        *,
        copies: Path | None = None,
        resident_mb: Callable[[], float] = lambda: 0.0,
        free_bytes: Callable[[], int] = free_bytes,
    ) -> None:
        self._pointer = pointer
        self._load = load
        self._clock = clock
        self._copies = copies
        self._resident_mb = resident_mb
        self._free_bytes = free_bytes
        self._approved, self._limit_mb = "", 0
        self._ready = threading.Condition()
        #: Compared with the model in use; None without one.
        self.candidate: Candidate | None = None
        #: In use; None before the first one.
        self.model: Workload | None = None
        self._problem = f"{pointer} does not exist yet: is the model's component deployed?"
        self._seen: tuple[str, int, Running] | None = None
        self._retry_at: float | None = None
        # Made or loaded by this process: one that a former process has left may be damaged.
        self._copied: Path | None = None
        self._back_off = BackOff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self.loads = 0
        self.failed_loads = 0

    @property
    def version(self) -> str | None:
        """Version of the model in use; None before the first one."""
        model = self.model
        return model.package.version if model else None

    @property
    def problem(self) -> str:
        """Why the model that the pointer names is not in use; empty when it is."""
        return self._problem

    def wait(self, until: float) -> Workload | None:
        """Get the model, waiting for the first one.

        Args:
            until: When to give up, on the store's clock.

        Returns:
            The model in use, or None when there is none yet.
        """
        with self._ready:
            while self.model is None and (remaining_s := until - self._clock()) > 0:
                self._ready.wait(remaining_s)
            return self.model

    def refresh(self, running: Running = ON_ONE_THREAD, approved: str = "", limit_mb: int = 0) -> None:
        """Follow the pointer file: load what it names if that is new, or if it failed and its pause is over.

        Args:
            running: How it is to be run; another way than before loads the model anew.
            approved: The version that may be in use; another one becomes the candidate. By default every one may.
            limit_mb: Memory that a candidate may take; 0 for any.
        """
        if limit_mb != self._limit_mb and self.candidate is not None and self.candidate.model is None:
            self._seen = None  # it may fit now
        self._limit_mb = limit_mb
        if approved != self._approved:
            self._approve(approved)
        if approved and self.model is None and self._seen is None and self._clock() >= (self._retry_at or 0):
            self._resume(running)
        pointed = self._read_pointer()
        if pointed is None:
            return
        found = (*pointed, running)
        changed = found != self._seen
        if not changed and (self._retry_at is None or self._clock() < self._retry_at):
            return
        if changed:
            self._back_off.reset()
        if self.candidate is not None and self._seen and self._seen[2] != running:
            # The pointer does not name the model in use, which is to be run in another way, too.
            self._resume(running)
        self._seen = found
        self._replace(Path(found[0]), running)

    def _read_pointer(self) -> tuple[str, int] | None:
        """Read the pointer with the time of its writing: the same path may name a package that was repaired."""
        try:
            written = self._pointer.stat().st_mtime_ns
            content = read_file(self._pointer, POINTER_BYTES)[:POINTER_BYTES].decode(errors="replace").strip()
        except OSError as exc:
            if self.model is None:
                self._problem = f"{self._pointer} cannot be read: {exc.strerror}: is the model's component deployed?"
            return None
        return (content, written)

    def _approve(self, version: str) -> None:
        """Let what the pointer names take over, where it is the candidate and is that version."""
        self._approved = version
        if self.candidate is not None and version in ("", self.candidate.version):
            model = self.candidate.model
            if model is not None:
                self._take(model, f"approved, version before: {self.version}")
            else:
                self._seen = None  # it was too large to stay beside the other one: it is loaded in its place
        elif self.model is not None and version:
            self._copy(self.model.package.folder, self.model.package.version)
        if not version and self._copies is not None:
            shutil.rmtree(self._copies, ignore_errors=True)

    def _resume(self, running: Running) -> None:
        """Load the model in use from its copy: the pointer may name one that is not approved."""
        for folder in self._copies.glob("*/*") if self._copies is not None else ():
            if folder.parent.name.startswith("."):
                continue
            try:
                self._take(self._load(folder, running), "as before")
            except Exception as exc:  # noqa: BLE001 - whatever is wrong with the copy, the pointer names a model
                log.error("the copy of the model in use is of no use: %s", exc)
                self._retry_at = self._clock() + self._back_off.pause_s()
            return

    def _copy(self, folder: Path, version: str) -> None:
        """Keep the model in use, and no other one."""
        if self._copies is None:
            return
        if self._copies in folder.parents:
            self._copied = folder
            return
        wanted, new = self._copies / version / folder.name, self._copies / ".new"
        try:
            if wanted == self._copied and wanted.is_dir():
                return
            shutil.rmtree(self._copies, ignore_errors=True)
            shutil.copytree(folder, new / folder.name)
            new.rename(wanted.parent)
            self._copied = wanted
        except OSError as exc:
            log.error("the model in use is not copied, and a restart takes the candidate for it: %s", exc)
            with suppress(OSError):
                shutil.rmtree(new)

    def _take(self, model: Workload, how: str) -> None:
        with self._ready:
            self.model = model
            self.candidate = None
            self.loads += 1
            self._problem = ""
            self._retry_at = None
            self._ready.notify_all()
        package = model.package
        log.info("model %s %s in use, %s", package.name, package.version, how)
        if self._approved:
            self._copy(package.folder, package.version)

    def _set_aside(self, model: Workload | None, current: str, version: str, memory_mb: float) -> None:
        fits = not self._limit_mb or memory_mb <= self._limit_mb
        self.candidate = Candidate(model if fits else None, current, version, memory_mb)
        self._problem, self._retry_at = "", None
        what = "is compared with" if fits else f"takes {memory_mb:.0f} MB of {self._limit_mb} and is not run beside"
        log.info("candidate %s %s version %s", version, what, current)

    def _is_too_large(self, folder: Path, current: str) -> bool:
        """Set a candidate aside that cannot be loaded within its limit: its files are in memory then, or as large."""
        version, size = declared(folder)
        if version in ("", self._approved, current):
            return False
        if self._limit_mb and size > self._limit_mb * 1e6:
            self._set_aside(None, current, version, size / 1e6)
            return True
        if (needed := size * MEMORY_FACTOR) > (free := self._free_bytes()):
            # What is in use must not be ended for what is not: tried again later.
            raise ModelPackageError(f"{folder} needs about {needed} bytes of memory to be compared, {free} are free")
        return False

    def _replace(self, folder: Path, running: Running) -> None:
        started, before_mb, current = self._clock(), self._resident_mb(), self.version
        try:
            if self._approved and current is not None and self._is_too_large(folder, current):
                return
            model = self._load(folder, running)
        except Exception as exc:
            # Whatever is wrong with a new model, the one in use must go on.
            self.failed_loads += 1
            self._problem = str(exc) or type(exc).__name__
            pause_s = self._back_off.pause_s()
            self._retry_at = self._clock() + pause_s
            log.error(
                "model not taken, version in use: %s, next attempt in %.1f s: %s",
                current or "none",
                pause_s,
                self._problem,
                exc_info=not isinstance(exc, ModelPackageError),
            )
            return
        version = model.package.version
        if self._approved and current is not None and version not in (self._approved, current):
            self._set_aside(model, current, version, max(0.0, self._resident_mb() - before_mb))
            return
        self._take(model, f"loaded in {self._clock() - started:.3f} s")
