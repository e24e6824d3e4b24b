"""Atomic writing of files."""

import resource

import pytest

from efficientdet_tf.files import WriteError, replacing, write_atomically


def test_text_and_bytes_replace_the_file(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "ä")
    assert path.read_bytes() == "ä".encode()
    write_atomically(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    for name in ("a" * 251 + ".txt", "ü" * 125 + ".h5"):
        write_atomically(tmp_path / name, "1")
        with replacing(tmp_path / name) as partial:
            assert partial.suffix == (tmp_path / name).suffix
            partial.write_text("2")
        assert (tmp_path / name).read_text() == "2"
    assert len(list(tmp_path.iterdir())) == 2


def test_an_error_while_writing_leaves_the_file_unchanged(tmp_path):
    path = tmp_path / "a.weights.h5"
    write_atomically(path, "before")
    with pytest.raises(ValueError, match="^stop$"), replacing(path) as partial:
        # Keras infers the format from the suffix.
        assert partial.name.endswith(".weights.h5")
        partial.write_text("half")
        raise ValueError("stop")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_the_partial_file_is_removed(tmp_path):
    """The system limits files to 1000 bytes."""
    path = tmp_path / "a.txt"
    write_atomically(path, "before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(WriteError) as error:
            write_atomically(path, b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value) == f"{path}: cannot be written: File too large"
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder(tmp_path):
    with pytest.raises(WriteError) as error:
        write_atomically(tmp_path / "no" / "a.txt", "")
    assert str(error.value) == f"{tmp_path}/no/a.txt: cannot be written: No such file or directory"
