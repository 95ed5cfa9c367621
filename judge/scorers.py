"""Which scorers judge: a literal table from the names of `[judge] scorers` to what builds each."""

from collections.abc import Callable
from dataclasses import dataclass

from judge.config import JudgeConfig
from judge.external import Endpoint, External
from judge.pairwise import PairwiseScorer
from judge.principles import PrinciplesScorer
from judge.relevance import RelevanceScorer
from judge.rubric import RubricScorer
from judge.scorer import Scorer
from judge.slots import Judge
from judge.texts import Texts, read_texts
from policies.engine import Engine
from store.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Parts:
    """What scorers are made of."""

    config: JudgeConfig
    judge: Judge
    texts: Texts
    seed: int
    endpoint: Endpoint | None
    epoch: str


def _external(parts: Parts) -> Scorer:
    if parts.endpoint is None:
        raise ConfigError(
            'judge.scorers: "external" needs an endpoint, and none is open', param="judge.scorers"
        )
    return External(parts.endpoint, settings=parts.config.external, texts=parts.texts, epoch=parts.epoch)


SCORERS: dict[str, Callable[[Parts], Scorer]] = {
    "relevance": lambda parts: RelevanceScorer(parts.judge),
    "rubric": lambda parts: RubricScorer(parts.judge, parts.texts.rubrics),
    "pairwise": lambda parts: PairwiseScorer(parts.judge),
    "principles": lambda parts: PrinciplesScorer(
        parts.judge, parts.texts.principles, parts.texts.constitution, parts.seed
    ),
    "external": _external,
}


def build_scorers(
    config: JudgeConfig,
    engine: Engine,
    *,
    adapter: str | None,
    seed: int,
    endpoint: Endpoint | None = None,
    epoch: str = "",
) -> tuple[Scorer, ...]:
    """The configured scorers, in the configured order.

    Args:
        config: `[judge]`.
        engine: what judges.
        adapter: the judge's weights; None is the base.
        seed: of the principles drawn.
        endpoint: of the "external" scorer.
        epoch: within which that endpoint counts as one judge: the model behind its name may change.

    Raises:
        ConfigError: a text cannot be read, or "external" is asked for without an endpoint.
    """
    texts = read_texts(config.constitution, config.rubrics)
    parts = Parts(config, Judge(engine, adapter), texts, seed, endpoint, epoch)
    return tuple(SCORERS[name](parts) for name in config.scorers)
