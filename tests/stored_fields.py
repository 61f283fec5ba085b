"""What Redis does with packed changes, over dictionaries."""

from __future__ import annotations

from collections.abc import Iterable

from features.packing import CHANGE_HEADER, STORED_HEADER

NEVER = -(2**63)
Fields = dict[tuple[int, int], bytes]


def write(store: dict[str, Fields], changes: Iterable[tuple[str, bytes]]) -> None:
    """Apply change records: remove what was replaced, then write, or delete when the payload is empty."""
    for key, records in changes:
        fields, at = store.setdefault(key, {}), 0
        while at < len(records):
            identity, tile, replaced, length = CHANGE_HEADER.unpack_from(records, at)
            at += CHANGE_HEADER.size
            if replaced != NEVER:
                assert fields.pop((identity, replaced), None) is not None, (
                    "a field is replaced that was never written"
                )
            if length:
                fields[identity, tile] = records[at : at + length]
            else:
                del fields[identity, tile]
            at += length


def packed(fields: Fields) -> bytes:
    """Fields as stored records, in an order of their own as HGETALL gives them."""
    shuffled = sorted(fields.items(), key=lambda item: hash(item[0]))
    return b"".join(STORED_HEADER.pack(*name, len(payload)) + payload for name, payload in shuffled)


def packed_all(store: dict[str, Fields]) -> dict[str, bytes]:
    """Every entity's stored records."""
    return {key: packed(fields) for key, fields in store.items()}
