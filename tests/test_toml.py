from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from autocompress.errors import ConfigError
from autocompress.toml import Schema, find, presets, read, validate


class Record(Schema):
    count: int = Field(default=1, ge=1)
    share: float = 0.5
    names: list[str] = []


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('schema = 1\ncount = 3\nshare = 1\nnames = ["ä"]\n', encoding="utf-8")
    record = read(path, Record)
    assert (record.count, record.share, record.names) == (3, 1.0, ["ä"])
    assert record.schema_ == 1
    assert record.description == ""
    path.write_text("schema = 1")
    assert read(path, Record) == Record()


def test_records_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Record().count = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "key 'schema' is missing; write `schema = 1`"),
        ("schema = 2", r"key 'schema': Input should be 1 \(got 2\)"),
        ("schema = 1\ncounts = 3", "unknown key 'counts'; allowed are schema, description, count"),
        ("schema = 1\ncount = 0", r"key 'count': .*greater than or equal to 1 \(got 0\)"),
        ("schema = 1\ncount = 'many'", "key 'count'"),
        ("schema = 1\ncount = 1.5", "key 'count'"),
        ("schema = 1\nnames = 'a'", "key 'names': .*list"),
        ("schema = 1\nnames = ['a', 3]", r"key 'names.1': .*string \(got 3\)"),
        ("schema = 1\n[count]\na = 1", "key 'count'"),
        ("schema = 1\ncount = 1\ncount = 2", "not valid TOML"),
        ("schema =", "not valid TOML"),
    ],
)
def test_what_is_refused_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read(path, Record)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        read(tmp_path / "none.toml", Record)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path, Record)
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "b.toml", Record)


def test_values_from_elsewhere_name_where_they_came_from() -> None:
    assert validate({"count": 2}, Record, "here").count == 2
    with pytest.raises(ConfigError, match="here: unknown key 'cuont'"):
        validate({"cuont": 2}, Record, "here")


def test_a_name_is_a_preset_and_a_path_is_a_file(tmp_path: Path) -> None:
    listed = presets("objectives")
    assert list(listed) == sorted(listed)
    assert find("objectives", "balanced") == listed["balanced"]
    (tmp_path / "mine.toml").write_text("schema = 1")
    assert find("objectives", "mine.toml", tmp_path) == tmp_path / "mine.toml"
    assert find("objectives", str(tmp_path / "mine.toml")) == tmp_path / "mine.toml"
    with pytest.raises(ConfigError, match="objectives: no preset 'mine'; there are balanced"):
        find("objectives", "mine", tmp_path)
    with pytest.raises(ConfigError, match=r"other\.toml: no such file"):
        find("objectives", "other.toml", tmp_path)


def test_a_path_may_start_at_the_study_or_where_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (tmp_path / "mine.toml").write_text("schema = 1")
    monkeypatch.chdir(tmp_path)
    assert find("objectives", "mine.toml", study).samefile(tmp_path / "mine.toml")
    (study / "mine.toml").write_text("schema = 1")
    assert find("objectives", "mine.toml", study) == study / "mine.toml"
