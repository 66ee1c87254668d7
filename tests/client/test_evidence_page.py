"""The page that a data-protection officer reads shows what the evidence says, in the terminal and as a file."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

from evidence_desk import PLAN, Desk, evidence_for, plan_of

from ringfence.client.evidence_html import render_html
from ringfence.client.evidence_page import page_of, render_text
from ringfence.model.evidence import PublicInput, round_up


class Outline(HTMLParser):
    """What a browser would show, and whatever it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags, self.links = "", [], []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action")]

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data


class TestThePage:
    def test_shows_the_promise_and_every_number(self, desk: Desk) -> None:
        evidence = evidence_for()
        desk.lay(evidence)
        code, out, _ = desk.run("show", str(desk.file))
        assert code == 0
        shown = " ".join(out.split())
        assert evidence.promise() in shown
        for part in (
            *(round_up(epsilon) for epsilon in evidence.epsilon_by_platforms.values()),
            round_up(evidence.per_conversation_epsilon),
            "1e-06",
            "acme, bell, core",
            "77.25",
            "everybody else together, 2 other members",
        ):
            assert part in shown
        # Where the file lies is the reader's own choice.
        assert max(len(line) for line in out.splitlines() if str(desk.file.parent) not in line) <= 112

    def test_as_html_is_complete_in_itself(self, desk: Desk, tmp_path: Path) -> None:
        desk.lay(evidence_for())
        out = tmp_path / "page.html"
        code, text, _ = desk.run("show", str(desk.file), "--out", str(out))
        assert (code, str(out) in text) == (0, True)
        outline = Outline()
        outline.feed(out.read_text())
        assert not {"script", "link", "img", "iframe"} & set(outline.tags)
        assert outline.links == []
        assert "url(" not in out.read_text()
        assert evidence_for().promise() in " ".join(outline.text.split())

    def test_lets_no_word_of_the_file_become_markup(self) -> None:
        attack = '<script>alert(1)</script>"&'
        hostile = PublicInput(name=attack, origin=attack, licence=attack)
        evidence = evidence_for(public_inputs=[hostile]).model_copy(update={"known_limits": (attack,)})
        html = render_html(page_of(evidence, version=attack), source=attack)
        assert "<script" not in html
        outline = Outline()
        outline.feed(html)
        assert outline.text.count(attack) == 7
        assert attack in render_text(page_of(evidence, version=None))

    def test_of_a_demonstration_says_so_first(self, desk: Desk) -> None:
        desk.lay(evidence_for(plan_of(demonstration=True), receipts=[]), plan=None)
        out = desk.run("show", str(desk.file))[1]
        assert out.index("protect nobody") < out.index("The promise")

    def test_names_the_evaluation_where_there_was_one(self) -> None:
        texts = [
            render_text(page_of(evidence_for(plan_of(evaluation_noise_multiplier=noise)), version=None))
            for noise in (None, 20.0)
        ]
        assert ["noise of the evaluation 20 conversations" in " ".join(text.split()) for text in texts] == [
            False,
            True,
        ]

    def test_never_claims_certainty_or_anonymity(self) -> None:
        weak = evidence_for(plan_of(noise_multiplier=1.0))
        text = render_text(page_of(weak, version=None))
        assert "99.9 % sure" in text.replace("\n", " ")
        assert "anonym" not in text.lower()

    def test_as_json_holds_the_evidence(self, desk: Desk) -> None:
        desk.lay(evidence_for())
        data = json.loads(desk.run("show", str(desk.file), "--json")[1])["data"]
        assert data["evidence"]["plan_sha256"] == PLAN.digest()
        assert data["promise"] == evidence_for().promise()
