"""What the connector under test does in each conversation, and what it holds when they begin.

A conversation is known by what it is about: `CN:01-03` by the dataset ACN0103, `TP_C:02-05` by the agreement
ATPC0205, as in the kit's sample configuration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from connector.control_plane.hooks import Hold
from connector.dsp import policy
from connector.dsp.wire import Fields
from connector.model.catalog import Dataset, Field, Gdpr, SourceRef, TransferFormat
from connector.model.negotiation import AgreementRecord, ContractNegotiation, Role
from connector.model.policy import AgreementState
from connector.model.transfer import TransferProcess
from tests.pair import POLICY, dataset, terms
from tests.spec import conversations

KIT = "TCK_PARTICIPANT"
"""The id that the kit gives itself in the agreements it offers."""

OURS = "connector"
FORMAT = TransferFormat.HTTP_DATA_PULL
PUBLISHED = ("CAT0101", "CAT0102")
UNKNOWN_DATASET = "CAT0103"

NEGOTIATIONS = {**conversations.PROVIDER_NEGOTIATES, **conversations.CONSUMER_NEGOTIATES}
TRANSFERS = {**conversations.PROVIDER_TRANSFERS, **conversations.CONSUMER_TRANSFERS}


def is_the_kits(name: str) -> bool:
    """Conversations of our own have a name in words."""
    return name.startswith(("CN", "TP"))


def subject(name: str) -> str:
    """The dataset or the agreement that the conversation `name` is about."""
    return "A" + name.replace("_", "").replace(":", "").replace("-", "")


Scripts = Mapping[str, Mapping[str, Any]]
"""By subject and state, what to do: an action, or several in turn."""

SCRIPTS: Scripts = {
    subject(name): script for name, (script, _) in {**NEGOTIATIONS, **TRANSFERS}.items() if is_the_kits(name)
}


class ScriptedHook:
    """Both protocols' hook: plays what the script says for a subject's state, else waits for the peer."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._played: Counter[tuple[str, str]] = Counter()

    async def decide(self, process: ContractNegotiation | TransferProcess) -> Any:
        about = process.dataset_id if isinstance(process, ContractNegotiation) else process.agreement_id
        action = self._scripts.get(about, {}).get(process.state.value, Hold())
        if not isinstance(action, list):
            return action
        turn = (process.pid, process.state.value)
        self._played[turn] += 1
        return action[self._played[turn] - 1] if self._played[turn] <= len(action) else Hold()


# --- what is there before ---------------------------------------------------------------------------------


def catalogue(source: str) -> dict[str, Dataset]:
    """What we offer. `source`: a file of the connector's folder; nobody reads it here."""
    negotiated = [subject(name) for name in conversations.PROVIDER_NEGOTIATES if is_the_kits(name)]
    return {id_: _dataset(id_, source) for id_ in (*PUBLISHED, *negotiated)}


def _dataset(dataset_id: str, source: str) -> Dataset:
    return dataset(
        id=dataset_id,
        contract_id=f"urn:contract:{dataset_id}",
        fields=(Field(name="area", type="string"),),
        formats=(FORMAT,),
        gdpr=Gdpr(personal_data=False),
        source=SourceRef(kind="parquet", location=source),
    )


def offer_id(dataset_id: str) -> str:
    return terms().wire_id(dataset_id)


def agreements(at: datetime) -> list[AgreementRecord]:
    """In force since `at`, a provider's or a consumer's, as the conversation about it needs."""
    roles = (
        (Role.PROVIDER, conversations.PROVIDER_TRANSFERS),
        (Role.CONSUMER, conversations.CONSUMER_TRANSFERS),
    )
    return [
        _agreement(subject(name), role, at) for role, tables in roles for name in tables if is_the_kits(name)
    ]


def _agreement(agreement_id: str, role: Role, at: datetime) -> AgreementRecord:
    assigner, assignee = (OURS, KIT) if role is Role.PROVIDER else (KIT, OURS)
    wire = policy.render_agreement(
        policy.render_offer(offer_id(PUBLISHED[0]), POLICY),
        agreement_id=agreement_id,
        target=PUBLISHED[0],
        assigner=assigner,
        assignee=assignee,
        timestamp=at,
    )
    return AgreementRecord(
        agreement=policy.parse_agreement(Fields(wire)),
        role=role,
        negotiation_pid="",
        state=AgreementState.ACTIVE,
        offer_id=offer_id(PUBLISHED[0]),
    )
