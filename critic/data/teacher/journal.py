"""The journal of a teacher's answers: an answer that was paid for is not requested again, even after a kill.

A JSONL file; each answer is appended when it arrives. An answer belongs to an edit and to the hash of its request
(model, prompt, pictures, scores, sampling): a change of any of these sends a new request, a change of the checks
doesn't.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError


class JournalError(ValueError):
    """A journal that can't be read; the message names the file, the line and the fix."""


class Answer(BaseModel, extra="forbid", strict=True, frozen=True):
    """A teacher's answer about the edit `id` to the request with the SHA-256 `request`, and its tokens."""

    id: str
    request: str
    text: str
    finished: bool
    input_tokens: int
    output_tokens: int


class Journal:
    """Answers by edit and request, kept in a file.

    A last line without its end, which a kill left, is removed.

    Raises:
        JournalError: a line isn't an answer.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        self._answers: dict[tuple[str, str], Answer] = {}
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                self._keep(Answer.model_validate_json(line))
            except ValidationError as error:
                self._file.close()
                fault = error.errors()[0]["msg"]
                raise JournalError(f"{path} line {number} is not an answer, remove it: {fault}") from None
            whole += len(line)
        self._file.truncate(whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def find(self, edit: str, request: str) -> Answer | None:
        """The answer about an edit to a request, None if there is none."""
        return self._answers.get((edit, request))

    def add(self, answer: Answer) -> None:
        """Append an answer to the file."""
        self._file.write(answer.model_dump_json().encode() + b"\n")
        self._file.flush()
        self._keep(answer)

    def _keep(self, answer: Answer) -> None:
        self._answers[answer.id, answer.request] = answer
