"""3: an access token from the provider's own token endpoint, by private_key_jwt."""

from __future__ import annotations

from connector.demo import hostile
from connector.demo.ecosystem import PURPOSE_PLANNING
from connector.demo.stage import EMPLOYMENT_PLANNING, Stage


def run(stage: Stage) -> None:
    agreement = stage.agreement(EMPLOYMENT_PLANNING)
    claims = hostile.token_claims(stage.ecosystem, EMPLOYMENT_PLANNING, agreement, PURPOSE_PLANNING)
    check = stage.narrator.check
    check(claims["iss"] == stage.ecosystem.url("employment"), "issued by employment, for the city", claims)
    check(claims["exp"] - claims["iat"] <= 300, "it lives for five minutes at most", claims)
    check(
        "jkt" in claims.get("cnf", {}), "it is bound to the city's key: who steals it cannot use it", claims
    )
    (detail,) = claims["authorization_details"]
    named = (detail["agreement"], detail["purpose"])
    check(named == (agreement, PURPOSE_PLANNING), "it names one agreement and one purpose", detail)
