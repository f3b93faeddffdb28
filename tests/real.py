"""What tests on real services ask of the machine."""

import contextlib
import os
import socket

import pytest


def need(missing: str | None) -> None:
    """Skip a test for what is missing on this machine, if anything; where CI=true, fail it."""
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def free_ports(n: int) -> list[int]:
    """Different ports of loopback that nobody listens at."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
