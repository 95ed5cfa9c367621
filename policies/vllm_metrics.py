"""vLLM's own metrics passed on: those of every server in one exposition, told apart by a label. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

#: What vLLM names its metrics with; the others are of its Python process.
OWN = "vllm:"


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def merged(texts: Mapping[str, str]) -> str:
    """One exposition of several servers' (URL -> exposition), with a label `server`.

    A server whose text cannot be read is left out: monitoring must not fail for one of several.
    """
    families: dict[str, Metric] = {}
    for server, text in sorted(texts.items()):
        for family in _families_of(text):
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.add_sample(sample.name, {**sample.labels, "server": server}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry).decode()


def _families_of(text: str) -> list[Metric]:
    try:
        return [family for family in text_string_to_metric_families(text) if family.name.startswith(OWN)]
    except (ValueError, KeyError, IndexError):
        return []
