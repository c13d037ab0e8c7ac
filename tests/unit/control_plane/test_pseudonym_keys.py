"""Which key makes which pseudonym: domains never meet, and nothing is shown where a name is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from connector.access.admission import LiveGrant
from connector.access.pseudonym import ColumnHash, Pseudonymiser
from connector.control_plane.pseudonym_keys import PseudonymKeys
from connector.errors import NotPermitted, Reason, Unavailable
from connector.model.decision import Hash, Null, Permit, Pseudonym
from tests.agreed import PERSONS, Agreed, benefits, record, transfer
from tests.ports.examples import grant
from tests.unit.access.evidence import fresh_keys

PLANNING = Pseudonym(domain="planning-2026", generation=1)
AGREEMENT = Pseudonym(domain="agreement:a1", generation=1)


class Secrets:
    """The collaborations whose provider we are."""

    async def key(self, collaboration_id: str) -> bytes:
        if collaboration_id != "planning-2026":
            raise NotPermitted([Reason(code="not_a_provider", text="You are no provider of it.")])
        return b"planning secret, 32 bytes long.."


class Keys:
    def __init__(self) -> None:
        self.agreed = Agreed()
        self.made = PseudonymKeys(self.agreed.keys["kela"], cast("Any", Secrets()))

    def live(self, agreement_id: str = "a1") -> LiveGrant:
        return LiveGrant(
            grant=grant(),
            record=record(agreement_id),
            transfer=transfer(),
            dataset=benefits(),
            consumer=self.agreed.consumer,
        )


async def test_each_column_has_what_its_obligation_needs() -> None:
    """A pseudonymiser per pseudonym, a keyed hash per hashed column, nothing for the rest."""
    permit = Permit(
        columns=frozenset({"hetu", "status", "note"}),
        pseudonyms={"hetu": replace(PLANNING, invertible=True)},
        column_masks={"status": Hash(), "note": Null()},
    )
    made = await Keys().made.for_permit(Keys().live(), permit)
    assert isinstance(made["hetu"], Pseudonymiser)
    assert made["hetu"].invertible
    assert isinstance(made["status"], ColumnHash)
    assert made.keys() == {"hetu", "status"}


async def test_pseudonyms_of_two_domains_never_match() -> None:
    """A collaboration's, another generation's, an agreement's, another provider's: all differ."""
    keys = Keys()
    domains = [
        PLANNING,
        AGREEMENT,
        replace(AGREEMENT, generation=2),
        replace(AGREEMENT, domain="agreement:a2"),
    ]
    names = [(await keys.made.names(d, PERSONS))[0] for d in domains]
    foreign = PseudonymKeys(fresh_keys("kela"), cast("Any", Secrets()))
    names.append((await foreign.names(AGREEMENT, PERSONS))[0])
    assert len(set(names)) == 5


async def test_the_providers_of_a_collaboration_agree() -> None:
    """Its key is shared by them: their pseudonyms meet."""
    one, other = Keys(), Keys()
    assert await one.made.names(PLANNING, PERSONS) == await other.made.names(PLANNING, PERSONS)


async def test_a_hash_belongs_to_one_agreement_and_column() -> None:
    """Equal values stay equal within it, and tell nothing across."""
    keys = Keys()
    permit = Permit(columns=frozenset({"a", "b"}), column_masks={"a": Hash(), "b": Hash()})
    one = await keys.made.for_permit(keys.live("a1"), permit)
    two = await keys.made.for_permit(keys.live("a2"), permit)
    made = [column.apply(["open"])[0] for column in (*one.values(), *two.values())]
    assert len(set(made)) == 4
    assert (await keys.made.for_permit(keys.live("a1"), permit))["a"].apply(["open"]) == [made[0]]


async def test_names_come_in_order_and_spellings_do_not_matter() -> None:
    """One for each id: the pseudonym of the normalised id."""
    keys = Keys()
    names = await keys.made.names(AGREEMENT, PERSONS)
    assert len(set(names)) == len(PERSONS)
    assert await keys.made.names(AGREEMENT, [f" {PERSONS[1].lower()}"]) == [names[1]]


async def test_a_secret_that_is_not_ours_is_a_refusal() -> None:
    """A permit may name a collaboration that we are no provider of."""
    with pytest.raises(NotPermitted):
        await Keys().made.names(replace(PLANNING, domain="other"), PERSONS)


async def test_nobody_has_no_pseudonym() -> None:
    """Better no answer than one in which an event names nobody."""
    with pytest.raises(Unavailable):
        await Keys().made.names(AGREEMENT, [""])
