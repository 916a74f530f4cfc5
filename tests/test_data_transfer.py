"""Downloads that break off, are cut short, are something else, or find no room: against a server on the loopback
address.
"""

import errno
import fcntl
import hashlib
import shutil
import socket
import sys
import threading
import traceback
from collections import namedtuple

import pytest
from tests_data import no_network  # noqa: F401
from tests_server import server  # noqa: F401

from kit.data import download
from kit.data.download import DownloadError, Meter, fetch, md5_of
from kit.errors import KitError

CONTENT = bytes(range(256)) * 400  # 102,400 bytes
MD5 = hashlib.md5(CONTENT).hexdigest()


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def test_a_file_appears_whole_and_alone(tmp_path, server):
    url = server.add("set.tar", CONTENT)
    assert fetch(url, tmp_path / "new" / "set.tar", MD5).read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["set.tar"] and [sent.range for sent in server.sent] == [None]


@pytest.mark.parametrize("abrupt", [False, True])
def test_what_broke_off_goes_on_where_it_broke_off(tmp_path, server, abrupt):
    url, server.abrupt = server.add("set.tar", CONTENT), abrupt
    server.breaks["set.tar"] = [40_000, 30_000, None]
    assert fetch(url, tmp_path / "set.tar", MD5).read_bytes() == CONTENT
    if not abrupt:  # after a reset fewer bytes may have arrived than were sent
        assert [(sent.range, sent.status, sent.size) for sent in server.sent] == [
            (None, 200, 40_000),
            ("bytes=40000-", 206, 30_000),
            ("bytes=70000-", 206, 32_400),
        ]
    assert names(tmp_path) == ["set.tar"]


