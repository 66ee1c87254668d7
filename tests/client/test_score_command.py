"""``ringfence score``: streams, ranks, explains; never prints text; needs neither torch nor Flower."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ringfence.client.score_command import score
from ringfence.model.calibration import Calibration
from ringfence.model.console import new_application, run_application
from ringfence.model.conversation import Conversation
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


def test_explanations_name_stages_positions_and_authors(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(release / "examples.jsonl", "--model", release, "--top", 1, "--explain")
    captured = capsys.readouterr()
    rows = [line.split() for line in captured.out.splitlines()[4:]]
    # Each message of the pattern, not the five with the largest shares; and the one that lowers the score.
    assert [(row[1], row[2], row[-1]) for row in rows[:-1]] == [
        ("1", "access", "a"),
        ("3", "personal_information", "a"),
        ("4", "other", "b"),
        ("5", "risk_assessment", "a"),
        ("7", "secrecy", "a"),
        ("8", "platform_move", "a"),
        ("9", "meeting", "a"),
    ]
    assert " ".join(rows[-1]) == "2 messages more: --all-messages, or --json"
    assert "Share: the score less the score without that message" in captured.err
    run(release / "examples.jsonl", "--model", release, "--json", "--top", 1, "--explain")
    messages = json_lines(capsys.readouterr().out)[0]["messages"]
    assert isinstance(messages, list)
    assert set(messages[0]) == {
        "index",
        "message",
        "author",
        "stage",
        "stage_probability",
        "share",
        "running_score",
    }
    assert [(item["index"], item["message"]) for item in messages] == [
        (index, index + 1) for index in range(len(EXAMPLES[0].messages))
    ]
    assert [item["author"] for item in messages] == [item.author for item in EXAMPLES[0].messages]


def test_what_lowers_a_score_is_shown(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(release / "examples.jsonl", "--model", release, "--explain", "--all-messages")
    everything = capsys.readouterr().out
    assert "more: --all-messages" not in everything
    run(release / "examples.jsonl", "--model", release, "--explain")
    table = capsys.readouterr().out
    lowest: dict[str, list[str]] = {}
    for text in (table, everything):
        for line in text.splitlines():
            if line.strip().startswith("-") and "(" in line:
                lowest.setdefault("some" if text is table else "all", []).append(line)
    assert 0 < len(lowest["some"]) <= len(lowest["all"])
    assert max(lowest["all"]) in lowest["some"]


def test_all_messages_are_those_of_an_explanation(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(release / "examples.jsonl", "--model", release, "--all-messages") == 4
    assert "Add --explain" in capsys.readouterr().err
    run(release / "examples.jsonl", "--model", release, "--top", 1, "--explain", "--all-messages")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[4:]]
    assert [row[1] for row in rows] == [str(number + 1) for number in range(len(EXAMPLES[0].messages))]


def test_only_what_is_printed_is_explained(
    release: Path, chats: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ringfence.model import explanation

    explained = []
    original = explanation.explain

    def counted(detector: Detector, conversation: Conversation) -> tuple[explanation.MessageShare, ...]:
        explained.append(conversation.id)
        return original(detector, conversation)

    monkeypatch.setattr(explanation, "explain", counted)
    assert run(chats, "--model", release, "--json", "--explain", "--top", 3) == 0
    assert explained == [line["id"] for line in json_lines(capsys.readouterr().out)]


def test_the_origin_of_probabilities_is_one_line(
    release: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = Calibration(fitted_on="harmless chats\n\x1b[2Jand more")
    replace(Detector.load(release), calibration=named).save(tmp_path)
    assert run(chats, "--model", tmp_path) == 0
    captured = capsys.readouterr()
    assert "Calibration of the probability: harmless chats  [2Jand more." in captured.err


def test_an_explanation_shows_how_the_score_went(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(release / "examples.jsonl", "--model", release, "--top", 1, "--explain")
    bars = capsys.readouterr().out.split("over time")[1].splitlines()[0].strip()
    assert len(bars) == len(EXAMPLES[0].messages)
    assert bars[0] < bars[-1]
    run(release / "examples.jsonl", "--model", release, "--json", "--top", 1, "--explain")
    line = json_lines(capsys.readouterr().out)[0]
    messages = line["messages"]
    assert isinstance(messages, list)
    assert messages[-1]["running_score"] == line["score"]
    assert messages[0]["running_score"] < line["score"]


@pytest.mark.parametrize("options", [(), ("--json",), ("--explain",), ("--json", "--explain", "--top", "5")])
def test_what_people_wrote_is_never_printed_and_who_wrote_it_only_in_an_explanation(
    release: Path, chats: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    assert run(chats, "--model", release, *options) == 0
    captured = capsys.readouterr()
    assert "heron" not in captured.out + captured.err
    assert ("a1" in captured.out.split() or '"a1"' in captured.out) is ("--explain" in options)


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


class TestAStreamOfMessages:
    def test_gives_after_each_message_the_score_of_its_conversation(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "messages.jsonl"
        # Message by message in turn, as they come in when people talk side by side.
        turns = max(len(item.messages) for item in EXAMPLES)
        sent = [
            (item.id, item.messages[turn])
            for turn in range(turns)
            for item in EXAMPLES
            if turn < len(item.messages)
        ]
        path.write_text(
            "".join(
                json.dumps({"conversation": name, "author": message.author, "text": message.text}) + "\n"
                for name, message in sent
            )
        )
        assert run(path, "--model", release, "--json", "--stream") == 0
        captured = capsys.readouterr()
        lines = json_lines(captured.out)
        assert [line["conversation"] for line in lines] == [name for name, _ in sent]
        last = {str(line["conversation"]): line for line in lines}
        for expected in Detector.load(release).score_together(EXAMPLES):
            if expected.id in last:
                assert last[expected.id]["score"] == pytest.approx(expected.logit, abs=6e-5)
        assert {"message", "stage", "stage_probability", "probability"} < set(lines[0])
        assert "never a verdict" in captured.err
        assert run(path, "--model", release, "--stream") == 0
        assert "secrecy" in capsys.readouterr().out

    def test_comes_back_while_the_stream_is_open(self, release: Path) -> None:
        command = [sys.executable, "-c", CODE, "-", "--model", str(release), "--json", "--stream"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            guard = threading.Timer(120, child.kill)
            guard.start()
            for index in range(3):
                message = {"conversation": "c", "author": "a", "text": "hello", "time": 17.5}
                child.stdin.write(json.dumps(message) + "\n")
                child.stdin.flush()
                assert json.loads(child.stdout.readline())["message"] == index + 1
            child.stdin.close()
            assert child.stdout.read() == ""
            guard.cancel()

    def test_of_another_language_is_named_and_warned_of_while_it_goes_on(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        german = ("ok", "ich weiss nicht was du meinst", "aber wir gehen heute zusammen nach hause")
        english = ("ok", "so i was thinking that you and my brother", "could come with us to the game")
        sent = [
            (f"c{number}", (german if number % 2 else english)[turn])
            for turn in range(3)
            for number in range(40)
        ]
        path = tmp_path / "messages.jsonl"
        lines = [
            json.dumps({"conversation": name, "author": "a", "text": text}) + "\n" for name, text in sent
        ]
        path.write_text("".join(lines) + "{broken\n")
        assert run(path, "--model", release, "--json", "--stream") == 4
        captured = capsys.readouterr()
        found = [(str(line["conversation"]), line.get("language")) for line in json_lines(captured.out)[:-1]]
        assert {language for _, language in found[:40]} == {None}, "ok is of no language"
        assert {language for name, language in found[80:] if int(name[1:]) % 2} == {"de"}
        assert {language for name, language in found[80:] if int(name[1:]) % 2 == 0} == {None}
        assert captured.err.count("are not in English") == 1, "said once, before the line that ends it"

    def test_of_few_conversations_in_another_language_is_warned_of_at_its_end(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "messages.jsonl"
        path.write_text('{"conversation": "c", "author": "a", "text": "ich weiss nicht was du meinst"}\n')
        assert run(path, "--model", release, "--stream") == 0
        assert "About 100% of the conversations are not in English" in capsys.readouterr().err

    def test_holds_only_so_many_conversations_and_says_so(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "messages.jsonl"
        names = ["a", "b", "a", "c", "b", "a"]
        path.write_text(
            "".join(
                json.dumps({"conversation": name, "author": "x", "text": SECRET}) + "\n" for name in names
            )
        )
        assert run(path, "--model", release, "--json", "--stream", "--most-conversations", 2) == 0
        captured = capsys.readouterr()
        # b was silent longest when c came, so b begins anew; then a goes for b, and begins anew.
        assert [line["message"] for line in json_lines(captured.out)] == [1, 1, 2, 1, 1, 1]
        assert "3 conversations were let go" in captured.err
        assert "heron" not in captured.out + captured.err

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("{broken", "line 2: is not JSON"),
            ('["a"]', "line 2: must be a JSON object"),
            ('{"author": "a", "text": "x"}', "line 2, field conversation: is missing"),
            ('{"conversation": "c", "author": "a", "text": 7}', "line 2, field text: must be a string"),
            ('{"conversation": "c", "text": "x"}', "line 2, field author: is missing"),
        ],
    )
    def test_ends_at_a_bad_line_after_the_scores_before_it(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, expected: str
    ) -> None:
        path = tmp_path / "messages.jsonl"
        good = json.dumps({"conversation": "c", "author": "a", "text": SECRET})
        path.write_text(f"{good}\n{line}\n{good}\n")
        assert run(path, "--model", release, "--json", "--stream") == 4
        captured = capsys.readouterr()
        assert json_lines(captured.out)[0]["message"] == 1
        assert expected in captured.err
        assert run(path, "--model", release, "--json", "--stream", "--skip-bad") == 0
        captured = capsys.readouterr()
        assert [found["message"] for found in json_lines(captured.out)] == [1, 2]
        assert "1 lines were passed over" in captured.err

    @pytest.mark.parametrize("option", [("--top", 3), ("--explain",)])
    def test_has_no_highest_score_and_no_explanation(
        self, release: Path, chats: Path, capsys: pytest.CaptureFixture[str], option: tuple[object, ...]
    ) -> None:
        assert run(chats, "--model", release, "--stream", *option) == 4
        assert "stream of messages" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        ("ich weiss nicht was du meinst, aber wir gehen heute in den park", True),
        ("so i was thinking that you could come with us to the park", False),
    ],
)
def test_another_language_is_scored_with_a_warning(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, warned: bool
) -> None:
    path = tmp_path / "chats.jsonl"
    lines = [{"id": f"c{n}", "messages": [{"author": "a", "text": f"{words} {n}"}]} for n in range(5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(path, "--model", release, "--json") == 0
    written = capsys.readouterr()
    assert len(json_lines(written.out)) == 5
    assert ("not in English" in written.err) is warned


TURNS_ROUND = "\u202e"  # what follows is shown from right to left; control characters are refused on reading


@pytest.mark.parametrize("how", [("--explain",), ("--top", 1), ("--stream",), ("--capacity", "1/day")])
def test_a_name_cannot_pose_as_another_on_the_screen(
    release: Path, tmp_path: Path, how: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    message = {"author": f"a{TURNS_ROUND}b", "text": "hi"}
    line: dict[str, object] = {"id": f"c{TURNS_ROUND}d", "messages": [message]}
    if how == ("--stream",):
        line = {"conversation": f"c{TURNS_ROUND}d", **message}
    path = tmp_path / "named.jsonl"
    path.write_text(json.dumps(line) + "\n")
    assert run(path, "--model", release, "--home", tmp_path, *how) == 0
    found = capsys.readouterr()
    assert TURNS_ROUND not in found.out + found.err
    assert "c\\u202ed" in found.out
