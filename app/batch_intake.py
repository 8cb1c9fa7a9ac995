"""Taking a batch in: every line is checked, and written down ready to run, as it streams past."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import ValidationError

from app.batch_lines import LineError, ReadLine, faults_of
from app.identity import Caller
from app.problems import FieldFault, Problem
from app.services import Services
from app.submission import CHARS_PER_TOKEN, DEFAULT_OUTPUT_TOKENS, check_model
from tasks.batches import PreparedLine
from tasks.cache_policy import plan
from tasks.files import StoredFile
from tasks.fingerprint import fingerprint, last_user_text
from tasks.inference import InferenceRequest, InferenceSubmission
from tasks.jsonl import Line, NotAnArrayError

MOST_REPORTED = 1_000  # faults; all are counted


@dataclass(frozen=True)
class LineFault:
    """What is wrong with one line."""

    line: int
    field: str
    message: str


@dataclass
class Faults:
    """What is wrong with a batch."""

    bad_lines: int = 0
    reported: list[LineFault] = field(default_factory=list)

    def add(self, line: int, found: Iterable[tuple[str, str]]) -> None:
        """Count a line and report its faults, as far as there is room."""
        self.bad_lines += 1
        for name, message in found:
            if len(self.reported) < MOST_REPORTED:
                self.reported.append(LineFault(line, name, message))


class BadLinesError(Exception):
    """Some lines cannot be accepted."""

    def __init__(self, faults: Faults, total: int) -> None:
        super().__init__(self.__doc__)
        self.faults = faults
        self.total = total

    def problem(self) -> Problem:
        """As an answer."""
        count = self.faults.bad_lines
        detail = f"{count} of {self.total} lines cannot be accepted; nothing was started."
        if len(self.faults.reported) == MOST_REPORTED:
            detail += f" The first {MOST_REPORTED} faults are listed."
        return Problem(
            422,
            "invalid-lines",
            detail,
            errors=[
                FieldFault(
                    field=f"line {fault.line}" + (f": {fault.field}" if fault.field else ""),
                    message=fault.message,
                )
                for fault in self.faults.reported
            ],
        )


@dataclass(frozen=True)
class Intake:
    """A batch's lines, checked and stored."""

    file: StoredFile
    total: int
    slices: list[int]


class HashedChunks:
    """Passes chunks on and hashes them, to tell a repeated upload from a changed one."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._hash = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._hash.update(chunk)
            yield chunk

    def digest(self) -> bytes:
        """Of what has passed."""
        return self._hash.digest()


def take_lines(
    services: Services, caller: Caller, lines: Iterable[Line], read: ReadLine, keep_seconds: int
) -> Intake:
    """Check every line and store them all.

    Memory does not grow with the file beyond a few bytes a line. Raises BadLinesError with every
    bad line, Problem for what concerns the file as a whole.
    """
    settings = services.settings
    faults = Faults()
    slices: list[int] = []
    names: dict[int, int] = {}  # hash of a custom_id -> its line
    preparer = _Preparer(services, caller, read)
    total = 0
    with services.files.writing(
        caller.tenant,
        filename="lines.jsonl",
        purpose="batch_lines",
        keep_seconds=keep_seconds,
        listed=False,
    ) as new:
        try:
            for line in lines:
                if total == settings.batch_max_lines:
                    raise Problem(
                        413,
                        "batch-too-large",
                        f"A batch has at most {settings.batch_max_lines} lines.",
                    )
                index, total = total, total + 1
                try:
                    prepared = preparer.prepare(line, index)
                    _check_name(prepared.custom_id, line.number, names)
                except (LineError, ValidationError) as error:
                    faults.add(line.number, faults_of(error))
                    continue
                if faults.bad_lines:
                    continue  # nothing will run: only the checking goes on
                if index % settings.batch_slice_lines == 0:
                    slices.append(new.sink.size)
                new.sink.write(prepared.dump())
        except NotAnArrayError as error:
            raise Problem(400, "malformed-json", f"Not a JSON array: {error}.") from None
        if faults.bad_lines:
            raise BadLinesError(faults, total)
        if not total:
            raise Problem(422, "empty-batch", "The batch has no lines.")
    return Intake(new.record, total, slices)


def _check_name(custom_id: str, number: int, names: dict[int, int]) -> None:
    if not custom_id:
        return
    name = int.from_bytes(hashlib.blake2b(custom_id.encode(), digest_size=8).digest(), "big")
    earlier = names.setdefault(name, number)
    if earlier != number:
        raise LineError("custom_id", f"is that of line {earlier} too")


class _Preparer:
    def __init__(self, services: Services, caller: Caller, read: ReadLine) -> None:
        self._services = services
        self._caller = caller
        self._read = read
        self._models: dict[str, str] = {}  # name -> what is wrong with it
        self._now = datetime.now(UTC)

    def prepare(self, line: Line, index: int) -> PreparedLine:
        """The line, ready to run. Raises LineError, ValidationError."""
        if line.data is None:
            most = self._services.settings.max_body_bytes
            raise LineError("", f"is longer than {most} bytes")
        custom_id, submission = self._read(line.data)
        self._check_model(submission.model_preference)
        asked = InferenceRequest.model_construct(
            **{name: getattr(submission, name) for name in InferenceSubmission.model_fields},
            user_id=self._caller.user,
            created_at=self._now,
        )
        text = last_user_text(submission)
        rules = self._services.repeats.rules
        exact = fingerprint(rules.scope(submission, self._caller.tenant), text)
        # One answer may serve several lines where a repeat would be served from the cache.
        shared = plan(submission, text, rules.policy(submission.model_preference)).exact
        chars = len(submission.prompt or "") + sum(
            len(message.text) for message in submission.messages or ()
        )
        return PreparedLine(
            index=index,
            number=line.number,
            custom_id=custom_id,
            key=exact if shared else str(index),
            fingerprint=exact,
            tokens=chars // CHARS_PER_TOKEN + (submission.max_tokens or DEFAULT_OUTPUT_TOKENS),
            metadata=submission.metadata,
            request=asked.model_dump_json(exclude_defaults=True),
            reserve=self._reserve(submission),
        )

    def _reserve(self, submission: InferenceSubmission) -> tuple[int, int] | None:
        if not self._services.settings.budgets_enabled:
            return None
        reserve = self._services.prices.reserve(submission)
        return reserve.nano, reserve.tokens

    def _check_model(self, name: str) -> None:
        if name not in self._models:
            self._models[name] = ""
            try:
                check_model(self._services.catalogue, name)
            except Problem as problem:
                self._models[name] = problem.detail
        if self._models[name]:
            raise LineError("model", self._models[name])
