"""What of people's words is stored: nothing of those who are excluded, and no obvious secrets of the others."""

from dataclasses import dataclass, replace

from api.schemas import OperatorRequest
from store.config import PrivacyConfig
from store.records import Choice, Completion, Feedback, FeedbackKind, Sampling
from store.redaction import Redactor

#: Kinds of feedback whose value is text; those of others are names of answers.
WRITTEN = frozenset({FeedbackKind.EDIT, FeedbackKind.COMMENT})
#: Whom an application asks for, as it names them; without it nobody could be forgotten by that name.
NAMES = frozenset({"user", "safety_identifier"})


@dataclass(frozen=True)
class Privacy:
    """`excluded`: principals, and users named by applications, of whom nothing is kept."""

    redactor: Redactor
    excluded: frozenset[str]

    @classmethod
    def of(cls, config: PrivacyConfig) -> "Privacy":
        return cls(Redactor.of(config.redact, config.redact_patterns), frozenset(config.excluded))

    def keeps(self, *names: str | None) -> bool:
        """Whether what somebody says may be stored, whatever they go by."""
        return not self.excluded & set(names)

    def completion(self, row: Completion) -> Completion:
        """An answer's row as it is stored; what the model is given is not touched."""
        return replace(
            row,
            messages=self.redactor.messages(row.messages),
            sampling=self.sampling(row.sampling),
            metadata={
                name: value if name in NAMES else self.redactor.value(value)
                for name, value in row.metadata.items()
            },
        )

    def sampling(self, sampling: Sampling) -> Sampling:
        return replace(sampling, stop=tuple(map(self.redactor.text, sampling.stop)))

    def choice(self, choice: Choice) -> Choice:
        return replace(choice, text=self.redactor.text(choice.text))

    def order(self, body: OperatorRequest) -> OperatorRequest:
        """An operator's order as it is stored: texts written down in a label, and why. Names stay what they are."""
        written = {"reason": body.reason, "prompt": body.prompt, "better": body.better, "worse": body.worse}
        kept = {name: self.redactor.text(text) for name, text in written.items() if text is not None}
        return body.model_copy(update=kept)

    def feedback(self, event: Feedback) -> Feedback:
        """An event as it is stored. The same words give the same event, so that a repeated one is known again."""
        return replace(
            event,
            value=self.redactor.text(str(event.value)) if event.kind in WRITTEN else event.value,
            reason=None if event.reason is None else self.redactor.text(event.reason),
            comment=None if event.comment is None else self.redactor.text(event.comment),
            metadata=self.redactor.value(event.metadata),
        )
