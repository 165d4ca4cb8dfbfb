"""The trials of a search in one append-only file: asked and told through Optuna, resumable after any crash.

Several processes may share the file. What was queued before the first trial (the recommended recipe, the
portfolio, the quasi-random points) is queued once, whoever comes first; a trial whose process died is queued again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trivet.errors import RunError, require
from trivet.tuning.study import Attempt

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna import Trial
    from optuna.trial import FrozenTrial

    from trivet.tuning.space import Parameters, Space

__all__ = ["Trials"]

JOURNAL, LOCK, HEAD = "trials.log", "trials.lock", "search.json"
STUDY = "search"


class Trials:
    """Asks for parameters and tells what became of them.

    Raises `RunError` where the folder holds another search (other data, space or seed) or cannot be written.
    """

    def __init__(
        self, folder: Path, space: Space, asked: dict[str, object], *, higher_is_better: bool, seed: int
    ) -> None:
        self.folder, self.space = folder, space
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot keep the search in {folder}: {error.strerror}; give another --out") from error
        with self.locked():
            _same_search(folder / HEAD, asked)
            self._study = _open(folder / JOURNAL, higher_is_better, seed)
            self._requeue_orphans()

    def running(self) -> bool:
        """Say whether a living process is at a trial; what a dead one was doing is queued again first."""
        with self.locked():
            self._requeue_orphans()
        return any(attempt.state == "running" for attempt in self.attempts())

    @contextlib.contextmanager
    def locked(self, name: str = LOCK) -> Iterator[None]:
        """Hold one of the folder's locks: what several processes must not do at once."""
        with (self.folder / name).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def queue(self, points: Sequence[tuple[str, Parameters]]) -> None:
        """Queue points with their origin, unless this search has queued before."""
        with self.locked():
            if self._study.user_attrs.get("queued"):
                return
            for origin, point in points:
                self._study.enqueue_trial(dict(point), user_attrs={"origin": origin})
            self._study.set_user_attr("queued", len(points))

    def ask(self) -> tuple[Trial, Parameters]:
        """Take the next queued point, or let the sampler propose one."""
        with self.locked():
            trial = self._study.ask()
            trial.set_user_attr("worker", _me())
            return trial, self.space.suggest(trial)

    def finish(self, trial: Trial, state: str, scores: Sequence[float]) -> None:
        """Tell how a trial ended and the metrics of its short runs, shortest first; a diverged one has none."""
        from optuna.trial import TrialState

        trial.set_user_attr("scores", list(scores))
        trial.set_user_attr("ended", state)
        if state == "finished":
            self._study.tell(trial, scores[-1])
            return
        if scores:
            trial.report(scores[-1], step=len(scores))
        self._study.tell(trial, state=TrialState.PRUNED)

    def give_back(self, trial: Trial) -> None:
        """Queue again what an interrupt stopped."""
        with self.locked():
            self._again(trial.number, trial.params, str(trial.user_attrs.get("origin", "sampler")))

    def attempts(self) -> list[Attempt]:
        """Return every trial that was begun, in the order of their numbers."""
        from optuna.trial import TrialState

        hidden = (TrialState.WAITING, TrialState.FAIL)
        return [_attempt(trial) for trial in self._study.get_trials(deepcopy=False) if trial.state not in hidden]

    def waiting(self) -> int:
        """Return how many queued points nobody has taken yet."""
        from optuna.trial import TrialState

        return sum(trial.state == TrialState.WAITING for trial in self._study.get_trials(deepcopy=False))

    def _requeue_orphans(self) -> None:
        """Queue again what a process was doing that is no longer alive: nothing is lost, nothing runs twice."""
        from optuna.trial import TrialState

        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not _alive(str(trial.user_attrs.get("worker", ""))):
                parameters = dict(trial.params) or dict(trial.system_attrs.get("fixed_params", {}))
                self._again(trial.number, parameters, str(trial.user_attrs.get("origin", "sampler")))

    def _again(self, number: int, parameters: dict[str, object], origin: str) -> None:
        from optuna.trial import TrialState

        self._study.tell(number, state=TrialState.FAIL)
        if parameters:
            self._study.enqueue_trial(parameters, user_attrs={"origin": origin})


def _open(path: Path, higher_is_better: bool, seed: int) -> OptunaStudy:
    require("optuna", "app")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        # The file's own lock is a file beside it; its holder may die, so it expires.
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
        study = optuna.create_study(
            study_name=STUDY,
            storage=storage,
            direction="maximize" if higher_is_better else "minimize",
            load_if_exists=True,
        )
        # Processes that share the file must not propose the same points: each goes on from the trials that it finds.
        found = len(study.get_trials(deepcopy=False))
        with warnings.catch_warnings():
            # Grouping is what keeps one optimizer's rates apart from another's; Optuna calls it experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = optuna.samplers.TPESampler(
                seed=seed + found, multivariate=True, group=True, n_startup_trials=8
            )
        return study
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"cannot read the trials in {path}: {error}; give another --out, or delete it") from error


def _same_search(path: Path, asked: dict[str, object]) -> None:
    head = msgspec.json.format(msgspec.json.encode(asked), indent=2) + b"\n"
    if not path.exists():
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(head)
        part.replace(path)
    elif path.read_bytes() != head:
        raise RunError(
            f"{path.parent} holds another search (other data, metric, space or seed, or of another version); "
            "give another --out, or delete it"
        )


def _attempt(trial: FrozenTrial) -> Attempt:
    parameters = dict(trial.params) or dict(trial.system_attrs.get("fixed_params", {}))
    return Attempt(
        number=trial.number,
        parameters=parameters,
        origin=str(trial.user_attrs.get("origin", "sampler")),
        state=str(trial.user_attrs.get("ended", "running")),
        scores=tuple(trial.user_attrs.get("scores", ())),
    )


def _me() -> str:
    """This process, so that another one can see whether it still lives: host, id, and when it was started."""
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


def _alive(worker: str) -> bool:
    host, _, rest = worker.partition(" ")
    if host != socket.gethostname():
        return bool(host)  # another machine's process cannot be looked at: believe in it
    process, _, started = rest.partition(" ")
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return _started(int(process)) == started


def _started(process: int) -> str:
    """The start time of a process as Linux counts it; ids are used again, times are not."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return "unknown"
    return text.rpartition(")")[2].split()[19]
