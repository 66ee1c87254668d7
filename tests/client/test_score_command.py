"""``ringfence score``: streams, ranks, explains; never prints text; needs neither torch nor Flower."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ringfence.client.score_command import score
from ringfence.model.console import new_application, run_application
from ringfence.model.detector import Detector
from ringfence.model.feature_set import load_feature_set
from ringfence.model.release_examples import EXAMPLES, write_examples

SECRET = "the blue heron waits"  # stands for what a person wrote

CODE = """
import sys
from ringfence.client.score_command import score
from ringfence.model.console import new_application, run_application
application = new_application("t", "")
application.command()(score)
code = run_application(application, sys.argv[1:])
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ringfence-detector-0.0.0")
    features = load_feature_set()
    detector = Detector(features, features.warm_start)
    detector.save(folder)
    write_examples(detector, folder)
    return folder


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    lines = [
        {"id": f"c{index}", "messages": [{"author": f"a{m % 2}", "text": SECRET} for m in range(index)]}
        for index in range(100)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(*arguments: object) -> int:
    application = new_application("t", "")
    application.command()(score)
    return run_application(application, [str(argument) for argument in arguments])


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_conversation_gets_its_own_score_in_order(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(release / "examples.jsonl", "--model", release, "--json") == 0
    captured = capsys.readouterr()
    detector = Detector.load(release)
    for found, expected in zip(json_lines(captured.out), detector.score_together(EXAMPLES), strict=True):
        assert found["id"] == expected.id
        assert found["score"] == pytest.approx(expected.logit, abs=2e-4)
        assert found["probability"] == pytest.approx(expected.probability, abs=2e-4)
    assert "never a verdict" in captured.err


def test_top_prints_the_highest_scores_first(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(release / "examples.jsonl", "--model", release, "--json")
    everything = json_lines(capsys.readouterr().out)
    run(release / "examples.jsonl", "--model", release, "--json", "--top", 3)
    top = json_lines(capsys.readouterr().out)
    assert top == sorted(everything, key=lambda line: -float(str(line["score"])))[:3]
    assert top[0]["id"] == "example-pattern"


def test_explanations_name_stages_and_positions(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(release / "examples.jsonl", "--model", release, "--top", 1, "--explain")
    text = capsys.readouterr().out
    assert "message 7: secrecy" in text
    run(release / "examples.jsonl", "--model", release, "--json", "--top", 1, "--explain")
    messages = json_lines(capsys.readouterr().out)[0]["messages"]
    assert isinstance(messages, list)
    assert set(messages[0]) == {"index", "stage", "stage_probability", "share"}
    assert len(messages) == len(EXAMPLES[0].messages)


@pytest.mark.parametrize("options", [(), ("--json",), ("--explain",), ("--json", "--explain", "--top", "5")])
def test_what_people_wrote_and_who_wrote_it_is_never_printed(
    release: Path, chats: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    assert run(chats, "--model", release, *options) == 0
    captured = capsys.readouterr()
    assert "heron" not in captured.out + captured.err
    assert '"a1"' not in captured.out


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "holds no conversation"),
        ("\n", "holds no conversation"),
        ("{broken\n", "line 1: is not JSON"),
        ('{"id": "c", "messages": [{"author": "a", "text": 7}]}\n', "line 1, field messages[0].text"),
    ],
)
def test_bad_files_end_with_a_clear_error_and_exit_code_4(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, expected: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    assert run(path, "--model", release) == 4
    captured = capsys.readouterr()
    assert expected in captured.err
    assert "fix:" in captured.err
    assert "Traceback" not in captured.err
    assert run(path, "--model", release, "--json") == 4
    assert json_lines(capsys.readouterr().out)[-1]["error_code"] == "bad_data"


def test_the_lines_before_a_bad_one_are_still_scored(
    release: Path, chats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chats.open("a") as stream:
        stream.write("{" + SECRET + "\n")
    assert run(chats, "--model", release, "--json") == 4
    captured = capsys.readouterr()
    lines = json_lines(captured.out)
    assert [line.get("id") for line in lines[:-1]] == [f"c{index}" for index in range(100)]
    assert "line 101" in captured.err
    assert "heron" not in captured.out + captured.err


def test_bad_lines_can_be_counted_and_passed_over(
    release: Path, chats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chats.write_text("{\n" + chats.read_text() + "{\n")
    assert run(chats, "--model", release, "--json", "--skip-bad") == 0
    captured = capsys.readouterr()
    assert len(json_lines(captured.out)) == 100
    assert "2 lines were passed over" in captured.err


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_folder_that_is_not_a_release_is_refused(
    release: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    for path in release.iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert run(chats, "--model", tmp_path) == 1
    assert f"Cannot read {tmp_path / missing}" in capsys.readouterr().err


def test_neither_torch_nor_flower_is_imported(release: Path) -> None:
    banned = "{'torch', 'flwr', 'opacus', 'scipy', 'onnx', 'dp_accounting', 'sklearn'}"
    code = f"{CODE}\nfound = {banned} & set(sys.modules)\nassert not found, found\nassert code == 0\n"
    command = [
        sys.executable,
        "-c",
        code,
        str(release / "examples.jsonl"),
        "--model",
        str(release),
        "--explain",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stream_is_scored_line_by_line(release: Path) -> None:
    command = [sys.executable, "-c", CODE, "-", "--model", str(release), "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        guard = threading.Timer(60, child.kill)
        guard.start()
        for index in range(3):
            child.stdin.write(json.dumps({"id": index, "messages": []}) + "\n")
            child.stdin.flush()
            # Comes while the stream is still open.
            assert json.loads(child.stdout.readline())["id"] == str(index)
        child.stdin.close()
        assert child.stdout.read() == ""
        guard.cancel()


def test_a_reader_that_goes_away_is_no_error(release: Path, chats: Path) -> None:
    command = [sys.executable, "-c", CODE, str(chats), "--model", str(release), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert "Traceback" not in child.stderr.read()
