"""From two companies' keys to a release that one of them pulled, by the commands that people type."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from federation_harness import free_port
from trust_harness import FILES

from ringfence.client.command_line import application as member_application
from ringfence.model.console import run_application
from ringfence.server.command_line import application as coordinator_application
from ringfence.server.control_plane import serve_control_plane
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import load_coordinator_settings
from ringfence.server.release_trust import ReleaseTrust

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Type a command in the folder where the files are handed over; return its JSON data, or its exit code."""
    monkeypatch.chdir(tmp_path)

    def typed(who: str, *words: str, expect: int = 0) -> Any:
        application = coordinator_application if who == "coordinator" else member_application
        code = run_application(application, [*words, "--home", str(tmp_path / who), "--json"])
        captured = capsys.readouterr()
        assert code == expect, captured
        assert "Traceback" not in captured.err
        answer = json.loads(captured.out)
        if expect:
            assert answer["status"] == "error"
            assert answer["hint"]
            return answer["error_code"]
        return answer["data"]

    return typed


@contextmanager
def served(home: Path) -> Iterator[str]:
    """Serve a coordinator's folder in a thread; yield the address."""
    located = CoordinatorHome(home)
    settings = load_coordinator_settings(located, environment={})
    loop, ready, addresses = asyncio.new_event_loop(), threading.Event(), []
    stop = asyncio.Event()

    async def serve() -> None:
        async with serve_control_plane(located, settings) as running:
            addresses.append(running.address)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield addresses[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


def test_the_whole_ceremony_by_its_commands(run: Run, tmp_path: Path) -> None:
    fixed = [
        word
        for kind in ("release", "enrolment")
        for word in (f"--{kind}-address", f"127.0.0.1:{free_port()}")
    ]
    run("coordinator", "init", "example", "--demonstration", *fixed)
    with served(tmp_path / "coordinator"):
        for name in ("acme", "beta"):
            invitation = run("coordinator", "member", "invite", name)["invitation"]
            assert run(name, "join", invitation)["founding"]
            assert run(name, "identity", "show")["spiffe_id"] == f"spiffe://example/member/{name}"
            assert (
                run(name, "model", "pull", expect=4) == "bad_config"
            )  # nobody agreed on a root of trust yet

    # The first root of trust: files are carried, and one signature is not enough.
    draft = run("coordinator", "trust", "draft")["file"]
    assert run("acme", "approve", "show", draft)["changes"]
    run("acme", "approve", "sign", draft, "--yes", "--out", "acme.signature.json")
    assert run("coordinator", "trust", "publish", "acme.signature.json", expect=1) == "release_threshold"
    run("beta", "approve", "sign", draft, "--yes", "--out", "beta.signature.json")
    assert run("coordinator", "trust", "publish", "beta.signature.json") == {"root": 1, "targets": 1}
    roles = {role["role"]: role for role in run("coordinator", "trust", "status")["roles"]}
    assert roles["stable"]["keys"] == ["acme", "beta"]
    assert roles["root"]["threshold"] == 2

    folder = tmp_path / "built"
    for file_name, content in FILES.items():
        (folder / file_name).parent.mkdir(parents=True, exist_ok=True)
        (folder / file_name).write_bytes(content)
    with served(tmp_path / "coordinator"):
        assert run("acme", "model", "pull", expect=1) == "release_not_found"
        # The candidate of a run comes by another command, which builds it first.
        trust = ReleaseTrust(CoordinatorHome(tmp_path / "coordinator"), now=lambda: datetime.now(UTC))
        trust.publish_candidate(folder, version="0.1.0-rc.1")
        drafted = run("coordinator", "release", "draft", "0.1.0", "--candidate", "0.1.0-rc.1")["draft"]
        assert run("acme", "approve", "sign", drafted, "--yes", expect=1) == "refused_by_policy"
        for name in ("acme", "beta"):
            run(name, "model", "pull", "--channel", "candidate")
            (listed,) = run(name, "approve", "list")["drafts"]
            assert listed["id"] == drafted
            run(name, "approve", "show", drafted)
            assert (
                run(name, "approve", "sign", drafted, expect=4) == "bad_config"
            )  # nobody confirms, no --yes
            if name == "beta":
                # A draft is declined, and by no oversight signed after all.
                assert run(name, "approve", "decline", drafted, "--reason", "taste", expect=4) == "bad_config"
                declined = run(name, "approve", "decline", drafted, "--reason", "quality")
                assert (declined["draft"], declined["reason"]) == (drafted, "quality")
                assert not declined["coordinator_told"]
                assert [found["reason"] for found in run(name, "approve", "list")["declined"]] == ["quality"]
                assert run(name, "approve", "sign", drafted, "--yes", expect=1) == "refused_by_policy"
                assert not run("coordinator", "release", "status")["drafts"][0]["complete"]
                signed = run(name, "approve", "sign", drafted, "--yes", "--although-declined")
            else:
                signed = run(name, "approve", "sign", drafted, "--yes")
                assert run(name, "approve", "list")["declined"] == []
            assert signed["signed"] == ["stable"]
        assert signed["progress"]["complete"]
        assert run("coordinator", "release", "status")["drafts"][0]["complete"]
        run("coordinator", "release", "publish")
        assert run("coordinator", "release", "status")["drafts"] == []

        assert run("acme", "model", "pull", "--use")["in_use"] == "0.1.0"
        assert run("acme", "model", "verify")["verified"]
        assert set(run("acme", "model", "show")["manifest"]["files"]) == set(FILES)

        yanked = run("coordinator", "release", "yank", "0.1.0", "--reason", "wrong thresholds")["draft"]
        for name in ("acme", "beta"):
            run(name, "approve", "sign", yanked, "--yes")
        run("coordinator", "release", "publish")
        assert run("acme", "model", "pull", expect=1) == "release_not_found"
        (stable,) = [item for item in run("acme", "model", "list")["releases"] if item["channel"] == "stable"]
        assert (stable["yanked"], stable["in_use"]) == (True, True)
        assert run("acme", "model", "use", "0.1.0", expect=1) == "bad_release"

        run("coordinator", "member", "suspend", "beta")
        assert run("beta", "model", "pull", expect=2) == "no_connection"
        run("coordinator", "member", "resume", "beta")
        assert run("beta", "approve", "list")["drafts"] == []
    releases = run("coordinator", "release", "list")["releases"]
    assert [(item["channel"], item["version"], item["yanked"]) for item in releases] == [
        ("stable", "0.1.0", True),
        ("candidate", "0.1.0-rc.1", False),
    ]


@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("member", ("model", "list", "--channel", "x")),
        ("member", ("model", "pull", "--channel", "nightly")),
        ("member", ("model", "pull")),
        ("member", ("join", "missing")),
        ("member", ("approve", "sign", "missing.json", "--yes")),
        ("coordinator", ("member", "invite", "Not A Name")),
        ("coordinator", ("release", "draft", "0.1.0")),
        ("coordinator", ("trust", "publish", "missing.json")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_bad_input_ends_with_a_message_a_hint_and_no_traceback(
    who: str, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    application = coordinator_application if who == "coordinator" else member_application
    code = run_application(application, [*words, "--home", str(tmp_path / "home")])
    captured = capsys.readouterr()
    assert code in (1, 4)
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "fix: " in captured.err
    assert "Traceback" not in captured.err
