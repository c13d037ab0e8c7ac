"""The conformance kit's conversations by its ids (dsp.md 3.5), and what the connector's hook does in each.

A script answers by state; a list is played once, an action each time the state is entered. How the words of
a conversation read: see `driver`.
"""

from __future__ import annotations

from typing import Any

from connector.control_plane import hooks as h
from connector.dsp.policy import render_offer
from connector.model.transfer import DataAddress
from tests.pair import POLICY

OFFER = h.Offer(document=render_offer("benefits:planning:1", POLICY))
END = h.Terminate(code="scripted", reasons=("because",))
START = h.Start(address=DataAddress(endpoint_type="HTTP", endpoint="http://kela.example/data"))
AGREE, VERIFY, FINALIZE, ACCEPT = h.Agree(), h.Verify(), h.Finalize(), h.Accept()
SUSPEND, COMPLETE = h.Suspend(), h.Complete()

PROVIDER_NEGOTIATES: dict[str, tuple[dict[str, Any], str]] = {
    "CN:01-01": ({"REQUESTED": OFFER}, "request <offer terminate =TERMINATED"),
    "CN:01-02": ({"REQUESTED": [OFFER, END]}, "request <offer counter <terminate =TERMINATED"),
    "CN:01-03": (
        {"REQUESTED": OFFER, "ACCEPTED": AGREE, "VERIFIED": FINALIZE},
        "request <offer accept <agree verify <finalize =FINALIZED",
    ),
    "CN:01-04": ({"REQUESTED": AGREE, "VERIFIED": FINALIZE}, "request <agree verify <finalize =FINALIZED"),
    "CN:02-01": ({"REQUESTED": END}, "request <terminate =TERMINATED"),
    "CN:02-02": ({}, "request terminate =TERMINATED"),
    "CN:02-03": ({"REQUESTED": AGREE}, "request <agree terminate =TERMINATED"),
    "CN:02-04": ({"REQUESTED": OFFER}, "request <offer terminate =TERMINATED"),
    "CN:02-05": ({"REQUESTED": OFFER, "OFFERED": END}, "request <offer <terminate =TERMINATED"),
    "CN:02-06": ({"REQUESTED": OFFER, "ACCEPTED": END}, "request <offer accept <terminate =TERMINATED"),
    "CN:02-07": ({"REQUESTED": AGREE, "VERIFIED": END}, "request <agree verify <terminate =TERMINATED"),
    "CN:03-01": (
        {"REQUESTED": AGREE, "VERIFIED": FINALIZE},
        "request <agree verify <finalize =FINALIZED terminate! =FINALIZED",
    ),
    "CN:03-02": ({"REQUESTED": OFFER}, "request <offer verify! =OFFERED"),
    "CN:03-03": ({"REQUESTED": OFFER}, "request <offer accept verify! =ACCEPTED"),
    "CN:03-04": ({"REQUESTED": [OFFER]}, "request <offer counter =REQUESTED counter! =REQUESTED"),
    "roles: a consumer cannot offer, agree or finalize": (
        {"REQUESTED": AGREE},
        "request <agree finalize! offer! agree! =AGREED",
    ),
    "roles: a consumer cannot accept its own offer": ({}, "request accept! =REQUESTED"),
    "a terminated negotiation stays": ({}, "request terminate terminate! counter! verify! =TERMINATED"),
}

CONSUMER_NEGOTIATES: dict[str, tuple[dict[str, Any], str]] = {
    "CN_C:01-01": (
        {"OFFERED": ACCEPT, "AGREED": VERIFY},
        "begin <request offer <accept agree <verify finalize =FINALIZED",
    ),
    "CN_C:01-02": ({"OFFERED": OFFER}, "begin <request offer <counter terminate =TERMINATED"),
    "CN_C:01-03": ({"OFFERED": END}, "begin <request offer <terminate =TERMINATED"),
    "CN_C:01-04": ({"AGREED": VERIFY}, "begin <request agree <verify finalize =FINALIZED"),
    "CN_C:02-01": ({}, "begin <request terminate =TERMINATED"),
    "CN_C:02-02": ({"REQUESTED": END}, "begin <request <terminate =TERMINATED"),
    "CN_C:02-03": ({"AGREED": END}, "begin <request agree <terminate =TERMINATED"),
    "CN_C:02-04": ({}, "begin <request offer =OFFERED terminate =TERMINATED"),
    "CN_C:02-05": ({"OFFERED": ACCEPT}, "begin <request offer <accept terminate =TERMINATED"),
    "CN_C:02-06": ({"AGREED": VERIFY}, "begin <request agree <verify terminate =TERMINATED"),
    "CN_C:03-01": ({}, "begin <request finalize! =REQUESTED"),
    "CN_C:03-02": ({}, "begin <request offer agree! =OFFERED"),
    "CN_C:03-03": ({}, "begin <request offer finalize! =OFFERED"),
    "CN_C:03-04": ({"OFFERED": ACCEPT}, "begin <request offer <accept finalize! =ACCEPTED"),
    "CN_C:03-05": ({"OFFERED": ACCEPT}, "begin <request offer <accept offer! =ACCEPTED"),
    "CN_C:03-06": ({"OFFERED": ACCEPT}, "begin <request offer <accept agree finalize! =AGREED"),
    "roles: a provider cannot accept or verify": ({}, "begin <request offer accept! verify! =OFFERED"),
}

