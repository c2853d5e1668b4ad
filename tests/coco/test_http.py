"""Bytes over HTTP: what is asked for again, and a file read where it lies."""

import os

import pytest

from sima_core.coco.http import AbsentError, Client, FetchError, NoRangesError, RemoteFile
from sima_core.errors import InputError

CONTENT = bytes(range(100))


@pytest.fixture
def remote(server):
    server.files["/file"] = CONTENT
    with Client() as client:
        yield RemoteFile(client, f"{server.url}/file")


def test_a_remote_file_is_read_like_one_on_disk(server, remote):
    assert remote.seek(-10, os.SEEK_END) == 90
    assert remote.read(4) == CONTENT[90:94]
    assert remote.seek(1, os.SEEK_CUR) == 95
    assert remote.read() == CONTENT[95:]
    assert (remote.read(5), remote.tell()) == (b"", 100)
    assert remote.seek(200) == 200
    assert remote.read() == b""
    with pytest.raises(OSError, match="Invalid argument"):  # which zipfile waits for
        remote.seek(-101, os.SEEK_END)
    assert server.served["/file"] == 4 + 5  # not a byte more


def test_beyond_the_end_there_is_nothing_to_wait_for(remote):
    with pytest.raises(FetchError):
        remote.read_at(90, 20)


@pytest.mark.parametrize(("status", "times"), [(403, 1), (418, 1), (503, 3)])
def test_only_what_may_pass_is_asked_for_again(server, status, times):
    server.files["/file"] = CONTENT
    server.faults["/file"] = [status] * 2
    with Client() as client:
        if times == 1:
            with pytest.raises(FetchError):
                client.whole(f"{server.url}/file", 1000)
        else:
            assert client.whole(f"{server.url}/file", 1000) == CONTENT
    assert len(server.requests) == times


def test_what_is_absent_and_what_has_no_parts(server):
    server.files["/file"] = CONTENT
    server.ranges = False
    with Client() as client:
        with pytest.raises(AbsentError):
            client.size(f"{server.url}/other")
        with pytest.raises(NoRangesError):
            client.part(f"{server.url}/file", 0, 10)


def test_nothing_is_waited_for_after_a_stop(server):
    server.files["/file"] = CONTENT
    server.faults["/file"] = ["cut"] * 5
    with Client() as client:
        client.stop.set()
        with pytest.raises(FetchError):
            client.whole(f"{server.url}/file", 1000)
    assert len(server.requests) == 1


@pytest.mark.parametrize("proxy", ["foo://127.0.0.1:1", "socks5://127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used_is_a_sentence(monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(InputError, match="proxy that the environment names cannot be used"):
        Client()
