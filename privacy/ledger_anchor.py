"""The places that remember a ledger's newest head: a file of the member's own, and signed copies with the others.

A hash chain proves that nothing in it was changed. It cannot prove that nothing was cut off its end: a backup restored
from last month is a perfectly good chain. Whoever remembers a later head can tell.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ringfence.model.errors import PeerError
from ringfence.privacy.ledger_chain import LedgerHead
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_SLOT_BYTES = 4096
_SLOTS = 2
_SIGNATURE_BYTES = 64
_LAST_SEQ = 2**63 - 1  # what SQLite can count to
_SIGNED_PURPOSE = b"ringfence ledger head v1\n"


class AnchorFile:
    """The member's second place: best on another disk, or under another file owner, than the ledger.

    Two slots are written in turn, each with its own checksum, so that a write that is cut short leaves the other one. No
    flush to disk is asked for: after a power failure the anchor may be a little behind, which is harmless, because it
    only has to stand somewhere in the chain. The file is locked as long as it is open.

    Args:
        path: of the anchor; made by `create` together with its ledger.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle

    @classmethod
    def create(cls, path: Path) -> AnchorFile:
        """Make an empty anchor, or take one that a crash left empty.

        Raises:
            BudgetError: there is one already, so a ledger of this data set exists or existed; or it cannot be made.
        """
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise refused(LedgerRefusal.NO_ANCHOR) from error
        anchor = cls(path, handle)
        anchor._lock()
        try:
            if os.fstat(handle).st_size > 0 and anchor.read() is not None:
                raise refused(LedgerRefusal.EXISTS)
            os.posix_fallocate(handle, 0, _SLOTS * _SLOT_BYTES)
            os.fsync(handle)
        except OSError as error:
            anchor.close()
            raise refused(LedgerRefusal.DISK) from error
        except BaseException:
            anchor.close()
            raise
        return anchor

    @classmethod
    def open(cls, path: Path) -> AnchorFile:
        """Open the anchor that was made with the ledger.

        Raises:
            BudgetError: it is missing or in use.
        """
        try:
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError as error:
            raise refused(LedgerRefusal.NO_ANCHOR) from error
        anchor = cls(path, handle)
        anchor._lock()
        if os.fstat(handle).st_mode & 0o002:
            anchor.close()
            raise refused(LedgerRefusal.PERMISSIONS, place=path)
        return anchor

    def read(self) -> LedgerHead | None:
        """Return the newest head that was written whole; None if there never was one.

        Raises:
            BudgetError: both slots hold something that nobody wrote.
        """
        return _newest_head(os.pread(self._handle, _SLOTS * _SLOT_BYTES, 0))

    def write(self, head: LedgerHead) -> None:
        """Remember a head, in the slot that does not hold the newest.

        Raises:
            BudgetError: it cannot be written.
        """
        slot = _format_slot(head)
        try:
            written = os.pwrite(self._handle, slot, (head.seq % _SLOTS) * _SLOT_BYTES)
        except OSError as error:
            raise refused(LedgerRefusal.DISK) from error
        if written != len(slot):
            raise refused(LedgerRefusal.DISK)

    def close(self) -> None:
        """Let go of the file and its lock."""
        with contextlib.suppress(OSError):
            os.close(self._handle)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise refused(LedgerRefusal.LOCKED) from error


def sign_head(head: LedgerHead, *, key: Ed25519PrivateKey) -> bytes:
    """Return a head with the member's signature, to be kept by the coordinator and the cohort's other members."""
    content = _canonical(head)
    return key.sign(_SIGNED_PURPOSE + content) + content


def read_signed_head(signed: bytes, *, key: Ed25519PublicKey) -> LedgerHead:
    """Read a head that somebody kept for the member.

    Raises:
        PeerError: it is not signed by the member's key, or is not in the agreed form. The keeper's fault.
    """
    from cryptography.exceptions import InvalidSignature

    signature, content = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
    try:
        key.verify(signature, _SIGNED_PURPOSE + content)
    except InvalidSignature as error:
        raise PeerError(
            "A returned ledger head is not one that this member signed.",
            hint="Do not go on: ask the coordinator where it comes from.",
        ) from error
    return read_unverified_head(signed)


def read_unverified_head(signed: bytes) -> LedgerHead:
    """Read a signed head whoever signed it: what it says is proven by nothing but the chain in which it stands.

    Raises:
        PeerError: it is not in the agreed form. The keeper's fault.
    """
    try:
        return _head(json.loads(signed[_SIGNATURE_BYTES:]))
    except (ValueError, TypeError, RecursionError) as error:
        raise PeerError(
            "A returned ledger head is not in the agreed form.",
            hint="Do not go on: ask the coordinator where it comes from.",
        ) from error


def _canonical(head: LedgerHead) -> bytes:
    fields = {"ledger": head.ledger, "seq": head.seq, "hash": head.hash}
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _head(values: object) -> LedgerHead:
    if not isinstance(values, dict) or set(values) != {"ledger", "seq", "hash"}:
        raise ValueError("not a head")
    if not (
        isinstance(values["seq"], int)
        and isinstance(values["ledger"], str)
        and isinstance(values["hash"], str)
    ):
        raise TypeError("not a head")
    if not 1 <= values["seq"] <= _LAST_SEQ:
        raise ValueError("not a place in a chain")
    return LedgerHead(values["ledger"], values["seq"], values["hash"])


def _newest_head(content: bytes) -> LedgerHead | None:
    slots = [content[start : start + _SLOT_BYTES] for start in range(0, _SLOTS * _SLOT_BYTES, _SLOT_BYTES)]
    heads = [head for slot in slots if (head := _parse_slot(slot)) is not None]
    if not heads and any(slot.strip(b"\0") for slot in slots):
        raise refused(LedgerRefusal.NO_ANCHOR)
    return max(heads, key=lambda head: head.seq, default=None)


def _format_slot(head: LedgerHead) -> bytes:
    content = _canonical(head)
    return (hashlib.sha256(content).digest() + content).ljust(512, b"\0")


def _parse_slot(slot: bytes) -> LedgerHead | None:
    checksum, content = slot[:32], slot[32:].rstrip(b"\0")
    if hashlib.sha256(content).digest() != checksum:
        return None
    try:
        return _head(json.loads(content))
    except (ValueError, TypeError):
        return None
