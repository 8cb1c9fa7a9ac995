"""The end of a batch: its results go to the file store, then the record says that it is done."""

from __future__ import annotations

import logging
from contextlib import ExitStack

import orjson

from tasks.batch_results import UsageSum, line_results
from tasks.batches import Batch, BatchState, UnknownBatchError
from tasks.files import NewFile, StoredFile
from tasks.openai_batch import output_line
from workers.context import WorkerContext, context

logger = logging.getLogger(__name__)

CLOSING_SECONDS = 120  # another worker takes over after this; two at once do no harm


def close_batch(batch_id: str) -> None:
    """Write the results and close the batch. Running it again, or twice at once, is safe."""
    current = context()
    try:
        batch = current.batches.read(batch_id, None)
    except UnknownBatchError:
        return
    if batch.state is not BatchState.FINALIZING:
        return
    lock = current.batches.key("batch", batch_id, "closing")
    if not current.redis.set(lock, "1", nx=True, ex=CLOSING_SECONDS):
        return
    try:
        written, usage = _write_results(current, batch)
        kept = {name: file for name, file in written.items() if file.size or name == "results"}
        closed = current.batches.close(
            batch_id,
            results_file=kept["results"].id,
            output_file=kept["output"].id if "output" in kept else "",
            error_file=kept["error"].id if "error" in kept else "",
            usage=usage,
        )
        for name, file in written.items():
            if not closed or name not in kept:
                current.files.delete(file.id, batch.tenant)
    finally:
        current.redis.delete(lock)
    if closed:
        logger.info("batch closed", extra={"action": "batch_closed", "batch_id": batch_id})


def _write_results(
    current: WorkerContext, batch: Batch
) -> tuple[dict[str, StoredFile], dict[str, object]]:
    usage = UsageSum()
    keep = current.settings.file_retention_seconds
    purposes = {"results": "batch_results"}
    if batch.endpoint:
        purposes |= {"output": "batch_output", "error": "batch_output"}
    files: dict[str, NewFile] = {}
    with ExitStack() as stack:
        for name, purpose in purposes.items():
            files[name] = stack.enter_context(
                current.files.writing(
                    batch.tenant,
                    filename=f"{batch.id}_{name}.jsonl",
                    purpose=purpose,
                    keep_seconds=keep,
                    listed=name != "results",
                )
            )
        for result in line_results(
            current.redis, current.settings.key_prefix, current.files, batch
        ):
            usage.add(result)
            files["results"].sink.write(orjson.dumps(result.view()) + b"\n")
            if batch.endpoint:
                line, answered = output_line(result, batch.endpoint)
                files["output" if answered else "error"].sink.write(orjson.dumps(line) + b"\n")
    return {name: file.record for name, file in files.items()}, usage.total()