def test_a_later_start_goes_on_where_a_killed_one_was(tmp_path, server, monkeypatch):
    url = server.add("set.tar", CONTENT)
    server.breaks["set.tar"] = [50_000]

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(download.time, "sleep", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(url, tmp_path / "set.tar", MD5)
    assert names(tmp_path) == ["set.tar.part", "set.tar.part.json"]
    assert fetch(url, tmp_path / "set.tar", MD5).read_bytes() == CONTENT
    assert [sent.size for sent in server.sent] == [50_000, 52_400], "only the rest was sent"


def test_a_whole_part_is_not_asked_for_again(tmp_path, server, monkeypatch):
    url = server.add("set.tar", CONTENT)
    with monkeypatch.context() as patched:
        patched.setattr(download.os, "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch(url, tmp_path / "set.tar", MD5)
    assert fetch(url, tmp_path / "set.tar", MD5).read_bytes() == CONTENT and len(server.sent) == 1


def test_another_file_under_the_same_address_is_not_mixed_with_the_old(tmp_path, server):
    url = server.add("set.tar", CONTENT)
    server.breaks["set.tar"] = [50_000] * 9
    server.ranges = False
    with pytest.raises(DownloadError, match="broke off after 50,000 of 102,400 bytes; 5 attempts at"):
        fetch(url, tmp_path / "set.tar")
    assert len(server.sent) == 1 + 1 + download.RETRIES, "the first brought something new"
    server.breaks["set.tar"], server.ranges = [], True
    server.add("set.tar", CONTENT[::-1])
    assert fetch(url, tmp_path / "set.tar").read_bytes() == CONTENT[::-1]
    assert (server.sent[-1].range, server.sent[-1].status) == ("bytes=50000-", 200), (
        "asked for the rest, got the new whole"
    )


def test_killed_when_the_new_file_is_known_but_none_of_it_is_here(tmp_path, server, monkeypatch):
    url = server.add("set.tar", CONTENT)
    server.breaks["set.tar"], server.ranges = [50_000] * 9, False
    with pytest.raises(DownloadError):
        fetch(url, tmp_path / "set.tar")
    server.add("set.tar", CONTENT[::-1])
    server.breaks["set.tar"], server.ranges = [], True

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(download, "_copy", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(url, tmp_path / "set.tar")
    assert fetch(url, tmp_path / "set.tar").read_bytes() == CONTENT[::-1]


def test_a_part_of_another_address_is_not_used(tmp_path, server):
    (tmp_path / "set.tar.part").write_bytes(b"other")
    (tmp_path / "set.tar.part.json").write_text('{"url": "http://elsewhere", "total": 5, "validator": "\\"x\\""}')
    assert fetch(server.add("set.tar", CONTENT), tmp_path / "set.tar").read_bytes() == CONTENT
    (tmp_path / "set.tar.part").write_bytes(b"other")
    (tmp_path / "set.tar.part.json").write_text("{broken")
    assert fetch(server.url("set.tar"), tmp_path / "set.tar").read_bytes() == CONTENT


@pytest.mark.parametrize("changes", [{"ranges": False}, {"tags": False}])
def test_a_server_without_ranges_or_tags_starts_over(tmp_path, server, changes):
    url = server.add("set.tar", CONTENT)
    for name, value in changes.items():
        setattr(server, name, value)
    server.breaks["set.tar"] = [40_000]
    assert fetch(url, tmp_path / "set.tar").read_bytes() == CONTENT
    assert [sent.size for sent in server.sent] == [40_000, 102_400]


def test_a_wrong_checksum_is_named_and_nothing_stays(tmp_path, server):
    url = server.add("set.tar", CONTENT)
    with pytest.raises(DownloadError, match=f"has MD5 {MD5}, expected 0000$"):
        fetch(url, tmp_path / "set.tar", "0000")
    assert names(tmp_path) == []
    with pytest.raises(DownloadError, match="expected 0000 .it is a web page"):
        fetch(server.add("login", b"\n<!DOCTYPE html><html>who are you?"), tmp_path / "set.tar", "0000")


def test_a_part_that_was_altered_is_fetched_once_more(tmp_path, server, monkeypatch):
    url = server.add("set.tar", CONTENT)
    server.breaks["set.tar"] = [50_000]
    with monkeypatch.context() as patched:
        patched.setattr(download.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch(url, tmp_path / "set.tar", MD5)
    part = tmp_path / "set.tar.part"
    part.write_bytes(b"\0" * 50_000)
    assert md5_of(fetch(url, tmp_path / "set.tar", MD5)) == MD5
    assert [sent.range for sent in server.sent] == [None, "bytes=50000-", None]


def test_passing_failures_are_retried_and_lasting_ones_are_not(tmp_path, server):
    url = server.add("set.tar", CONTENT)
    server.statuses["set.tar"] = [503, 429, 500]
    assert fetch(url, tmp_path / "set.tar").read_bytes() == CONTENT
    assert [sent.status for sent in server.sent] == [503, 429, 500, 200]
    server.sent.clear()
    server.statuses["set.tar"] = [503] * 9
    with pytest.raises(DownloadError, match=f"HTTP 503 .*; {download.RETRIES + 1} attempts at http"):
        fetch(url, tmp_path / "again.tar")
    assert len(server.sent) == download.RETRIES + 1
    for path, status in (("gone.tar", 404), ("closed.tar", 403)):
        server.statuses[path] = [status]
        server.sent.clear()
        with pytest.raises(DownloadError, match=f"HTTP {status} .* for http.*{path}"):
            fetch(server.url(path), tmp_path / path)
        assert len(server.sent) == 1
    assert names(tmp_path) == ["set.tar"]


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path, server):
    url = server.add("set.tar", CONTENT[:1000])
    (tmp_path / "set.tar.part").write_bytes(CONTENT)
    tag = hashlib.md5(CONTENT[:1000]).hexdigest()
    (tmp_path / "set.tar.part.json").write_text(f'{{"url": "{url}", "total": null, "validator": "\\"{tag}\\""}}')
    assert fetch(url, tmp_path / "set.tar").read_bytes() == CONTENT[:1000]
    assert [sent.status for sent in server.sent] == [416, 200]


def test_nobody_at_the_address(tmp_path, server):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(DownloadError, match="ConnectionRefused.*attempts at"):
        fetch(f"http://127.0.0.1:{port}/set.tar", tmp_path / "set.tar")


def test_no_room_is_said_before_a_byte_is_written(tmp_path, server, monkeypatch):
    url = server.add("set.tar", CONTENT)
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(KitError, match="no room in .*: 102.4 kB more are needed and 50.0 kB are free: .*KIT_DATA"):
        fetch(url, tmp_path / "set.tar")
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_meanwhile(tmp_path, server, monkeypatch):
    url = server.add("set.tar", CONTENT)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(download.os, "fsync", full)
        with pytest.raises(KitError, match="no room in .* are free: free some"):
            fetch(url, tmp_path / "set.tar")
    assert fetch(url, tmp_path / "set.tar", MD5).read_bytes() == CONTENT


def test_one_at_a_time_and_no_lock_stays(tmp_path, capsys):
    inside, most, done = [], [], []

    def work():
        with download.alone(tmp_path / ".lock", "it fetches 'set'"):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.02)
            inside.pop()
            done.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 6 and max(most) == 1 and names(tmp_path) == []
    assert "waiting for another process: it fetches 'set'" in capsys.readouterr().out


def test_who_waited_for_the_lock_holds_the_one_that_others_see(tmp_path):
    lock, first_in, first_out, second_in, second_out = tmp_path / ".lock", *(threading.Event() for _ in range(4))

    def work(inside, outside):
        with download.alone(lock, "it fetches 'set'"):
            inside.set()
            outside.wait(5)

    first, second = (
        threading.Thread(target=work, args=args) for args in ((first_in, first_out), (second_in, second_out))
    )
    first.start()
    first_in.wait(5)
    second.start()
    while second.is_alive() and not any("flock" in line for line in _stack(second)):
        pass
    first_out.set()
    second_in.wait(5)
    with open(lock) as file, pytest.raises(BlockingIOError):  # the first removed the file that the second waited at
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    second_out.set()
    for thread in (first, second):
        thread.join()
    assert names(tmp_path) == []


def _stack(thread):
    return [line.line for line in traceback.extract_stack(sys._current_frames()[thread.ident])]


def test_logs_get_a_first_line_a_last_line_and_some_between(capsys):
    with Meter("downloading set.tar", 2_000_000, every=0.0) as meter:
        meter.add(500_000)
    first, middle, last = capsys.readouterr().out.splitlines()
    assert first == "downloading set.tar: starts, 2.0 MB" and middle.startswith(
        "downloading set.tar: 500.0 kB of 2.0 MB, "
    )
    assert last.startswith("downloading set.tar: broke off after 500.0 kB")
    with Meter("downloading set.tar", 2_000_000, done=1_500_000) as meter:
        meter.add(500_000)
    first, last = capsys.readouterr().out.splitlines()
    assert first == "downloading set.tar: goes on after 1.5 MB of 2.0 MB" and last.startswith(
        "downloading set.tar: done, 2.0 MB"
    )
    with Meter("unpacking set.tar", unit="file") as meter:
        meter.add(1200)
    assert "unpacking set.tar: done, 1,200 files" in capsys.readouterr().out
    with pytest.raises(ZeroDivisionError), Meter("unpacking set.tar", unit="file"):
        1 / 0
    assert "broke off after 0 files" in capsys.readouterr().out
