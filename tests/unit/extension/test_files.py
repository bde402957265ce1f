"""The files of extensions: read at once, read again all together, and adopted one by one."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tracker.config import ConfigError
from tracker.extension.files import FileReaders


def read(name: str) -> str:
    text = Path(name).read_text()
    if text == "refused":
        raise ConfigError("refused")
    return text


def write(directory: Path, *texts: str) -> list[str]:
    for number, text in enumerate(texts):
        (directory / str(number)).write_text(text)
    return [str(directory / str(number)) for number in range(len(texts))]


def test_files_are_read_at_once_and_again(tmp_path: Path) -> None:
    files, adopted = FileReaders(), list[str]()
    for name in write(tmp_path, "a", "b"):
        files.add(name, read, adopted.append)
    assert (adopted, list(files.seen)) == (["a", "b"], [str(tmp_path / "0"), str(tmp_path / "1")])
    before = files.seen
    write(tmp_path, "later", "b")
    contents = files.read()
    assert adopted == ["a", "b"], "nothing is adopted in the thread that reads"
    files.adopt(contents)
    assert adopted == ["a", "b", "later", "b"]
    assert files.seen != before


@pytest.mark.parametrize("fault", ["refused", "gone"])
def test_if_one_cannot_be_used_none_is_adopted(tmp_path: Path, fault: str) -> None:
    files, adopted = FileReaders(), list[str]()
    names = write(tmp_path, "a", "b")
    for name in names:
        files.add(name, read, adopted.append)
    before = files.seen
    write(tmp_path, "later", fault)
    if fault == "gone":
        Path(names[1]).unlink()
    # `read` raises an error of its own if the file is gone.
    with pytest.raises(ConfigError):
        files.read()
    assert (adopted, files.seen) == (["a", "b"], before)


def test_a_file_that_cannot_be_used_at_first_is_an_error(tmp_path: Path) -> None:
    files = FileReaders()
    with pytest.raises(ConfigError, match="cannot be read: FileNotFoundError"):
        files.add(str(tmp_path / "nothing"), read, print)
    assert files.read() == []


def test_an_extension_that_fails_to_adopt_does_not_keep_others_from_it(tmp_path: Path) -> None:
    files, adopted = FileReaders(), list[str]()
    first, second = write(tmp_path, "a", "b")

    def adopt(text: str) -> None:
        if text != "a":
            raise RuntimeError("as told")

    files.add(first, read, adopt)
    files.add(second, read, adopted.append)
    write(tmp_path, "x", "y")
    with capture_logs() as log:
        files.adopt(files.read())
    assert adopted == ["b", "y"]
    assert [(line["event"], line["file"]) for line in log] == [("extension_failed", first)]
