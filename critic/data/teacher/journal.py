"""The journal of a teacher's answers: what was paid for once is not asked again, whatever ends the run.

One JSON line an answer, appended as it comes. An answer belongs to an edit and to its whole request (model,
prompt, pictures, scores, sampling), by hash: a change of any of these asks anew, a change of the checks doesn't.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError


class JournalError(ValueError):
    """A journal that can't be read; the message names the file, the line and the fix."""


class Answer(BaseModel):
    """What a teacher said of the edit `id` when asked `request` (a SHA-256), and how many tokens that took."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    id: str
    request: str
    text: str
    finished: bool
    input_tokens: int
    output_tokens: int


class Journal:
    """Answers by edit and request, kept in a file.

    Raises:
        JournalError: a line is no answer, other than a last one that a kill left without its end; that is cut off.
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
                raise JournalError(f"{path}, line {number} is no answer, remove it: {error}") from None
            whole += len(line)
        self._file.truncate(whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def find(self, edit: str, request: str) -> Answer | None:
        return self._answers.get((edit, request))

    def add(self, answer: Answer) -> None:
        self._file.write(answer.model_dump_json().encode() + b"\n")
        self._file.flush()
        self._keep(answer)

    def _keep(self, answer: Answer) -> None:
        self._answers[answer.id, answer.request] = answer
