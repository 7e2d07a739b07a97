"""A receipt is read exactly as it was signed; everything else is refused."""

import random
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from critic.ratings.receipts import ForgedReceipt, Receipt, ReceiptKeyError, Receipts

OLD, NEW = "old-" * 4, "new-" * 4
OURS = Receipts(SecretStr(OLD))
RECEIPT = Receipt(
    request_id="9f1c",
    pair_id="0",
    source_sha256="a" * 64,
    edited_sha256="b" * 64,
    instruction="make the red star blue",
    mode="greedy",
    score=3.42,
    status="ok",
    model="sha256:" + "c" * 64,
    version="critic:grpo",
    contract="d" * 64,
    scored_at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
)
TOKEN = OURS.sign(RECEIPT)

any_text = st.text(st.characters(codec=None), max_size=300)
times = st.datetimes(datetime(2000, 1, 1), timezones=st.sampled_from([UTC, timezone(timedelta(hours=5.5))]))


@given(any_text, st.none() | st.floats(1, 5), times)
def test_a_receipt_comes_back_whatever_its_texts(text: str, score: float | None, when: datetime) -> None:
    receipt = RECEIPT.model_copy(update={"instruction": text, "pair_id": text, "score": score, "scored_at": when})
    token = OURS.sign(receipt)
    assert OURS.read(token) == receipt
    assert token.replace(".", "").replace("-", "").replace("_", "").isalnum()


@settings(max_examples=1000)
@given(st.data())
def test_any_change_of_a_token_is_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(TOKEN)))
    end = data.draw(st.integers(start, min(len(TOKEN), start + 3)))
    put = data.draw(st.text(st.characters(codec=None), max_size=3) | st.text("-_=.\n aAbB01", max_size=3))
    changed = TOKEN[:start] + put + TOKEN[end:]
    if changed == TOKEN:
        assert OURS.read(changed) == RECEIPT
    else:
        with pytest.raises(ForgedReceipt):
            OURS.read(changed)


@pytest.mark.parametrize("letter", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
def test_the_last_letter_of_a_signature_is_the_one_that_was_written(letter: str) -> None:
    if letter != TOKEN[-1]:
        with pytest.raises(ForgedReceipt):
            OURS.read(TOKEN[:-1] + letter)


@given(any_text)
def test_no_text_is_a_receipt(text: str) -> None:
    with pytest.raises(ForgedReceipt):
        OURS.read(text)


def test_without_a_key_receipts_are_valid_until_the_service_restarts() -> None:
    service = Receipts(None)
    token = service.sign(RECEIPT)
    assert service.read(token) == RECEIPT
    with pytest.raises(ForgedReceipt, match="until the service restarts, unless CRITIC_RECEIPT_KEY is set"):
        Receipts(None).read(token)


def test_with_a_key_receipts_survive_a_restart() -> None:
    assert Receipts(SecretStr(OLD)).read(TOKEN) == RECEIPT


def test_an_old_key_verifies_and_the_new_one_signs() -> None:
    both, new = Receipts(SecretStr(f"{OLD}, {NEW}")), Receipts(SecretStr(NEW))
    assert both.read(TOKEN) == RECEIPT
    assert new.read(both.sign(RECEIPT)) == RECEIPT
    with pytest.raises(ForgedReceipt):
        OURS.read(both.sign(RECEIPT))


@pytest.mark.parametrize("key", ["", "hunter2", f"{OLD},", f",{OLD}", f"{OLD},hunter2"])
def test_a_short_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ReceiptKeyError, match="less than 16 characters") as refused:
        Receipts(SecretStr(key))
    assert "hunter2" not in str(refused.value)


def test_a_receipt_of_other_fields_is_refused() -> None:
    class Other(Receipt):
        seed: int

    with pytest.raises(ForgedReceipt):
        OURS.read(OURS.sign(Other(**RECEIPT.model_dump(), seed=1)))


@pytest.mark.parametrize(("first", "last"), [("a", "z"), ("\u4e00", "\u9fff"), ("\U00010000", "\U0010ffff")])
def test_the_longest_instructions_make_tokens_of_32_000_characters_at_most(first: str, last: str) -> None:
    letters = random.Random(0)
    worst = "".join(chr(letters.randint(ord(first), ord(last))) for _ in range(4000))
    assert len(OURS.sign(RECEIPT.model_copy(update={"instruction": worst, "pair_id": worst[:200]}))) < 32_000
    assert len(TOKEN) < 1_000
