"""Collects the windows of one entity into its plan: equal inputs once, windows over the same tiles in one group."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from features.layout import KNOWN_IDENTITY
from features.plan import EntityPlan, GroupKind, Input, Output, Point, PointKind, WindowGroup
from features.windows import RULES, label_ring_length, ring_length, tile_us


class EntityBuilder:
    """The plan of one entity, growing feature by feature. `label_inputs` are all that its windows could be over."""

    def __init__(self, name: str, keys: tuple[str, ...], label_inputs: Sequence[str] = ()) -> None:
        self.name = name
        self.keys = keys
        self.label_inputs = label_inputs
        self.inputs: list[Input] = []
        self.hashed: list[Input] = []
        self.groups: list[WindowGroup] = []
        self.points: list[Point] = []
        self.outputs: list[Output] = []

    def add(
        self,
        name: str,
        aggregate: str,
        value: str | None,
        where: str | None,
        width_us: int,
        default: float,
        half_life_us: int,
        bound: int,
    ) -> int:
        """Add a feature; returns its index among the entity's outputs."""
        rule = RULES[aggregate]
        column = _index(self.hashed if aggregate == "distinct" else self.inputs, Input(value, where))
        if isinstance(rule.source, GroupKind):
            source = self.group(rule.source, column, width_us, bound)
        else:
            source = self.point(rule.source, column, width_us, half_life_us)
        self.outputs.append(Output(name, rule.aggregate, source, width_us, default))
        return len(self.outputs) - 1

    def add_over_label(
        self, name: str, aggregate: str, label_input: str, width_us: int, default: float
    ) -> int:
        """Add a feature over labels; returns its index among the entity's outputs."""
        source = self.group(GroupKind.SUMS, self.label_inputs.index(label_input), width_us, 0)
        self.outputs.append(Output(name, RULES[aggregate].aggregate, source, width_us, default))
        return len(self.outputs) - 1

    def plan(self) -> EntityPlan:
        """The finished plan."""
        over_labels = {group.column for group in self.groups if group.kind is GroupKind.SUMS}
        used = sorted(over_labels)  # those that no window is over do not travel
        groups = [
            replace(group, column=used.index(group.column)) if group.kind is GroupKind.SUMS else group
            for group in self.groups
        ]
        return EntityPlan(
            self.name,
            self.keys,
            tuple(self.inputs),
            tuple(self.hashed),
            tuple(groups),
            tuple(self.points),
            tuple(self.outputs),
            tuple(self.label_inputs[column] for column in used),
        )

    def group(self, kind: GroupKind, column: int, width_us: int, bound: int) -> int:
        """The group with this input and tile size, its ring long enough for this window too."""
        tile = tile_us(width_us)
        ring = label_ring_length(width_us) if kind is GroupKind.SUMS else ring_length(width_us)
        for index, group in enumerate(self.groups):
            if (group.kind, group.column, group.tile_us, group.bound) == (kind, column, tile, bound):
                self.groups[index] = replace(group, ring=max(group.ring, ring))
                return index
        identity = self.identity("group", int(kind), *self._described(kind, column), tile, bound)
        self.groups.append(WindowGroup(kind, column, tile, ring, bound, identity))
        return len(self.groups) - 1

    def _described(self, kind: GroupKind, column: int) -> tuple[str | None, str | None]:
        if kind is GroupKind.SUMS:
            return self.label_inputs[column], None
        given = (self.hashed if kind is GroupKind.DISTINCT else self.inputs)[column]
        return given.value, given.where

    def point(self, kind: PointKind, column: int, within_us: int, half_life_us: int) -> int:
        """The point with this input, reach and half-life."""
        for index, point in enumerate(self.points):
            if (point.kind, point.column, point.within_us, point.half_life_us) == (
                kind,
                column,
                within_us,
                half_life_us,
            ):
                return index
        given = self.inputs[column]
        identity = self.identity("point", int(kind), given.value, given.where, within_us, half_life_us)
        self.points.append(Point(kind, column, within_us, half_life_us, identity))
        return len(self.points) - 1

    def identity(self, *parts: object) -> int:
        """32 bits that name a group's or point's state in the store; never 0 (the entity's own), never one in use."""
        taken = {
            0,
            KNOWN_IDENTITY,
            *(group.identity for group in self.groups),
            *(point.identity for point in self.points),
        }
        content = json.dumps([self.name, self.keys, *parts]).encode()
        while (
            identity := int.from_bytes(hashlib.blake2b(content, digest_size=4).digest(), "little")
        ) in taken:
            content += b"+"
        return identity


def _index(inputs: list[Input], given: Input) -> int:
    if given not in inputs:
        inputs.append(given)
    return inputs.index(given)
