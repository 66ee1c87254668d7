"""Fixtures of the member's tests."""

from evidence_desk import desk as desk
