"""Which rules an offer's terms can carry: its own, or such as only narrow them."""

from __future__ import annotations

from dataclasses import replace

from connector.access.vocabulary import classify
from connector.dsp.policy import narrows, parse_policy, render_offer, same_rules
from connector.dsp.wire import Fields
from connector.errors import RequestInvalid
from connector.model.catalog import OfferTerms
from connector.model.json import JsonObject


def enforceable(terms: OfferTerms, document: JsonObject) -> OfferTerms | None:
    """The terms under which the rules of `document` hold: ours where they are ours; ours with these rules
    where they permit nothing more and each of them has somebody who makes it hold; else None."""
    ours = render_offer("", terms.policy)
    if same_rules(ours, document):
        return terms
    if not narrows(ours, document):
        return None
    try:
        policy = parse_policy(Fields(document))
        classify(policy, terms.trusts_consumer)
    except RequestInvalid:
        return None
    return replace(terms, policy=policy)
