"""Provider to provider: the lead hands out a collaboration's secret. Not part of DSP."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from connector.control_plane.collaborations import CollaborationSecrets
from connector.web.auth import PeerAuth


def collaborations_router(authenticate: PeerAuth, secrets: CollaborationSecrets) -> APIRouter:
    """`authenticate`: `peer_auth` for the DSP resource and scope `dsp`."""
    router = APIRouter(tags=["collaborations"])

    @router.post("/collaborations/{collaboration_id}/secret", summary="The secret, sealed to the requester")
    async def post_secret(collaboration_id: str, request: Request) -> Response:
        participant, _ = await authenticate(request)
        sealed = await secrets.hand_out(participant, collaboration_id)
        return Response(sealed, media_type="application/jose", headers={"Cache-Control": "no-store"})

    return router
