"""Count what a teacher's answers led to, and what they cost."""

from collections import Counter
from dataclasses import dataclass, field
from textwrap import shorten

from critic.data.teacher.journal import Answer
from critic.params import Teacher


@dataclass
class Tally:
    """Counts of one split's edits (or pairs, if `of` says so), answers and tokens.

    Each of `edits`, the number to ask about, becomes one of `accepted`, `rejected` (all its answers were rejected)
    and `failed` (a request failed). `causes` counts rejected answers by reason and failed requests by error, of
    which `examples` has the first. Answers, tokens and `usd` include those from the journal, `usd_now` only this
    run's; both costs are 0 without prices.
    """

    title: str
    edits: int
    section: Teacher
    of: str = "edits"
    accepted: int = 0
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
        """Whether the share of edits with a rationale can't reach `teacher.min_acceptance_rate` any more."""
        return (self.edits - self.rejected - self.failed) / self.edits < self.section.min_acceptance_rate

    def add_answer(self, answer: Answer, *, requested: bool) -> None:
        """Add an answer's tokens and price; `requested` says that it doesn't come from the journal."""
        self.answers += 1
        self.from_journal += not requested
        self.input_tokens += answer.input_tokens
        self.output_tokens += answer.output_tokens
        if prices := self.section.usd_per_million_tokens:
            usd = (answer.input_tokens * prices.input + answer.output_tokens * prices.output) / 1e6
            self.usd += usd
            self.usd_now += usd * requested

    def add_cause(self, cause: str, edit: str, text: str) -> None:
        """Add the cause of a rejected answer or a failed request, with the answer's or the error's text."""
        self.causes[cause] += 1
        text = shorten(text, 300, placeholder=" ...") or "nothing"
        self.examples.setdefault(cause, f"{self.of[:-1]} {edit}: {text}")

    def brief(self) -> str:
        """The counts so far, for the progress bar."""
        cost = f", {self.usd_now:.2f} USD" if self.section.usd_per_million_tokens else ""
        return f"{self.accepted} accepted, {self.rejected} rejected, {self.failed} failed{cost}"

    def describe(self, *, examples: bool = False) -> str:
        """All counts as lines of text, with an example of each cause if wanted."""
        cost = ""
        if self.section.usd_per_million_tokens:
            cost = f", {self.usd:.2f} USD, of which {self.usd_now:.2f} in this run"
        lines = [
            f"{self.title}: {self.accepted} of {self.edits} {self.of} have a rationale by the teacher "
            f"({self.accepted / self.edits:.1%}); {self.rejected} rejected, {self.failed} failed",
            f"  {self.answers} answers, {self.from_journal} of them from the journal: "
            f"{self.input_tokens} tokens in, {self.output_tokens} out{cost}",
        ]
        for cause, count in self.causes.most_common():
            lines.append(f"  {count} x {cause}" + (f", for example {self.examples[cause]}" if examples else ""))
        return "\n".join(lines)
