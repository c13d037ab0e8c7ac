"""The token endpoint's form, errors and grant (RFC 6749 §3.2, 4.4, 5.2), on Authlib's authorization server.

What goes out for an error is fixed per code: Authlib's own texts would tell which check failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload

from connector.access.jose import Refusal
from connector.access.rfc7523 import AUTH_METHOD, Client, ClientAssertion
from connector.errors import Reason
from connector.model.json import JsonObject
from connector.model.participant import Participant

MAX_FORM_BYTES = 32_768
Answer = tuple[int, Mapping[str, str], JsonObject]

_FORM = "application/x-www-form-urlencoded"
_MAX_PARAMETERS = 16


class InvalidDpopProof(OAuth2Error):  # type: ignore[misc]
    """RFC 9449 §5."""

    error = "invalid_dpop_proof"


class InvalidTarget(OAuth2Error):  # type: ignore[misc]
    """RFC 8707 §2."""

    error = "invalid_target"


class InvalidAuthorizationDetails(OAuth2Error):  # type: ignore[misc]
    """RFC 9396 §5."""

    error = "invalid_authorization_details"


class UseDpopNonce(OAuth2Error):  # type: ignore[misc]
    """RFC 9449 §8."""

    error = "use_dpop_nonce"

    def __init__(self, nonce: str) -> None:
        super().__init__()
        self.nonce = nonce

    def get_headers(self) -> list[tuple[str, str]]:
        return [*super().get_headers(), ("DPoP-Nonce", self.nonce)]


class TemporarilyUnavailable(OAuth2Error):  # type: ignore[misc]
    error = "temporarily_unavailable"
    status_code = 503


DESCRIPTIONS = {
    "invalid_request": "The request is malformed, or a parameter is missing or repeated.",
    "invalid_client": "Client authentication failed.",
    "unauthorized_client": "The client may not use this grant type.",
    "unsupported_grant_type": "The grant type is not supported.",
    "invalid_scope": "The scope must be exactly one of dsp, data and events.",
    "invalid_target": "The resource is missing, or is not the one of this server for the scope.",
    "invalid_dpop_proof": "One valid DPoP proof is required.",
    "invalid_grant": "The subject token or the actor token was not accepted.",
    "use_dpop_nonce": "The DPoP proof must hold the nonce of the DPoP-Nonce header.",
    "invalid_authorization_details": "The authorization details are malformed or not permitted.",
    "temporarily_unavailable": "Try again later.",
}


def error_answer(error: OAuth2Error, reasons: Sequence[Reason] = ()) -> Answer:
    """§5.2, with a member `reasons` for people where an agreement or policy said no."""
    code = str(error.error)
    body: dict[str, Any] = {"error": code, "error_description": DESCRIPTIONS[code]}
    if reasons:
        body["reasons"] = [{"code": r.code, "text": r.text, "source": r.source} for r in reasons]
    return int(error.status_code), dict(error.get_headers()), body


def parse_form(body: bytes, content_type: str) -> dict[str, str]:
    """§3.2: no parameter twice, an empty one counts as left out. Raises Refusal."""
    if content_type.partition(";")[0].strip().lower() != _FORM:
        raise Refusal("content_type")
    if len(body) > MAX_FORM_BYTES:
        raise Refusal("oversize")
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_PARAMETERS,
        )
    except ValueError:
        raise Refusal("malformed") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise Refusal("repeated_parameter")
    return {name: value for name, value in form.items() if value}


class TokenRequest(OAuth2Request):  # type: ignore[misc]
    def __init__(self, token_endpoint: str, form: Mapping[str, str]) -> None:
        # Authlib refuses http here; transport is the gateway's affair, and demo and tests run without one.
        super().__init__("POST", as_https(token_endpoint))
        self.payload = BasicOAuth2Payload(dict(form))
        self.form_parameters = form

    @property
    def form(self) -> Mapping[str, str]:
        return self.form_parameters


class ClientCredentials(ClientCredentialsGrant):  # type: ignore[misc]
    """§4.4. `validate_token_request` authenticates the client; `create_token_response` issues."""

    TOKEN_ENDPOINT_AUTH_METHODS = (AUTH_METHOD,)

    def create_token_response(self) -> tuple[int, JsonObject, Sequence[tuple[str, str]]]:
        # As in the base class, less its log line that holds the token.
        token = self.generate_token(scope=self.request.payload.scope, include_refresh_token=False)
        return 200, token, self.TOKEN_RESPONSE_HEADER


class TokenExchange(ClientCredentials):
    """RFC 8693 §2.1, with the same client authentication and the same answer but for one member."""

    GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"


class RequestServer(AuthorizationServer):  # type: ignore[misc]
    """Authlib's server for one request: it knows the participants of that moment and one assertion check."""

    def __init__(self, assertion: ClientAssertion, active: Callable[[str], Participant | None]) -> None:
        super().__init__()
        self._active = active
        self.register_grant(ClientCredentials)
        self.register_grant(TokenExchange)
        self.register_client_auth_method(AUTH_METHOD, assertion)

    def query_client(self, client_id: str) -> Client | None:
        participant = self._active(client_id)
        return Client(participant) if participant is not None else None

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""


def as_https(url: str) -> str:
    """For Authlib's checks of transport only."""
    return url.replace("http://", "https://", 1) if url.startswith("http://") else url
