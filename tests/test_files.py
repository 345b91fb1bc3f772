"""Files are whole or not there, whoever writes them, wherever they lie."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sam_repro.files import regular, replacing, write_json


def test_writers_of_one_file_do_not_clash(tmp_path):
    def write(value: int) -> None:
        write_json(tmp_path / "file.json", [value] * 1000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(60)))
    assert len(set(json.loads((tmp_path / "file.json").read_text()))) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "target").write_text("somebody's")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    with replacing(tmp_path / "file") as file:
        file.write(b"ours")
    assert (tmp_path / "target").read_text() == "somebody's"
    assert (tmp_path / "file").read_text() == "ours"
    assert not (tmp_path / "file").is_symlink()


def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch):
    sync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_json(tmp_path / "file.json", {"a": 1})
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": 1}


def test_what_is_read_is_a_plain_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for odd in (tmp_path / "pipe", tmp_path / "link", tmp_path):
        with pytest.raises(OSError, match="it is no plain file"):
            regular(odd)
    assert regular(Path(__file__)) == Path(__file__)
