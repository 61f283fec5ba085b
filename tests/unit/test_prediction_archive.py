"""The archive of predictions: rows are found by their place, however files were merged, and old ones go."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from features.layout import NEVER
from features.store import Position
from offline import prediction_archive
from offline.prediction_archive import FILES_A_LEVEL, PredictionArchive
from streams.served_rows import ServedRow

DAY = 86_400_000_000


def row(number: int, time_us: int = 0) -> tuple[Position, bytes]:
    served = ServedRow(f"o{number}", time_us, b"", (), b"", "", 0.5, 1.0, ())
    return Position(number // 3, number % 3), msgspec.msgpack.encode(served)


def test_rows_are_found_by_their_place_before_and_after_files_were_merged(tmp_path: Path) -> None:
    archive = PredictionArchive(tmp_path, "orders")
    rows = [row(number, number) for number in range(4 * FILES_A_LEVEL)]
    for start in range(0, len(rows), 3):
        archive.write(1, rows[start : start + 3][::-1], NEVER)
        assert archive.read(1, [at for at, _ in rows]) == dict(rows[: start + 3])
    assert archive.read(1, [Position(0, 7), Position(99_999, 0)]) == {}
    assert archive.read(0, [rows[0][0]]) == {}
    assert len(list(tmp_path.rglob("*.parquet"))) < FILES_A_LEVEL


def test_what_is_written_again_after_a_crash_stands_there_once(tmp_path: Path) -> None:
    archive = PredictionArchive(tmp_path, "orders")
    archive.write(0, [row(1), row(2)], NEVER)
    archive.write(0, [row(2), row(1)], NEVER)
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


def test_a_merge_that_was_killed_before_it_deleted_anything_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_archive, "FILES_A_LEVEL", 3)
    archive = PredictionArchive(tmp_path, "orders")
    rows = [row(number) for number in range(8)]
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        for one in rows[:4]:
            archive.write(0, [one], NEVER)
    assert archive.read(0, [at for at, _ in rows]) == dict(rows[:4])
    for one in rows[4:]:
        archive.write(0, [one], NEVER)
    assert archive.read(0, [at for at, _ in rows]) == dict(rows)


def test_a_read_while_a_merge_deletes_one_file_after_another_finds_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_archive, "FILES_A_LEVEL", 5)
    archive = PredictionArchive(tmp_path, "orders")
    rows = [row(number) for number in range(0, 15, 3)]
    with monkeypatch.context() as merging:
        merging.setattr(Path, "unlink", lambda *_, **__: None)
        for one in rows:
            archive.write(0, [one], NEVER)
    real, deleted = prediction_archive.Footer.of, []

    def deleted_just_before(path: Path) -> prediction_archive.Footer:
        if path.name.startswith("0-"):
            path.unlink()
            deleted.append(path.name)
        return real(path)

    monkeypatch.setattr(prediction_archive.Footer, "of", deleted_just_before)
    assert archive.read(0, [at for at, _ in rows]) == dict(rows)
    assert len(deleted) == 5


def test_rows_that_no_label_can_ask_for_any_more_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_archive, "FILES_A_LEVEL", 3)
    archive = PredictionArchive(tmp_path, "orders")
    rows = [row(number, number * DAY) for number in range(9)]
    for number, one in enumerate(rows):
        archive.write(0, [one], (number - 2) * DAY)
    assert archive.read(0, [at for at, _ in rows]) == dict(rows[6:])


def test_files_grow_until_they_are_full_and_go_whole_when_they_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_archive, "FILES_A_LEVEL", 3)
    monkeypatch.setattr(prediction_archive, "FULL_ROWS", 12)
    monkeypatch.setattr(prediction_archive, "GROUP_ROWS", 4)
    archive = PredictionArchive(tmp_path, "orders")
    rows = [row(number, number * DAY) for number in range(240)]
    for start in range(0, len(rows), 2):
        archive.write(0, rows[start : start + 2], (start - 59) * DAY)
    found = archive.read(0, [at for at, _ in rows])
    assert found == dict(rows[240 - len(found) :])
    sizes = [pq.read_metadata(path).num_rows for path in tmp_path.rglob("9-*")]
    assert sizes and set(sizes) <= set(range(12, 24))  # full, and never much more
    assert 60 <= len(found) <= 60 + 24 + 2 * 9  # what is kept, a full file, and what is not merged yet


def test_a_read_opens_only_the_files_and_row_groups_in_which_something_may_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_archive, "GROUP_ROWS", 4)
    archive = PredictionArchive(tmp_path, "orders")
    rows = [row(number) for number in range(36)]
    for start in range(0, 36, 12):
        archive.write(0, rows[start : start + 12], NEVER)
    opened: list[list[int]] = []
    read_row_groups = pq.ParquetFile.read_row_groups

    def counted(file: pq.ParquetFile, groups: list[int], *rest: object, **more: object) -> object:
        opened.append(groups)
        return read_row_groups(file, groups, *rest, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", counted)
    asked = [rows[place] for place in (12, 14, 35)]  # two in one group, one in the last of another file
    assert archive.read(0, [at for at, _ in asked]) == dict(asked)
    assert opened == [[0], [2]]


def test_what_is_older_stays_while_it_is_not_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_archive, "FILES_A_LEVEL", 3)
    archive = PredictionArchive(tmp_path, "orders")
    rows = [row(number, number * DAY) for number in range(90)]
    for one in rows[:81]:
        archive.write(0, [one], 0)
    assert archive.read(0, [at for at, _ in rows]) == dict(rows[:81])
    for one in rows[81:]:  # and then all of it at once: files whose rows have all gone leave none behind
        archive.write(0, [one], 85 * DAY)
    assert archive.read(0, [at for at, _ in rows]).keys() >= dict(rows[85:]).keys()
    for path in tmp_path.rglob("*.parquet"):
        assert pq.read_metadata(path).num_rows
