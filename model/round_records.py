"""How the fields of a round's message lie in Flower's records: one closed form, written and read in one place.

A message is one record of plain fields; among them, unless it is a refusal, one array: its name, its dtype, its length and
its raw little-endian bytes. Whatever is missing, superfluous or of another form is refused.

The array is not one of Flower's: Flower stores and fetches each part of an array by a call of its own, four for one of a
thousand bytes, and these calls were most of what a round cost. The price is that a model is stored once a member instead
of once a round.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ringfence.model.errors import PeerError

if TYPE_CHECKING:
    from flwr.app import RecordDict

REFUSAL_KIND = "refusal"
_RECORD = "ringfence"
_ARRAY_FIELDS = frozenset({"array", "dtype", "length", "data"})
_ITEM_BYTES = 8
_MAX_PARAMETERS = 10_000_000
_MAX_PLAN_BYTES = 65_536
_MAX_HEAD_BYTES = 512
_RUN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

Field = str | int | bytes


def to_records(
    kind: str, fields: dict[str, Field], array: tuple[str, NDArray[np.generic]] | None = None
) -> RecordDict:
    """Return the Flower content of a message.

    Args:
        kind: of message.
        fields: by name.
        array: its name and values, (n,) of an eight-byte type, little-endian; None for a refusal.
    """
    from flwr.app import ConfigRecord, RecordDict

    content: dict[str, Field] = {"kind": kind, **fields}
    if array is not None:
        name, values = array
        if values.ndim != 1 or values.dtype.itemsize != _ITEM_BYTES:
            raise ValueError("an array of the round has one dimension and items of eight bytes")
        content |= {
            "array": name,
            "dtype": values.dtype.name,
            "length": len(values),
            "data": np.ascontiguousarray(values).tobytes(),
        }
    return RecordDict({_RECORD: ConfigRecord(content)})  # type: ignore[arg-type]  # it asks for an invariant dictionary


def size_of(records: RecordDict) -> int:
    """Return the bytes of a message's fields and arrays, without what the transport adds; other records count nothing."""
    from flwr.app import ArrayRecord, ConfigRecord

    total = 0
    for record in records.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            total += sum(_field_size(name) + _field_size(value) for name, value in record.items())
    return total


def kind_of(records: RecordDict) -> str:
    """Return which kind of message this says it is.

    Raises:
        PeerError: it has no record of ours. The sender's fault.
    """
    from flwr.app import ConfigRecord

    record = records.get(_RECORD)
    if not isinstance(record, ConfigRecord):
        raise PeerError("A message of the round has no Ringfence record.")
    return str(record.get("kind"))


def read_fields(records: RecordDict, *, kind: str, names: set[str]) -> dict[str, object]:
    """Return the fields of a message of this kind, which has exactly these.

    Raises:
        PeerError: it is of another kind, or has other fields or records. The sender's fault.
    """
    found = kind_of(records)
    record = records[_RECORD]
    expected = names | {"kind"} | (frozenset() if kind == REFUSAL_KIND else _ARRAY_FIELDS)
    if found != kind or set(record) != expected or set(records) != {_RECORD}:
        raise PeerError(f"A message of the round is not a {kind}.")
    return {name: record[name] for name in names}


def read_array(records: RecordDict, name: str, dtype: str) -> NDArray[np.generic]:
    """Return the one array of a message, (n,) of an eight-byte type. Call `read_fields` first.

    Raises:
        PeerError: it is another one, or of another length or type. The sender's fault.
    """
    record = records[_RECORD]
    length, data = record["length"], record["data"]
    fits = (
        record["array"] == name
        and record["dtype"] == dtype
        and isinstance(length, int)
        and not isinstance(length, bool)
        and isinstance(data, bytes)
        and 0 < length <= _MAX_PARAMETERS
        and len(data) == _ITEM_BYTES * length
    )
    if not fits:
        raise PeerError(f"A message of the round carries no array {name} of its length and type.")
    return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<"))  # type: ignore[arg-type]


def read_model(records: RecordDict) -> NDArray[np.float64]:
    """Return the model of a request, (d,) float64.

    Raises:
        PeerError: as `read_array`, or it is not finite.
    """
    parameters = read_array(records, "parameters", "float64")
    if not np.isfinite(parameters).all():
        raise PeerError("A request of the round carries a model that is not finite.")
    return parameters.astype(np.float64)


def read_plan(fields: dict[str, object]) -> tuple[bytes, bytes]:
    """Return the plan of a request and its signature, neither of them checked.

    Raises:
        PeerError: they are not bytes, or too long. The coordinator's fault.
    """
    plan, signature = fields["plan"], fields["signature"]
    if not isinstance(plan, bytes) or len(plan) > _MAX_PLAN_BYTES or not isinstance(signature, bytes):
        raise PeerError("A request of the round carries no readable plan.")
    return plan, signature


def read_text(value: object) -> str:
    """Return a short text.

    Raises:
        PeerError: it is none.
    """
    if not isinstance(value, str) or not 0 < len(value) <= 128:
        raise PeerError("A message of the round has a text field of another form.")
    return value


def read_run(value: object) -> str:
    """Return the name of a run.

    Raises:
        PeerError: it is none.
    """
    if not isinstance(value, str) or _RUN_NAME.fullmatch(value) is None:
        raise PeerError("A message of the round names no run.")
    return value


def read_head(value: object) -> bytes:
    """Return a signed ledger head, not checked; empty for none.

    Raises:
        PeerError: it is too long, or not bytes.
    """
    if not isinstance(value, bytes) or len(value) > _MAX_HEAD_BYTES:
        raise PeerError("A message of the round has a ledger head of another form.")
    return value


def read_count(value: object) -> int:
    """Return a counter, 1 to 1,000,000.

    Raises:
        PeerError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
        raise PeerError("A message of the round has a counter out of range.")
    return value


def _field_size(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, list):
        return sum(_field_size(item) for item in value)
    return len(value) if isinstance(value, bytes) else 8
