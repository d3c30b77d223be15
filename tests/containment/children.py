"""Small real programs to put into containers, and the one way in which the tests wait for what they say."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from cms.containment import Container, Spec

PYTHON = os.path.realpath(sys.executable)
ENV = {"PATH": os.defpath}


def shell(script: str, cwd: Path, *arguments: str) -> Spec:
    """A spec that runs a shell script with a plain environment; it knows the arguments as "$@"."""
    return Spec(argv=("/bin/sh", "-c", script, "sh", *arguments), env=ENV, cwd=cwd)


def python(source: str, cwd: Path, *arguments: str) -> Spec:
    """A spec that runs a Python program, without site-packages."""
    return Spec(argv=(PYTHON, "-I", "-S", "-c", source, *arguments), env=ENV, cwd=cwd)


def open_descriptors() -> int:
    """How many this process has, to see that none is lost."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def read_until(
    container: Container, wanted: bytes, stream: trio.abc.ReceiveStream | None = None
) -> bytes:
    """Read the command's stdout (or another stream) until `wanted` has come.

    Raises:
        AssertionError: it ended before that.
    """
    said = b""
    while wanted not in said:
        chunk = await (stream or container.stdout).receive_some()
        assert chunk, f"ended early, having said {said!r}; stderr: {await read_all(container.stderr)!r}"
        said += chunk
    return said


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Read to the end: everybody who could write is gone."""
    said = b""
    while chunk := await stream.receive_some():
        said += chunk
    return said
