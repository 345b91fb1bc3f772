"""No test of a data set reaches the network."""

import urllib.request

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that tries the network by mistake fails at once."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for kind in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(kind, "http://127.0.0.1:9/")  # refuses at once
    monkeypatch.setattr(urllib.request, "_opener", None)  # the one that an earlier test has left knows no proxy
