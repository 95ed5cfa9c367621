"""`[feedback]` and `[judge]`: what evidence is worth."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class SignalsConfig(BaseModel):
    """`[feedback.signals]`: prior weight of each signal; a thumb is 1. Zero leaves a signal logged only."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    thumb: float = Field(default=1.0, ge=0, le=1)
    """An explicit thumb. Where there is one, weaker signals of the same person on the same answer are ignored."""
    rating: float = Field(default=1.0, ge=0, le=1)
    """Stars: 1 and 5 count fully, 2 and 4 half, 3 not at all."""
    edit: float = Field(default=0.7, ge=0, le=1)
    """A corrected answer: a pair, correction over original."""
    preference: float = Field(default=1.0, ge=0, le=1)
    """A comparison: a pair, the preferred over the other."""
    regenerate_kept: float = Field(default=0.5, ge=0, le=1)
    """A retry whose new answer was not itself rejected: a pair, new over old."""
    regenerate: float = Field(default=0.2, ge=0, le=1)
    """A retry by itself: weak dislike."""
    copy_click: float = Field(default=0.3, ge=0, le=1, alias="copy")
    """Copying an answer: weak liking."""
    share: float = Field(default=0.3, ge=0, le=1)
    """Sharing an answer: weak liking."""
    refit_min: int = Field(default=50, ge=0)
    """With so many outright opinions (thumbs, stars) beside a weak signal (retry, copy, share), and as many without
    it, its weight is fitted to them and the one above no longer counts. 0: never."""
    refit_floor: float = Field(default=0.2, ge=0, le=1)
    """A fitted weight below this is none."""


class PropensityConfig(BaseModel):
    """`[feedback.propensity]`: who votes on what is no fair draw; what is seldom voted on counts for more."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    enabled: bool = True
    """Off: votes count alike, however seldom their like are spoken of."""
    least: int = Field(default=100, ge=20)
    """So many logged answers that were spoken of, and that were not, are needed to tell."""
    log: int = Field(default=5000, ge=100)
    """The newest logged answers that are looked at."""
    smallest: float = Field(default=0.2, gt=0, le=1)
    """No vote is weighed below this, before all are divided by their mean."""
    largest: float = Field(default=5.0, ge=1)
    """Nor above this."""


class DefenceConfig(BaseModel):
    """`[feedback.defence]`: what keeps one person, or a few together, from steering the model alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    enabled: bool = True
    """Off: every vote counts as it was given (the cap on shares has its own setting)."""
    dictated_words: int = Field(default=8, ge=4)
    """An answer that repeats so many words of its prompt in one run was dictated, and is not trained on as good. In a
    longer one the run must be a fifth of it, or three times as long: quotations teach."""
    dictated_share: float = Field(default=0.75, gt=0, le=1)
    """So was one whose longest such run is this share of all its words, four at the least."""
    phrase_words: int = Field(default=5, ge=3)
    """Words of a run that is looked for among what people like and write."""
    phrase_repeats: int = Field(default=3, ge=2)
    """In so many liked answers or corrections a run recurs before it is somebody's phrase."""
    phrase_people: int = Field(default=3, ge=1)
    """A phrase trains once so many people like it, or were given it without asking for it; one fewer than there are
    people, at the most."""
    phrase_share: float = Field(default=0.1, ge=0, le=1)
    """Or this share of all people, where that is more."""
    phrase_log: int = Field(default=2000, ge=0)
    """The newest logged answers that are looked through for phrases."""
    daily_votes: int = Field(default=50, ge=1)
    """Answers per day whose votes of one person count, from the day on that more than three people had spoken. The
    votes on further ones go into quarantine."""
    min_shared: int = Field(default=5, ge=1)
    """Answers somebody must share with others, or with operators' labels, before their reliability is told. Below it
    they count in full; below chance their votes go into quarantine."""


class FeedbackConfig(BaseModel):
    """`[feedback]`: how events become training examples."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    never_train: float = Field(default=0.15, ge=0.0, le=0.5)
    """Share of answers, chosen by a stable hash of the completion id, whose feedback only ever tests."""
    min_examples: int = Field(default=4, ge=2)
    """Fewer training examples than this abort an iteration: there is nothing to learn from."""
    min_contrast: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the examples that must tell better from worse: pairs, and votes of the rarer sign. Fewer abort an
    iteration: votes of one sign alone teach no difference."""
    max_examples: int = Field(default=2000, ge=2)
    """The newest examples an iteration takes at the most."""
    max_history: int = Field(default=20_000, ge=100)
    """The newest opinions an iteration looks at, to train on or repeat them, and to hold judges and people against.
    Older ones are kept and exported. Looking at one takes some 5 kB of memory."""
    max_heldout: int = Field(default=200, ge=2)
    """The newest never-train answers an iteration is tested on at the most."""
    principal_share_floor: float = Field(default=0.02, gt=0, le=1)
    """With n people, each one's share of an iteration's weight is capped at min(1, max(this, 3/n))."""
    signals: SignalsConfig = SignalsConfig()
    """Prior weights of the signals."""
    propensity: PropensityConfig = PropensityConfig()
    """Against the tilt of who votes."""
    defence: DefenceConfig = DefenceConfig()
    """Against one who steers alone."""


