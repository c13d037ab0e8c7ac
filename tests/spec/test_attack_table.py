"""Issue Identity, "attack table": which line of which table holds each attack it names.

The tables themselves run where they stand; this fails when one shrinks or a named attack is in none.
"""

from __future__ import annotations

import pytest

from tests.unit.access import (
    test_admission,
    test_attacks,
    test_identity,
    test_oidc,
    test_people,
    test_token_exchange,
    test_trust_list,
)
from tests.unit.access.test_attacks import TOKEN_ATTACKS, USE_ATTACKS
from tests.unit.adapters import test_registry_desk
from tests.unit.control_plane import test_participants
from tests.unit.web import test_auth, test_identity_routes, test_reading

TABLES: dict[str, list[str]] = {
    "token": [line[0] for line in TOKEN_ATTACKS],
    "use": [line[0] for line in USE_ATTACKS],
    "exchange": [line[0] for line in test_token_exchange.ATTACKS],
    "person": list(test_people.ATTACKS),
    "bearer": list(test_reading.ATTACKS),
    "agreement": list(test_admission.LIVE),
    "registry": [line[0] for line in test_trust_list.FORGERIES],
    "sign-in": [line[0] for line in test_oidc.LIES],
}
LEAST = 60

HELD: dict[str, list[tuple[str, str]]] = {
    "alg: none": [
        ("token", "alg none"),
        ("use", "alg none"),
        ("person", "alg none"),
        ("registry", "alg none"),
    ],
    "HS256 with the public key": [
        ("token", "HS256 with the public key as secret"),
        ("use", "HS256 with the public key as secret"),
        ("person", "HS256 with the public key"),
        ("sign-in", "HS256 with the public key"),
    ],
    "wrong typ": [("token", "typ of an access token"), ("use", "typ JWT"), ("registry", "of another typ")],
    "mixed typ": [("use", "typ in another case"), ("use", "a proof as access token")],
    "assertion used as access token": [("use", "an assertion as access token")],
    "proof for another URL": [("use", "proof for another URL"), ("token", "proof for another path")],
    "proof for another method": [("use", "proof for another method"), ("token", "proof for GET")],
    "proof for another token": [("use", "proof for another token")],
    "bearer downgrade": [("use", "bearer downgrade")],
    "wrong audience": [
        ("token", "wrong audience"),
        ("use", "wrong audience"),
        ("person", "another audience"),
    ],
    "expired": [("token", "expired"), ("use", "expired"), ("person", "expired")],
    "not yet valid": [("token", "not yet valid"), ("use", "not yet valid"), ("person", "not yet")],
    "future iat": [("token", "from the future"), ("use", "from the future")],
    "unknown kid": [("token", "unknown kid"), ("use", "unknown kid")],
    "kid injection": [("token", "kid is a path"), ("person", "kid is a list")],
    "jku header": [("token", "jku header"), ("use", "jku header")],
    "x5u header": [("token", "x5u header"), ("use", "x5u header")],
    "issuer not in registry": [("token", "client not in the registry"), ("use", "issuer of another")],
    "suspended participant": [("token", "suspended participant"), ("use", "suspended participant")],
    "token of another agreement": [
        ("token", "grant of another agreement"),
        ("exchange", "another agreement"),
    ],
    "of another consumer": [("token", "grant of another consumer"), ("exchange", "token of another client")],
    "after termination": [("agreement", "agreement ended"), ("token", "grant that has ended")],
    "after revocation": [("use", "revoked"), ("exchange", "revoked")],
    "scope widening": [("exchange", "scope widened"), ("use", "scope of another API")],
    "purpose widening": [("exchange", "purpose widened"), ("token", "grant for another purpose")],
    "exchange chains too deep": [("use", "actors too deep")],
    "repeated form parameters": [("token", "repeated parameter"), ("token", "repeated resource")],
    "access_token in the query": [("bearer", "query parameter")],
    "malleable signature tails": [
        ("token", "signature spelled otherwise"),
        ("use", "signature spelled otherwise"),
        ("exchange", "another spelling"),
        ("registry", "spelled otherwise"),
    ],
    "registry signed by another key": [("registry", "by another key")],
}

# Attacks that need a sequence, and so a test of their own.
SEQUENCES = {
    "replayed assertion": test_attacks.test_an_assertion_works_once,
    "replayed DPoP proof at the token endpoint": test_attacks.test_a_proof_works_once_at_the_token_endpoint,
    "replayed DPoP proof at the resource": test_attacks.test_a_proof_works_once_at_the_resource,
    "JWKS of 10 MB": test_oidc.test_ten_megabytes_of_keys_are_not_read,
    "registry rollback": test_participants.test_a_rollback_is_refused_also_after_a_restart,
    "clock skew at the limits": test_identity.test_clock_skew_at_its_limits,
    "access_token in the query, DPoP": test_auth.test_an_access_token_in_the_query_counts_for_nothing,
    "parameters in the query": test_identity_routes.test_parameters_in_the_query_count_for_nothing,
    "two proofs": test_identity_routes.test_two_proof_headers_are_refused,
    "forged application": test_registry_desk.test_what_is_not_signed_right_is_refused,
}


def test_the_tables_are_long_and_name_no_attack_twice() -> None:
    """At least 60 lines; a name stands once in its table."""
    assert sum(map(len, TABLES.values())) >= LEAST
    assert {name: len(lines) for name, lines in TABLES.items()} == {
        name: len(set(lines)) for name, lines in TABLES.items()
    }


@pytest.mark.parametrize(("table", "line"), sorted({line for lines in HELD.values() for line in lines}))
def test_the_line_is_there(table: str, line: str) -> None:
    """Each attack that the issue names stands in a table."""
    assert line in TABLES[table]


@pytest.mark.parametrize("attack", SEQUENCES)
def test_the_sequence_is_there(attack: str) -> None:
    """And each that is a sequence of requests is a test of its own."""
    assert callable(SEQUENCES[attack])
