"""What is too large to travel: files in a folder that all hosts share (`--artifacts DIR`), named by digest.

A file is written whole under another name first, and read with its digest looked at: who finds one there has
what was meant, or an error.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

import msgspec

from cms.batch.remote import MOST, Assignment, Done
from cms.errors import CmsError
from cms.files import replace_file
from cms.session.model import Outcome

#: Fields that may be large: of the assignment itself, and of its options.
_TEXTS: Final = ("prompt", "context")
_OPTIONS: Final = ("system_prompt", "append_system_prompt")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")
_set = msgspec.structs.replace


class ArtifactError(CmsError):
    """A part of a task, or of its answer, is too large to travel, or is not where it should be."""

    code = "artifact"


def store(folder: str, data: bytes) -> str:
    """Have these bytes in the folder; returns their digest.

    Raises:
        ArtifactError: they cannot be written.
    """
    digest = hashlib.sha256(data).hexdigest()
    path = Path(folder) / digest[:2] / digest
    try:
        if path.is_file():
            return digest
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data, mode=None)
    except OSError as error:
        raise ArtifactError(f"--artifacts: {path} cannot be written: {error.strerror or error}") from None
    return digest


def path_of(folder: str, digest: str) -> Path:
    """Where the bytes of that digest are, or would be.

    Raises:
        ArtifactError: it is no digest, or there is no folder.
    """
    if not _DIGEST.match(digest):
        raise ArtifactError(f"{digest[:80]!r} is not an artifact")
    if not folder:
        raise ArtifactError("part of the task is in a shared folder, but there is no --artifacts folder")
    return Path(folder) / digest[:2] / digest


def load(folder: str, digest: str) -> bytes:
    """The bytes of that digest.

    Raises:
        ArtifactError: they are not there, or are not what they were.
    """
    path = path_of(folder, digest)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"--artifacts: {path} cannot be read here: {error.strerror or error}",
            hint="the folder must be shared by all hosts",
        ) from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArtifactError(f"--artifacts: {path} does not have what was put there")
    return data


def packed(job: Assignment) -> bytes:
    """An assignment as it travels, its longest texts beside it where it is too large.

    Raises:
        ArtifactError: it is too large, and there is no folder to put them.
    """
    data = msgspec.json.encode(job)
    if len(data) <= MOST:
        return data
    if not job.artifacts:
        raise ArtifactError(
            f"the task is {len(data)} bytes long; {MOST} can travel",
            hint="share a folder between the hosts: --artifacts DIR",
        )
    beside = dict(job.beside)
    for field in _TEXTS:
        if text := getattr(job, field):
            beside[field] = store(job.artifacts, text.encode())
            job = _set(job, **{field: ""})
    for field in _OPTIONS:
        if text := getattr(job.options, field):
            beside[field] = store(job.artifacts, text.encode())
            job = _set(job, options=_set(job.options, **{field: ""}))
    data = msgspec.json.encode(_set(job, beside=beside))
    if len(data) > MOST:
        raise ArtifactError(f"the task is {len(data)} bytes long without its texts; {MOST} can travel")
    return data


def unpacked(job: Assignment) -> Assignment:
    """With the texts that were beside it.

    Raises:
        ArtifactError: they are not there.
    """
    for field, digest in job.beside.items():
        text = load(job.artifacts, digest).decode(errors="replace")
        if field in _TEXTS:
            job = _set(job, **{field: text})
        elif field in _OPTIONS:
            job = _set(job, options=_set(job.options, **{field: text}))
    return _set(job, beside={})


def packed_answer(done: Done, folder: str) -> bytes:
    """How a job ended, as it travels. Never raises: an answer that cannot travel says so."""
    data = msgspec.json.encode(done)
    if len(data) > MOST and done.branch:
        done = _set(done, patch="", fetch=bool(done.patch))
        data = msgspec.json.encode(done)
    if len(data) <= MOST:
        return data
    size = len(data)
    try:
        if not folder:
            raise ArtifactError(
                f"the answer is {size} bytes long; {MOST} can travel",
                hint="share a folder between the hosts: --artifacts DIR",
            )
        beside = {}
        if done.result is not None and done.result.response:
            beside["response"] = store(folder, done.result.response.encode())
            done = _set(done, result=_set(done.result, response=""))
        if done.patch:
            beside["patch"] = store(folder, done.patch.encode())
            done = _set(done, patch="")
        data = msgspec.json.encode(_set(done, beside=beside))
        if len(data) > MOST:
            raise ArtifactError(f"the answer is {len(data)} bytes long without its texts; {MOST} can travel")
    except ArtifactError as error:
        return msgspec.json.encode(_too_large(done, str(error)))
    return data


def _too_large(done: Done, why: str) -> Done:
    """It was done, and cannot be told: failed, at its cost."""
    result = done.result
    if result is None:
        return _set(done, patch="", allowed=())
    told = f"{why}; the answer is in session {result.name!r} on node {done.node}"
    result = _set(
        result, status=Outcome.FAILED, response="", error=told, tools_used=(), reasons=(), questions=()
    )
    return _set(done, result=result, patch="", allowed=done.allowed[:100])


def without_texts(done: Done, why: str) -> Done:
    """An answer whose texts are not where they should be: it was done, and cannot be told."""
    return _too_large(_set(done, beside={}), why)


def unpacked_answer(done: Done, folder: str, most: int) -> Done:
    """With what was beside it, `most` bytes as JSON.

    Raises:
        ArtifactError: it is not there, or too large.
    """
    beside = done.beside
    for field, digest in beside.items():
        text = load(folder, digest).decode(errors="replace")
        if field == "response" and done.result is not None:
            done = _set(done, result=_set(done.result, response=text))
        elif field == "patch":
            done = _set(done, patch=text)
    done = _set(done, beside={})
    if beside and (size := len(msgspec.json.encode(done))) > most:
        parts = ", ".join(f"its {field} is {path_of(folder, digest)}" for field, digest in beside.items())
        raise ArtifactError(f"the answer is {size} bytes long; {most} can be taken ({parts})")
    return done
