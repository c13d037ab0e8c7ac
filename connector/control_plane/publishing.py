"""Events of a dataset, published by its own register: what delivery then decides on, consumer by consumer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from connector.control_plane.consent import SubjectCodec
from connector.control_plane.delivery import CONSENT_EVENTS, dataset_topic
from connector.errors import NotFound, RequestInvalid
from connector.model.catalog import Dataset
from connector.model.event import CloudEvent
from connector.ports import Clock, EventBus


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """`person` is a personal id as the register writes it; it is stored only as a token."""

    type: str
    person: str = ""
    id: str = ""
    time: datetime | None = None


class Publishing:
    def __init__(
        self,
        *,
        participant_id: str,
        bus: EventBus,
        clock: Clock,
        new_id: Callable[[], str],
        catalogue: Callable[[], Mapping[str, Dataset]],
        subjects: SubjectCodec,
    ) -> None:
        self._participant_id = participant_id
        self._bus = bus
        self._clock = clock
        self._new_id = new_id
        self._catalogue = catalogue
        self._subjects = subjects

    async def publish(self, dataset_id: str, events: Sequence[NewEvent]) -> int:
        """Durable when it returns. All or none. Raises NotFound, RequestInvalid."""
        dataset = self._catalogue().get(dataset_id)
        if dataset is None:
            raise NotFound(f"There is no dataset {dataset_id!r} here.")
        made = [self._event(dataset, event, f"events[{i}]") for i, event in enumerate(events)]
        await self._bus.publish(dataset_topic(dataset.id), made)
        return len(made)

    def _event(self, dataset: Dataset, event: NewEvent, where: str) -> CloudEvent:
        if event.type not in dataset.event_types:
            known = ", ".join(dataset.event_types) or "none"
            raise RequestInvalid(
                f"{dataset.id} has no events of this type.",
                where=f"{where}.type",
                mend=f"Its types: {known}.",
            )
        if event.type in CONSENT_EVENTS:
            raise RequestInvalid("Only the consent register publishes this type.", where=f"{where}.type")
        if bool(dataset.subject_key) != bool(event.person):
            about = "a person" if dataset.subject_key else "nobody"
            raise RequestInvalid(f"An event of this dataset is about {about}.", where=f"{where}.person")
        return CloudEvent(
            id=event.id or self._new_id(),
            source=f"urn:participant:{self._participant_id}",
            type=event.type,
            time=event.time or self._clock.now(),
            subject=self._subjects.token(event.person) if event.person else "",
        )
