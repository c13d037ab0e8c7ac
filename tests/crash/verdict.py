"""What must hold afterwards, as a list of what does not."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import pairwise

from connector.access.audit import parse
from connector.adapters.audit_log import verify_audit
from connector.dsp.wire import canonical
from connector.errors import AuditBroken
from connector.model.audit import AuditEvent, AuditLeaf
from connector.model.negotiation import AgreementRecord, ContractNegotiation, NegotiationState, Role
from connector.model.policy import AgreementState
from connector.model.transfer import TransferProcess, TransferState
from tests.crash.estate import PARTIES, Estate
from tests.crash.load import Tally
from tests.crash.stores import Held

Process = ContractNegotiation | TransferProcess
_OVERRULED = re.compile(r"crossed our|is not allowed in state (TERMINATED|COMPLETED)")
"""How a side answers the weaker of two last words."""

_OPEN_ENDS = frozenset({TransferState.STARTED, TransferState.SUSPENDED})


def faults(estate: Estate, tally: Tally, held: Mapping[str, Held]) -> list[str]:
    """Every deviation, in words; empty where all is as it must be."""
    found: list[str] = []
    for name in PARTIES:
        there = held[PARTIES[1 - PARTIES.index(name)]]
        ours = held[name]
        found += _unsent(name, tally, ours)
        found += _mirrored(name, "negotiation", ours.negotiations, there.negotiations)
        found += _mirrored(name, "transfer", ours.transfers, there.transfers)
        found += _known_ones(name, tally, ours)
        found += _agreements(name, ours, there)
        found += _transfers(name, tally, ours)
        found += _evidence(estate, name, ours)
        found += _log(estate, name)
    found += _none_doubled(tally, held)
    return found


def _unsent(name: str, tally: Tally, ours: Held) -> Iterator[str]:
    """Nothing waits and nothing was given up, but for what the other side's stronger word overruled."""
    for left in ours.outbox:
        transfer = ours.transfers.get(left.queue)
        contested = transfer is not None and len(_wanted(tally, transfer)) > 1
        if left.state != "abandoned" or not contested or not _OVERRULED.search(left.error):
            yield f"{name}: a row of {left.queue} is {left.state}: {left.error}"
    for kind, processes in (("negotiation", ours.negotiations), ("transfer", ours.transfers)):
        for process in processes.values():  # type: ignore[attr-defined]
            if process.sending:
                yield f"{name}: {kind} {process.pid} still sends {process.sending}"


def _mirrored(
    name: str, kind: str, ours: Mapping[str, Process], theirs: Mapping[str, Process]
) -> Iterator[str]:
    """One process there for each of ours, with the same pids and the same state."""
    pointing = Counter(process.peer_pid for process in theirs.values())
    for process in ours.values():
        if pointing[process.pid] > 1:
            yield f"{name}: {kind} {process.pid} has {pointing[process.pid]} counterparts"
        other = theirs.get(process.peer_pid)
        if other is None or other.peer_pid != process.pid:
            yield f"{name}: {kind} {process.pid} ({process.state}) is unknown to the other side"
        elif (other.state, other.role) != (process.state, process.role.other):
            yield f"{name}: {kind} {process.pid} is {process.state} here and {other.state} there"


def _known_ones(name: str, tally: Tally, ours: Held) -> Iterator[str]:
    """What the connector answered for is there."""
    for pid in tally.negotiations[name]:
        if pid not in ours.negotiations:
            yield f"{name}: negotiation {pid} was acknowledged and is lost"
    for pid in tally.transfers[name]:
        if pid not in ours.transfers:
            yield f"{name}: transfer {pid} was acknowledged and is lost"


def _none_doubled(tally: Tally, held: Mapping[str, Held]) -> Iterator[str]:
    """No more processes than calls that could have begun them."""
    for kind, known, unsure in (
        ("negotiations", tally.negotiations, tally.unsure_negotiations),
        ("transfers", tally.transfers, tally.unsure_transfers),
    ):
        begun = sum(len(pids) for pids in known.values())
        there = sum(
            sum(p.role is Role.CONSUMER for p in getattr(side, kind).values()) for side in held.values()
        )
        if not begun <= there <= begun + unsure:
            yield f"{there} {kind} of {begun} begun for sure and {unsure} perhaps"


def _agreements(name: str, ours: Held, theirs: Held) -> Iterator[str]:
    """One per negotiation, all finalized, the same bytes on both sides."""
    by_negotiation = Counter(record.negotiation_pid for record in ours.agreements.values())
    for negotiation in ours.negotiations.values():
        if negotiation.state is not NegotiationState.FINALIZED:
            yield f"{name}: negotiation {negotiation.pid} is {negotiation.state}: {negotiation.reasons}"
        if by_negotiation[negotiation.pid] != 1:
            yield f"{name}: {by_negotiation[negotiation.pid]} agreements of negotiation {negotiation.pid}"
    for agreement_id, record in ours.agreements.items():
        other = theirs.agreements.get(agreement_id)
        if other is None or not _same_bytes(record, other):
            yield f"{name}: agreement {agreement_id} is not the same on the other side"
        if record.negotiation_pid not in ours.negotiations:
            yield f"{name}: agreement {agreement_id} belongs to no negotiation"
        if record.state is AgreementState.PENDING or not record.signed_by_both:
            yield f"{name}: agreement {agreement_id} is {record.state}, {len(record.signatures)} signatures"


