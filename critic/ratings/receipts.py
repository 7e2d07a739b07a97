"""Receipts: what a rating needs to know of a critique, signed, so that the service needn't remember the critique.

receipts = Receipts(settings.receipt_key)
token = receipts.sign(receipt)           # goes out with the verdict
receipts.read(token) == receipt          # when it comes back with a rating
"""

import secrets
from datetime import UTC
from hashlib import sha256
from typing import Any

from itsdangerous import BadData, Signer, URLSafeSerializer
from itsdangerous.encoding import base64_decode, base64_encode, want_bytes
from pydantic import AwareDatetime, BaseModel, ConfigDict, SecretStr, ValidationError

SHORTEST = 16
"""Characters of a key."""


class ReceiptKeyError(ValueError):
    """A key that can't sign; the message doesn't show it."""


class ForgedReceipt(ValueError):
    """A text that this service didn't sign, or not with a key that it has now."""


class Receipt(BaseModel):
    """A critique, as far as its ratings are concerned.

    Attributes:
        request_id: of the request that it was part of.
        pair_id: the pair's id within it.
        source_sha256, edited_sha256: of the pictures' files as they were sent, in hexadecimal.
        score: the critic's, 1..5, None where `status` isn't "ok".
        model, version, contract: as `critic.client.schemas.Scored` has them.
        scored_at: when.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    request_id: str
    pair_id: str
    source_sha256: str
    edited_sha256: str
    instruction: str
    mode: str
    score: float | None
    status: str
    model: str
    version: str
    contract: str
    scored_at: AwareDatetime


class Receipts:
    """Signs receipts and knows its own again, by HMAC with SHA-256.

    A token of an instruction of 4,000 characters has at most 32,000, and most have less than 1,000.

    Args:
        key: a secret of at least 16 characters, or several with commas between, of which the last signs and all
            are believed, so that keys can be changed while receipts are out. None draws one, which ends with this
            process, and which no other process has.

    Raises:
        ReceiptKeyError: a key is shorter.
    """

    def __init__(self, key: SecretStr | None):
        given = secrets.token_urlsafe() if key is None else key.get_secret_value()
        keys = [part.strip() for part in given.split(",")]
        if any(len(part) < SHORTEST for part in keys):
            raise ReceiptKeyError(
                f"CRITIC_RECEIPT_KEY has a key of less than {SHORTEST} characters: "
                "make one with `openssl rand -hex 32`"
            )
        self._serializer = URLSafeSerializer(
            keys,
            salt="critic.receipt",
            serializer_kwargs={"ensure_ascii": True},  # half of a surrogate pair is no UTF-8
            signer=_Signer,
            signer_kwargs={"key_derivation": "hmac", "digest_method": sha256},
        )

    def sign(self, receipt: Receipt) -> str:
        """The receipt as a token, of letters that a URL can hold. Equal receipts have equal tokens."""
        scored_at = receipt.scored_at.astimezone(UTC).isoformat()
        return self._serializer.dumps(receipt.model_dump() | {"scored_at": scored_at})

    def read(self, token: str) -> Receipt:
        """The receipt of a token.

        Raises:
            ForgedReceipt: it isn't exactly what `sign` gave with one of these keys, or a receipt of other fields.
        """
        try:
            return Receipt.model_validate(self._serializer.loads(token))
        except (BadData, UnicodeEncodeError, ValidationError):
            raise ForgedReceipt(
                "this receipt isn't this service's: send it as it came with the critique. Receipts hold until the "
                "service restarts, unless CRITIC_RECEIPT_KEY is set"
            ) from None


class _Signer(Signer):
    """Knows one way to write a signature: base64 ignores the last bits, and letters that aren't its own."""

    def verify_signature(self, value: str | bytes, sig: Any) -> bool:
        return super().verify_signature(value, sig) and base64_encode(base64_decode(sig)) == want_bytes(sig)
