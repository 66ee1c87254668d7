"""Following releases while the agent runs: look now and then, verify, try beside the old one, switch or hold.

Each look is a short-lived process of its own. So nothing of it stays in the agent's memory, and whatever happens to it - a
coordinator that is away, expired metadata, a release that does not load - is a line of log and never reaches a round.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ringfence.client.member_home import MemberHome
from ringfence.client.policy import load_policy
from ringfence.model.errors import ReleaseError, RingfenceError

if TYPE_CHECKING:
    from ringfence.client.releases import ReleaseStore

log = logging.getLogger("ringfence.agent")
_LONGEST_LOOK_S = 3600.0
_LATEST_FIRST_LOOK_S = 30.0
_TURN_S = 1.0
_PR_SET_PDEATHSIG = 1


class ReleaseFollower(AbstractContextManager["ReleaseFollower"]):
    """Looks for releases in a thread, for the length of the block, as often as the member's policy says.

    Args:
        home: the member's folder.
        report: is told in one sentence what came of each look.
        look: looks once; a process of its own by default.
        first_look_s: seconds before the first look; by default a random time, so that members do not come in step.
        hour_s: seconds in an hour; tests have shorter ones.
    """

    def __init__(
        self,
        home: MemberHome,
        *,
        report: Callable[[str], None],
        look: Callable[[MemberHome, threading.Event], str] | None = None,
        first_look_s: float | None = None,
        hour_s: float = 3600.0,
    ) -> None:
        self._home = home
        self._report = report
        self._look = look or look_in_own_process
        if first_look_s is None:
            first_look_s = random.random() * _LATEST_FIRST_LOOK_S  # noqa: S311 - not a secret
        self._wait_s = first_look_s
        self._hour_s = hour_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="ringfence-releases", daemon=True)

    def __enter__(self) -> ReleaseFollower:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread; a download that is cut off is gone on with next time."""
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(self._wait_s):
            try:
                # Read anew each time: a change of the policy holds from the next look on.
                rules = load_policy(self._home).releases
                self._wait_s = rules.check_hours * self._hour_s
                outcome = "The policy asks for no releases."
                if rules.updates != "off":
                    outcome = self._look(self._home, self._stop)
            except RingfenceError as error:
                outcome = f"{error.message} {error.hint}".strip()
                log.warning("releases: %s", outcome)
            except Exception as error:  # noqa: BLE001 - rounds go on whatever happens to a release
                outcome = f"A defect of Ringfence: {type(error).__name__}."
                log.error("releases: %s", outcome)
            else:
                log.info("releases: %s", outcome)
            if not self._stop.is_set():
                self._report(outcome)


def look_for_release(
    home: MemberHome,
    *,
    store: ReleaseStore | None = None,
    trial: Callable[[Path], None] | None = None,
) -> str:
    """Look once, do what the policy wants, and return in one sentence what came of it.

    Args:
        home: the member's folder.
        store: its releases; by default with the member's own connection.
        trial: raises ReleaseError for a release folder that does not work here; `try_release` by default.

    Raises:
        ReleaseError: the release or its metadata cannot be trusted, or the release does not work here. What is in use stays.
        ConnectionFailedError: the coordinator cannot be reached, or does not serve this identity.
        ConfigError: the policy or the settings cannot be read. The member's to mend.
    """
    from ringfence.client.release_choice import choose_release
    from ringfence.client.releases import ReleaseStore
    from ringfence.model.atomic_file import write_atomically

    store = store or ReleaseStore(home)
    store.refresh("stable")
    choice = choose_release(store.list(), updates=load_policy(home).releases.updates, taken=_taken(home))
    if choice.action == "nothing":
        return choice.reason
    (trial or try_release)(store.pull("stable", choice.version).folder)
    if choice.action == "use":
        store.use(choice.version)
        write_atomically(_taken_file(home), choice.version.encode())
    return choice.reason


def try_release(folder: Path) -> None:
    """Load a release and have it score its own examples, before it may take the place of one that works.

    Raises:
        ReleaseError: it does not load here, or scores other than where it was built.
    """
    from ringfence.model.detector import Detector
    from ringfence.model.release_examples import check_examples

    try:
        check_examples(Detector.load(folder), folder)
    except RingfenceError as error:
        raise ReleaseError(
            f"Release {folder.name} does not work here: {error.message}",
            hint="The release in use stays. Tell the coordinator.",
        ) from error


def look_in_own_process(home: MemberHome, stop: threading.Event) -> str:
    """Run `look_for_release` in a process of its own; "" if ``stop`` was set meanwhile. Raises ReleaseError for what it raises."""
    # Not by `multiprocessing`, whose helper process would stay with the agent for the rest of its life.
    process = subprocess.Popen(
        [sys.executable, "-m", "ringfence.client.release_following", str(home.root), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = _wait_for(process, stop=stop)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if said is None:
        return ""
    try:
        result = json.loads(said)
        outcome, message, hint = (str(result[key]) for key in ("outcome", "message", "hint"))
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(
            "The look for a release ended without a result.", hint="It is tried again later."
        ) from error
    if message:
        raise ReleaseError(message, hint=hint)
    return outcome


def _wait_for(process: subprocess.Popen[str], *, stop: threading.Event) -> str | None:
    """Return what a look printed, or None if ``stop`` was set first."""
    waited_s = 0.0
    while not stop.is_set():
        try:
            return process.communicate(timeout=_TURN_S)[0]
        except subprocess.TimeoutExpired:
            waited_s += _TURN_S
        if waited_s > _LONGEST_LOOK_S:
            raise ReleaseError("The look for a release took too long.", hint="It is tried again later.")
    return None


def _main(home: Path, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return  # the agent died before the line above took hold
    outcome = message = hint = ""
    try:
        outcome = look_for_release(MemberHome(home))
    except RingfenceError as error:
        message, hint = error.message, error.hint
    except Exception as error:  # noqa: BLE001 - a person reads a sentence, not a traceback
        message = f"A defect of Ringfence: {type(error).__name__}."
    print(json.dumps({"outcome": outcome, "message": message, "hint": hint}))


def _taken_file(home: MemberHome) -> Path:
    return home.agent / "release-taken"


def _taken(home: MemberHome) -> str | None:
    try:
        return _taken_file(home).read_text(encoding="utf-8")
    except OSError:
        return None


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
