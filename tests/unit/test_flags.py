"""Flags of a prediction: one bit each, and a name for every bit."""

from __future__ import annotations

from streams import flags


def test_every_flag_has_a_bit_and_a_name_of_its_own():
    bits = [value for name, value in vars(flags).items() if name.isupper() and isinstance(value, int)]
    assert sorted(bits) == sorted(flags.NAMES) == [1 << place for place in range(len(bits))]
    assert len(set(flags.NAMES.values())) == len(bits)
    assert list(flags.MEANINGS) == list(flags.NAMES.values())


def test_the_names_of_several_flags_stand_in_one_order():
    assert flags.flag_names(0) == []
    assert flags.flag_names(flags.UNSEEN_CATEGORY | flags.LATE) == ["late", "unseen_category"]
    assert flags.flag_names(sum(flags.NAMES)) == list(flags.NAMES.values())
