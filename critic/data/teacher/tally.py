"""What became of the edits that a teacher was asked about, and what it cost."""

from collections import Counter
from dataclasses import dataclass, field
from textwrap import shorten

from critic.data.teacher.journal import Answer
from critic.params import Teacher


@dataclass
class Tally:
    """Counts of one split's edits, answers and tokens.

    Attributes:
        edits: how many are to be asked about; each becomes one of `kept`, `rejected` (all its answers were)
            and `failed` (a request was not answered).
        causes: rejected answers by reason and failed requests by error.
        examples: the first of each cause, with its edit.
        answers, input_tokens, output_tokens: of all answers, those of the journal too.
        usd, usd_now: what all answers cost, and those that this run asked for; 0 without prices.
    """

    title: str
    edits: int
    section: Teacher
    kept: int = 0
    rejected: int = 0
    failed: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    answers: int = 0
    from_journal: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    usd_now: float = 0.0

    @property
    def too_few(self) -> bool:
        """Whether the share of edits with a rationale is, or can only end, under `teacher.min_kept`."""
        return (self.edits - self.rejected - self.failed) / self.edits < self.section.min_kept

    def count(self, answer: Answer, *, asked_now: bool) -> None:
        """Add an answer's tokens and price."""
        self.answers += 1
        self.from_journal += not asked_now
        self.input_tokens += answer.input_tokens
        self.output_tokens += answer.output_tokens
        if prices := self.section.usd_per_million_tokens:
            usd = (answer.input_tokens * prices.input + answer.output_tokens * prices.output) / 1e6
            self.usd += usd
            self.usd_now += usd * asked_now

    def blame(self, cause: str, edit: str, said: str) -> None:
        """Add a rejected answer or a failed request."""
        self.causes[cause] += 1
        self.examples.setdefault(cause, f"edit {edit}: {shorten(said, 300, placeholder=' ...') or 'nothing'}")

    def brief(self) -> str:
        """For the progress bar."""
        cost = f", {self.usd_now:.2f} USD" if self.section.usd_per_million_tokens else ""
        return f"{self.kept} kept, {self.rejected} rejected, {self.failed} failed{cost}"

    def describe(self, *, examples: bool = False) -> str:
        """For the end: some lines, with an example of each cause if asked."""
        cost = ""
        if self.section.usd_per_million_tokens:
            cost = f", {self.usd:.2f} USD of which {self.usd_now:.2f} now"
        lines = [
            f"{self.title}: {self.kept} of {self.edits} edits have a rationale by the teacher "
            f"({self.kept / self.edits:.1%}); {self.rejected} rejected, {self.failed} failed",
            f"  {self.answers} answers, {self.from_journal} of them from the journal: "
            f"{self.input_tokens} tokens in, {self.output_tokens} out{cost}",
        ]
        for cause, count in self.causes.most_common():
            lines.append(f"  {count} x {cause}" + (f", as of {self.examples[cause]}" if examples else ""))
        return "\n".join(lines)
