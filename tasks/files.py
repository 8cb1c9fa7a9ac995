"""Files of a tenant: their bytes in an object store, a record of each in Redis.

The store is whatever fsspec reaches: a local folder (`file://var/files`) or a bucket
(`s3://bucket/prefix`). Bytes go in and out as a stream. An object is written under an id of its
own and can be found only once its record says that it is whole; what a dead process left behind
is purged like anything that has expired.

file:{id}         hash  the record
files:{tenant}    zset  file id -> ms of creation, of the files that the tenant sees
files:expiring    zset  file id -> second after which it is purged
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, cast
from urllib.parse import urlsplit

import fsspec
import redis

CHUNK_BYTES = 256 * 1024
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
UNFINISHED_SECONDS = 6 * 3600  # an upload that takes longer is taken for dead


class FileError(Exception):
    """The file cannot be had."""


class UnknownFileError(FileError):
    """No such file."""


class FileTooLargeError(FileError):
    """The file is larger than allowed."""

    def __init__(self, most: int) -> None:
        super().__init__(self.__doc__)
        self.most = most


class FileStoreDownError(FileError):
    """The file store did not take the file."""

    def __init__(self, *, full: bool) -> None:
        super().__init__(self.__doc__)
        self.full = full  # no room, or more than this process may write


@dataclass(frozen=True)
class StoredFile:
    """The record of a file. Times are seconds since 1970, by Redis' clock."""

    id: str
    tenant: str
    filename: str
    purpose: str
    size: int  # bytes
    created_at: int
    expires_at: int | None
    listed: bool  # False: a part of something else, found through that alone

    @classmethod
    def from_record(cls, record: dict[bytes, bytes]) -> Self:
        """Build from a Redis hash."""
        expires = int(record[b"expires_at"])
        return cls(
            id=record[b"id"].decode(),
            tenant=record[b"tenant"].decode(),
            filename=record[b"filename"].decode(),
            purpose=record[b"purpose"].decode(),
            size=int(record[b"bytes"]),
            created_at=int(record[b"created_at"]),
            expires_at=expires or None,
            listed=record[b"listed"] == b"1",
        )


def new_file_id() -> str:
    """An id that cannot be guessed."""
    return f"file-{secrets.token_hex(16)}"