def _same_bytes(record: AgreementRecord, other: AgreementRecord) -> bool:
    return canonical(record.agreement.document) == canonical(other.agreement.document)


def _transfers(name: str, tally: Tally, ours: Held) -> Iterator[str]:
    """Ended as their story wanted; under an agreement that ended, terminated whatever their state was."""
    for transfer in ours.transfers.values():
        record = ours.agreements.get(transfer.agreement_id)
        if record is None:
            yield f"{name}: transfer {transfer.pid} has no agreement"
            continue
        if record.state is AgreementState.TERMINATED and transfer.state in _OPEN_ENDS:
            yield f"{name}: transfer {transfer.pid} outlives its agreement as {transfer.state}"
        wanted = _wanted(tally, transfer)
        if wanted and transfer.state.value not in wanted:
            yield f"{name}: transfer {transfer.pid} is {transfer.state}, not {' or '.join(sorted(wanted))}"
        if not wanted and transfer.state not in (TransferState.STARTED, TransferState.TERMINATED):
            yield f"{name}: transfer {transfer.pid}, which nobody steered, is {transfer.state}"
    for agreement_id, ender in tally.ended_agreements.items():
        # the other side hears of it by transfers that still run, and by nothing else
        if ender == name and ours.agreements[agreement_id].state is not AgreementState.TERMINATED:
            yield f"{name}: agreement {agreement_id} is active again"


def _wanted(tally: Tally, transfer: TransferProcess) -> set[str]:
    """In which states its story may have ended it; none where nobody steered it."""
    wanted = tally.ends.get(transfer.pid if transfer.role is Role.CONSUMER else transfer.peer_pid, set())
    ended = transfer.agreement_id in tally.ended_agreements  # which terminates what has not quite ended
    return wanted | {TransferState.TERMINATED.value} if wanted and ended else wanted


# --- evidence ---------------------------------------------------------------------------------------------

_ONCE_PER_AGREEMENT = (
    AuditEvent.AGREEMENT_AGREED,
    AuditEvent.AGREEMENT_VERIFIED,
    AuditEvent.AGREEMENT_FINALIZED,
)


def _evidence(estate: Estate, name: str, ours: Held) -> Iterator[str]:
    """The log proves itself, and tells every fact exactly once."""
    folder = estate.participant_folder(name)
    log = folder / "state" / "audit.sqlite"
    try:
        verify_audit(log, json.loads((folder / "audit.jwks.json").read_text())["keys"])
    except AuditBroken as error:
        yield f"{name}: {error}"
    with closing(sqlite3.connect(f"{log.as_uri()}?mode=ro", uri=True)) as reader:
        leaves = [parse(data) for (data,) in reader.execute("SELECT leaf FROM leaves ORDER BY idx")]
    requested = sum(leaf.event is AuditEvent.NEGOTIATION_REQUESTED for leaf in leaves)
    if requested != len(ours.negotiations):
        yield f"{name}: {requested} leaves tell of {len(ours.negotiations)} requests"
    told = Counter((leaf.event, leaf.agreement) for leaf in leaves if leaf.agreement and not leaf.transfer)
    for agreement_id in ours.agreements:
        for event in _ONCE_PER_AGREEMENT:
            if told[event, agreement_id] != 1:
                yield f"{name}: {event} of {agreement_id} is told {told[event, agreement_id]} times"
    yield from _evidence_of_transfers(name, ours, leaves)


def _evidence_of_transfers(name: str, ours: Held, leaves: list[AuditLeaf]) -> Iterator[str]:
    """What each side said stands there once, in order; an end only where there was one."""
    stories: dict[str, list[tuple[str, str]]] = {pid: [] for pid in ours.transfers}
    for leaf in leaves:
        if leaf.transfer in stories and leaf.event.startswith("transfer:"):
            stories[leaf.transfer].append((leaf.event.rpartition(":")[2], leaf.actor))
    for pid, story in stories.items():
        over = ours.transfers[pid].state in (TransferState.COMPLETED, TransferState.TERMINATED)
        if over is not any(fact == "ended" for fact, _ in story):
            yield f"{name}: transfer {pid} is {ours.transfers[pid].state} and told {story}"
        # both may suspend or end it at once; nobody says the same thing twice running
        if any(earlier == later for earlier, later in pairwise(story)):
            yield f"{name}: a fact of transfer {pid} is told twice: {story}"


def _log(estate: Estate, name: str) -> Iterator[str]:
    for line in estate.log(name).splitlines():
        if "unforeseen error" in line or "background work failed" in line or "Traceback" in line:
            yield f"{name}: its log says: {line}"