PROVIDER_TRANSFERS: dict[str, tuple[dict[str, Any], str]] = {
    "TP:01-01": ({"REQUESTED": START, "STARTED": END}, "request-transfer <start <terminate =TERMINATED"),
    "TP:01-02": ({"REQUESTED": START, "STARTED": COMPLETE}, "request-transfer <start <complete =COMPLETED"),
    "TP:01-03": (
        {"REQUESTED": START, "STARTED": SUSPEND, "SUSPENDED": END},
        "request-transfer <start <suspend <terminate =TERMINATED",
    ),
    "TP:01-04": (
        {"REQUESTED": START, "STARTED": [SUSPEND, COMPLETE], "SUSPENDED": START},
        "request-transfer <start <suspend <start <complete =COMPLETED",
    ),
    "TP:01-05": ({"REQUESTED": END}, "request-transfer <terminate =TERMINATED"),
    "TP:02-01": ({"REQUESTED": START}, "request-transfer <start terminate =TERMINATED"),
    "TP:02-02": ({"REQUESTED": START}, "request-transfer <start complete =COMPLETED"),
    "TP:02-03": ({"REQUESTED": START}, "request-transfer <start suspend terminate =TERMINATED"),
    "TP:02-04": ({"REQUESTED": START}, "request-transfer <start suspend start complete =COMPLETED"),
    "TP:02-05": ({}, "request-transfer terminate =TERMINATED"),
    "TP:03-01": ({}, "request-transfer complete! =REQUESTED"),
    "TP:03-02": ({}, "request-transfer suspend! =REQUESTED"),
    "TP:03-03": ({"REQUESTED": START}, "request-transfer <start suspend complete! =SUSPENDED"),
    "TP:03-04": ({"REQUESTED": START}, "request-transfer <start terminate start! =TERMINATED"),
    "TP:03-05": ({"REQUESTED": START}, "request-transfer <start terminate suspend! =TERMINATED"),
    "TP:03-06": ({"REQUESTED": START}, "request-transfer <start terminate complete! =TERMINATED"),
    "roles: a consumer cannot start what it asked for": ({}, "request-transfer start! =REQUESTED"),
}

CONSUMER_TRANSFERS: dict[str, tuple[dict[str, Any], str]] = {
    "TP_C:01-01": ({}, "begin-transfer <request start terminate =TERMINATED"),
    "TP_C:01-02": ({}, "begin-transfer <request start complete =COMPLETED"),
    "TP_C:01-03": ({}, "begin-transfer <request start suspend terminate =TERMINATED"),
    "TP_C:01-04": ({}, "begin-transfer <request start suspend start complete =COMPLETED"),
    "TP_C:01-05": ({}, "begin-transfer <request terminate =TERMINATED"),
    "TP_C:02-01": ({"STARTED": END}, "begin-transfer <request start <terminate =TERMINATED"),
    "TP_C:02-02": ({"STARTED": COMPLETE}, "begin-transfer <request start <complete =COMPLETED"),
    "TP_C:02-03": (
        {"STARTED": SUSPEND, "SUSPENDED": END},
        "begin-transfer <request start <suspend <terminate =TERMINATED",
    ),
    "TP_C:02-04": (
        {"STARTED": [SUSPEND, COMPLETE], "SUSPENDED": START},
        "begin-transfer <request start <suspend <start <complete =COMPLETED",
    ),
    "TP_C:02-05": ({"REQUESTED": END}, "begin-transfer <request <terminate =TERMINATED"),
    "TP_C:03-01": ({}, "begin-transfer <request complete! =REQUESTED"),
    "TP_C:03-02": ({}, "begin-transfer <request suspend! =REQUESTED"),
    "TP_C:03-03": ({}, "begin-transfer <request start suspend complete! =SUSPENDED"),
    "TP_C:03-04": ({}, "begin-transfer <request start terminate start! =TERMINATED"),
    "TP_C:03-05": ({}, "begin-transfer <request start terminate suspend! =TERMINATED"),
    "TP_C:03-06": ({}, "begin-transfer <request start terminate complete! =TERMINATED"),
}
