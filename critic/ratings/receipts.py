"""Receipts and ballots: the facts of a scored edit, or of a pair as it was shown, signed, so that a rating or a
vote can refer to it and the service keeps no state.

receipts = Receipts(settings.receipt_key)
token = receipts.sign(receipt)           # sent with the result
receipts.read(token) == receipt          # when it comes back with a rating
"""

import secrets
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Generic, TypeVar

from itsdangerous import BadData, Signer, URLSafeSerializer
from itsdangerous.encoding import base64_decode, base64_encode, want_bytes
from pydantic import AwareDatetime, BaseModel, SecretStr, ValidationError

MIN_KEY_LENGTH = 16
"""Characters of a key, at least."""


class ReceiptKeyError(ValueError):
    """A key that is too short; the message doesn't show it."""


class ForgedReceipt(ValueError):
    """A token that this service didn't sign with one of its current keys."""


class Receipt(BaseModel, extra="forbid", frozen=True):
    """The facts of a scored edit that its ratings need.

    Attributes:
        pair_id: the edit's id in the request.
        source_sha256, edited_sha256: of the picture files as they were received, in hexadecimal.
        score: the critic's score, 1..5, None if `status` isn't "ok".
        model, version, contract: see `critic.client.schemas.Scored`.
    """

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


class Ballot(BaseModel, extra="forbid", frozen=True):
    """A pair as a rater was shown it; it doesn't tell who made the edits. The rater can read it: it is signed, not
    encrypted.

    Attributes:
        number: a random one, different for each ballot.
        pair: the pair's id, see `critic.ratings.pair_study.Pair`.
        swapped: whether the pair's second edit, by the edits' ids, is on the left.
    """

    number: str
    rater: str
    pair: str
    swapped: bool
    shown_at: AwareDatetime


_Facts = TypeVar("_Facts", bound=BaseModel)


class _Tokens(Generic[_Facts]):
    """Signs facts and verifies them, by HMAC with SHA-256.

    Most tokens have less than 1,000 characters; with an instruction of 4,000 characters, at most 32,000.

    Args:
        key: a secret of at least 16 characters, or several separated by commas: the last one signs, all verify, so
            that keys can be rotated. None makes a random key for this process alone.

    Raises:
        ReceiptKeyError: a key is too short.
    """

    _kind: type[_Facts]
    _salt: str

    def __init__(self, key: SecretStr | None):
        given = secrets.token_urlsafe() if key is None else key.get_secret_value()
        keys = [part.strip() for part in given.split(",")]
        if any(len(part) < MIN_KEY_LENGTH for part in keys):
            raise ReceiptKeyError(
                f"CRITIC_RECEIPT_KEY has a key of less than {MIN_KEY_LENGTH} characters: "
                "make one with `openssl rand -hex 32`"
            )
        self._serializer = URLSafeSerializer(
            keys,
            salt=self._salt,
            serializer_kwargs={"ensure_ascii": True},  # half of a surrogate pair isn't valid UTF-8
            signer=_Signer,
            signer_kwargs={"key_derivation": "hmac", "digest_method": sha256},
        )

    def sign(self, facts: _Facts) -> str:
        """The facts as a URL-safe token. Equal facts have equal tokens."""
        fields = facts.model_dump()
        times = {name: at.astimezone(UTC).isoformat() for name, at in fields.items() if isinstance(at, datetime)}
        return self._serializer.dumps(fields | times)

    def read(self, token: str) -> _Facts:
        """The facts in a token; a `ForgedReceipt` unless `sign` made it with one of these keys."""
        try:
            return self._kind.model_validate(self._serializer.loads(token))
        except (BadData, UnicodeEncodeError, ValidationError):
            raise ForgedReceipt(
                "this service didn't sign this receipt: send it exactly as the service gave it. Receipts are "
                "valid until the service restarts, unless CRITIC_RECEIPT_KEY is set"
            ) from None


class Receipts(_Tokens[Receipt]):
    """Signs and verifies the receipts of scored edits."""

    _kind, _salt = Receipt, "critic.receipt"


class Ballots(_Tokens[Ballot]):
    """Signs and verifies ballots."""

    _kind, _salt = Ballot, "critic.ballot"


class _Signer(Signer):
    """Accepts one spelling of a signature: base64 ignores the last bits and foreign characters."""

    def verify_signature(self, value: str | bytes, sig: Any) -> bool:
        return super().verify_signature(value, sig) and base64_encode(base64_decode(sig)) == want_bytes(sig)