class Sink:
    """Where the bytes of a new file go."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.size = 0  # bytes so far

    def write(self, data: bytes) -> None:
        """Append."""
        self._stream.write(data)
        self.size += len(data)


@dataclass
class NewFile:
    """A file under way: write to `sink`; `stored` is there when the block has ended."""

    id: str
    sink: Sink
    stored: StoredFile | None = None

    @property
    def record(self) -> StoredFile:
        """The record of the finished file."""
        assert self.stored is not None  # noqa: S101 - read after the block
        return self.stored


class FileStore:
    """The files of all tenants."""

    def __init__(self, client: redis.Redis, prefix: str, url: str) -> None:
        self._redis = client
        self._prefix = prefix
        if url.startswith("file://"):
            # As written after the scheme: file://var/files is relative, file:///data is not.
            url = f"file://{Path(url.removeprefix('file://')).resolve()}"
        self._url = url
        self._fs: Any = None

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    def _now(self) -> float:
        # A process whose own clock has jumped must not purge what others still need.
        seconds, micros = self._redis.time()
        return float(seconds + micros / 1e6)

    def _path(self, tenant: str, file_id: str) -> str:
        if self._fs is None:
            # Made when first needed: only then must the library for this kind of store be there.
            protocol = urlsplit(self._url).scheme
            options = {"auto_mkdir": True} if protocol == "file" else {}
            self._fs, self._root = fsspec.core.url_to_fs(self._url, **options)
        return f"{self._root.rstrip('/')}/{tenant}/{file_id}"

    @contextmanager
    def writing(
        self,
        tenant: str,
        *,
        filename: str,
        purpose: str,
        keep_seconds: int,
        listed: bool = True,
    ) -> Iterator[NewFile]:
        """Write a file piece by piece. If the block raises, nothing is left of it.

        `keep_seconds`: purged after that; 0 keeps it until it is deleted.
        Raises FileStoreDownError when the disk is full or the store does not answer.
        """
        file_id = new_file_id()
        now = self._now()
        created_at = int(now)
        path = self._path(tenant, file_id)
        # First of all: from now on a purge finds it, whatever happens to this process.
        self._redis.zadd(
            self._key("files:expiring"), {f"{tenant}/{file_id}": created_at + UNFINISHED_SECONDS}
        )
        try:
            with self._fs.open(path, "wb") as stream:
                new = NewFile(file_id, Sink(stream))
                yield new
        except OSError as error:
            self._purge(tenant, file_id)
            raise FileStoreDownError(full=error.errno in NO_ROOM) from error
        except BaseException:
            self._purge(tenant, file_id)
            raise
        expires_at = created_at + keep_seconds if keep_seconds else 0
        record: dict[Any, Any] = {
            "id": file_id,
            "tenant": tenant,
            "filename": filename,
            "purpose": purpose,
            "bytes": new.sink.size,
            "created_at": created_at,
            "expires_at": expires_at,
            "listed": "1" if listed else "",
        }
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(self._key("file", file_id), mapping=record)
        if listed:
            pipe.zadd(self._key("files", tenant), {file_id: int(now * 1000)})
        if expires_at:
            pipe.zadd(self._key("files:expiring"), {f"{tenant}/{file_id}": expires_at})
        else:
            pipe.zrem(self._key("files:expiring"), f"{tenant}/{file_id}")
        pipe.execute()
        new.stored = StoredFile(
            file_id, tenant, filename, purpose, new.sink.size, created_at, expires_at or None,
            listed,
        )  # fmt: skip

    def get(self, file_id: str, tenant: str) -> StoredFile:
        """The record. Raises UnknownFileError, also for another tenant's file."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._key("file", file_id))
            pipe.time()
            record, (now, _) = cast("tuple[dict[bytes, bytes], tuple[int, int]]", pipe.execute())
        if not record or record[b"tenant"] != tenant.encode():
            raise UnknownFileError(UnknownFileError.__doc__)
        found = StoredFile.from_record(record)
        if found.expires_at is not None and found.expires_at <= now:
            raise UnknownFileError(UnknownFileError.__doc__)
        return found

    def page(
        self, tenant: str, *, after: str | None = None, limit: int = 100, purpose: str | None = None
    ) -> list[StoredFile]:
        """A tenant's files, newest first; `after` is the id of the last one seen."""
        name = self._key("files", tenant)
        start = 0
        if after is not None:
            rank = cast("int | None", self._redis.zrevrank(name, after))
            if rank is None:
                raise UnknownFileError(UnknownFileError.__doc__)
            start = rank + 1
        found: list[StoredFile] = []
        while len(found) < limit:
            ids = cast("list[bytes]", self._redis.zrevrange(name, start, start + limit - 1))
            if not ids:
                break
            start += len(ids)
            for file_id in ids:
                with suppress(UnknownFileError):
                    file = self.get(file_id.decode(), tenant)
                    if purpose is None or file.purpose == purpose:
                        found.append(file)
        return found[:limit]

    def open(self, file: StoredFile, *, offset: int = 0) -> IO[bytes]:
        """The bytes from `offset` on. Raises UnknownFileError when the store has lost them."""
        try:
            stream: IO[bytes] = self._opened(self._path(file.tenant, file.id))
        except FileNotFoundError:
            raise UnknownFileError(UnknownFileError.__doc__) from None
        if offset:
            stream.seek(offset)
        return stream

    def _opened(self, path: str) -> IO[bytes]:
        return cast("IO[bytes]", self._fs.open(path, "rb"))

    def chunks(self, file: StoredFile) -> Iterator[bytes]:
        """The whole content, piece by piece."""
        with self.open(file) as stream:
            while data := stream.read(CHUNK_BYTES):
                yield data

    def delete(self, file_id: str, tenant: str) -> None:
        """Delete a file. Raises UnknownFileError."""
        self.get(file_id, tenant)
        self._purge(tenant, file_id)

    def purge_expired(self, most: int = 100) -> int:
        """Delete what has expired or was never finished; how many there were."""
        due = cast(
            "list[bytes]",
            self._redis.zrangebyscore(
                self._key("files:expiring"), "-inf", self._now(), start=0, num=most
            ),
        )
        for entry in due:
            tenant, _, file_id = entry.decode().rpartition("/")
            self._purge(tenant, file_id)
        return len(due)

    def _purge(self, tenant: str, file_id: str) -> None:
        # The record last: if this stops in the middle, it is done again.
        with suppress(FileNotFoundError):
            self._fs_remove(self._path(tenant, file_id))
        pipe = self._redis.pipeline(transaction=True)
        pipe.delete(self._key("file", file_id))
        pipe.zrem(self._key("files", tenant), file_id)
        pipe.zrem(self._key("files:expiring"), f"{tenant}/{file_id}")
        pipe.execute()

    def _fs_remove(self, path: str) -> None:
        self._fs.rm_file(path)


def pieces(stream: IO[bytes], most: int) -> Iterator[bytes]:
    """The stream in pieces. Raises FileTooLargeError when there are more than `most` bytes."""
    seen = 0
    while data := stream.read(CHUNK_BYTES):
        seen += len(data)
        if seen > most:
            raise FileTooLargeError(most)
        yield data


def copy(chunks: Iterable[bytes], sink: Sink) -> None:
    """Write all of `chunks`."""
    for chunk in chunks:
        sink.write(chunk)