class LicenceConfig(BaseModel):
    """`[judge.licence]`: the bounds inside which a scorer's opinions may train."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    min_labels: int = Field(default=40, ge=4)
    """Human labels (never-train thumbs, operator labels, comparisons count two) a scorer is measured on at least."""
    max_labels: int = Field(default=1000, ge=4)
    """The newest human labels it is measured on at the most; at least min_labels."""
    max_abstained: float = Field(default=0.3, ge=0, le=1)
    """Largest share of the labelled answers it was asked about that a scorer may leave unjudged."""
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """Coverage of the bootstrap interval of AUC."""
    min_auc_lower: float = Field(default=0.6, ge=0.5, lt=1)
    """Least lower bound of AUC against people; 0.5 is chance."""
    min_swap_consistency: float = Field(default=0.7, ge=0, le=1)
    """Least share of comparisons in which both orders name the same winner; for scorers that compare."""
    max_length_correlation: float = Field(default=0.5, gt=0, le=1)
    """Largest rank correlation of score with answer length, either way, among answers people judge alike."""
    min_spread: float = Field(default=0.02, ge=0)
    """Least spread of calibrated scores (standard deviation): a scorer that always says the same says nothing."""
    max_tie_rate: float = Field(default=0.4, ge=0, le=1)
    """Largest share of ties among comparable answers."""
    max_injection: float = Field(default=0.1, ge=0, le=1)
    """Largest share of the canaries it judged (answers asking for full marks) that beat their honest twins."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.max_labels < self.min_labels:
            raise ValueError(f"max_labels = {self.max_labels} is below min_labels = {self.min_labels}")
        return self


class PairsConfig(BaseModel):
    """`[judge.pairs]`: which judged answers become DPO pairs."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    min_q: float = Field(default=0.6, gt=0.5, lt=1)
    """Least calibrated probability that the best answer is better than the worst; below it is a tie."""
    max_length_ratio: float = Field(default=2.0, ge=1)
    """Longest ratio of the two answers' lengths, either way."""
    near_tie: float = Field(default=0.05, ge=0, lt=0.5)
    """Answers within this much of the best (calibrated) count as equally good: the shortest of them is chosen."""
    weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of a judged pair in the loss; a thumb is 1."""
    max_share: float = Field(default=0.5, ge=0, le=1)
    """Largest share of an iteration's weight that judged pairs hold while people's evidence is there."""
    base_rejected: float = Field(default=0.25, ge=0, le=1)
    """Share of prompts whose rejected answer is drawn from the base model once the score gap has halved."""


class ExternalConfig(BaseModel):
    """`[judge.external]`: an OpenAI-compatible endpoint as a judge. People's prompts and answers are sent to it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    url: str = ""
    """Base URL up to and including /v1; needed when "external" is among the scorers."""
    model: str = ""
    """Model name the endpoint is asked for."""
    key_env: str = "HONED_JUDGE_KEY"
    """Environment variable that holds the endpoint's key; unset sends none."""
    timeout_s: float = Field(default=20.0, gt=0, le=600)
    """Seconds one call may take."""
    retries: int = Field(default=2, ge=0, le=10)
    """Further attempts after a failure that may pass (429, 5xx, no connection); then it abstains."""
    max_calls: int = Field(default=500, ge=1)
    """Calls an iteration may make; beyond it the scorer abstains."""

    @field_validator("key_env")
    @classmethod
    def _is_no_setting(cls, name: str) -> str:
        if not name.isidentifier() or (name.startswith("HONED_") and name != "HONED_JUDGE_KEY"):
            raise ValueError("must be the name of a variable; those that begin with HONED_ are settings")
        return name


class JudgeConfig(BaseModel):
    """`[judge]`: how the model judges itself, and when that counts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    enabled: bool = True
    """Measure the scorers every iteration and, while one holds a licence, sample and judge new answers."""
    scorers: tuple[Literal["relevance", "rubric", "pairwise", "principles", "external"], ...] = ("relevance",)
    """Who judges. Each is measured and licensed by itself. Small models: relevance; billions: rubric, pairwise."""
    combine: Literal["mean", "majority"] = "mean"
    """How licensed scorers become one panel: mean of calibrated scores, or the majority of their votes."""
    weights: Literal["base", "incumbent"] = "base"
    """Which weights judge. "base" cannot drift with the policy; "incumbent" softens pairs by its consistency with
    the judge before it."""
    prompts: int = Field(default=24, ge=0, le=10_000)
    """Prompts people asked that are answered anew, per iteration."""
    candidates: int = Field(default=4, ge=2, le=16)
    """New answers per prompt."""
    temperature: float = Field(default=0.9, gt=0, le=2)
    """Temperature of the new answers."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus of the new answers."""
    max_tokens: int = Field(default=160, ge=8)
    """Length of the new answers at the most, tokens."""
    self_instruct: int = Field(default=0, ge=0, le=10_000)
    """Further prompts the model writes itself per iteration, in the manner of people's, filtered for novelty."""
    revisions: int = Field(default=4, ge=0, le=1000)
    """Disliked answers per iteration that are criticised under a principle of the constitution and revised."""
    constitution: Path | None = None
    """A constitution of your own (Markdown list of principles); default: the one that ships."""
    rubrics: Path | None = None
    """A folder of rubrics of your own (*.md); default: those that ship."""
    licence: LicenceConfig = LicenceConfig()
    """Bounds of the licence."""
    pairs: PairsConfig = PairsConfig()
    """Which judged answers become pairs."""
    external: ExternalConfig = ExternalConfig()
    """The endpoint of the "external" scorer."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if len(set(self.scorers)) != len(self.scorers):
            raise ValueError("scorers: each one once")
        if "external" in self.scorers and not (self.external.url and self.external.model):
            raise ValueError('scorers has "external": external.url and external.model say which endpoint')
        return self
