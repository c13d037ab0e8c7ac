"""What every source adapter shares: a blocking engine in a thread of its own, and errors that tell nothing.

An engine's message can quote a stored value or a path, so it goes nowhere: not to the consumer, not into
the log. The log gets the class of the exception and an incident number, the consumer the number.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from connector.errors import ConnectorError, SourceUnavailable
from connector.model.catalog import Field, LogicalType

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

NewId = Callable[[], str]
T = TypeVar("T")

INTERRUPT_SECONDS = 0.05


def unavailable(name: str, failure: str, new_id: NewId) -> SourceUnavailable:
    """The error to raise, outside any `except`, so that the engine's own is not chained to it."""
    incident = new_id()
    _log.error("source %s: %s, incident %s", name, failure, incident)
    return SourceUnavailable(
        f"The register behind this dataset does not answer (incident {incident}).",
        mend="Try again later; its owner finds the incident in the log.",
    )


async def concealed(
    batches: AsyncGenerator[pa.RecordBatch], name: str, new_id: NewId
) -> AsyncIterator[pa.RecordBatch]:
    """The same batches; any failure but our own becomes SourceUnavailable. Closing it closes `batches`."""
    try:
        while True:
            failure, batch = "", None
            try:
                batch = await anext(batches, None)
            except ConnectorError:
                raise
            except Exception as error:
                failure = type(error).__name__
            if failure:
                raise unavailable(name, failure, new_id)
            if batch is None:
                return
            yield batch
    finally:
        await batches.aclose()


async def concealed_call(call: Coroutine[Any, Any, T], name: str, new_id: NewId) -> T:
    """The result; any failure but our own becomes SourceUnavailable."""
    try:
        return await call
    except ConnectorError:
        raise
    except Exception as error:
        failure = type(error).__name__
    raise unavailable(name, failure, new_id)


async def in_a_thread(
    produce: Callable[[], Generator[pa.RecordBatch]], interrupt: Callable[[], None]
) -> AsyncGenerator[pa.RecordBatch]:
    """Run a blocking generator in its own thread, one batch at a time: a slow reader holds it back.

    Left before its end, the statement is stopped by `interrupt`, called from the event loop's thread
    until the generator has closed in its own: an engine that has not begun yet would miss a single call.
    """
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="source")
    batches = produce()
    finished = False
    try:
        while (batch := await loop.run_in_executor(thread, next, batches, None)) is not None:
            yield batch
        finished = True
    finally:
        closing = loop.run_in_executor(thread, batches.close)
        thread.shutdown(wait=False)
        while not finished and not closing.done():
            interrupt()
            await asyncio.wait({closing}, timeout=INTERRUPT_SECONDS)
        await closing


def require_fields(
    name: str,
    fields: Iterable[Field],
    physical: Iterable[Field],
    new_id: NewId,
    *,
    ignore_types: bool = False,
) -> None:
    """Raises SourceUnavailable where the descriptor promises a column that is not there, or of another type.

    An integer column may serve a number. The names go to the log only: some are hidden from consumers.
    """
    types: dict[str, LogicalType] = {f.name: f.type for f in physical}
    wrong = [
        f.name
        for f in fields
        if (found := types.get(f.physical_name or f.name)) is None
        or not (ignore_types or found == f.type or (found == "integer" and f.type == "number"))
    ]
    if wrong:
        raise unavailable(name, f"columns not as in the descriptor: {', '.join(sorted(wrong))}", new_id)


def to_batch(
    rows: Sequence[Sequence[Any]],
    fields: Sequence[Field],
    readers: Mapping[LogicalType, Callable[[Any], Any]],
) -> pa.RecordBatch:
    """Rows of a driver's values as a batch of the fields' exact types. Raises for a value of another type.

    `readers` turn a driver's value, where it is not the type's own already.
    """
    import pyarrow as pa

    from connector.data_plane.columns import arrow_schema

    schema = arrow_schema(fields)
    arrays = []
    for values, field, type_ in zip(zip(*rows, strict=True), fields, schema.types, strict=True):
        reader = readers.get(field.type)
        read = values if reader is None else [None if v is None else reader(v) for v in values]
        arrays.append(pa.array(read, type_))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
