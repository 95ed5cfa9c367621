"""What Prometheus is told. One registry per app, so that two apps in a process never mix their numbers."""

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from policies.engine import EngineHealth

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Meters:
    """Counters moved as things happen, and gauges set when they are read."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made = self.registry
        self.requests = Counter(
            "honed_requests", "HTTP requests", ["route", "method", "status"], registry=made
        )
        self.completions = Counter("honed_completions", "Chat answers by outcome", ["status"], registry=made)
        self.tokens = Counter("honed_tokens", "Tokens read and written", ["kind"], registry=made)
        self.first_token = Histogram(
            "honed_time_to_first_token_seconds", "Admission to first token", buckets=SECONDS, registry=made
        )
        self.duration = Histogram(
            "honed_completion_seconds", "Admission to last token", buckets=SECONDS, registry=made
        )
        self.feedback = Counter("honed_feedback", "Feedback taken", ["kind"], registry=made)
        self.running = Gauge("honed_engine_running", "Requests being decoded", registry=made)
        self.waiting = Gauge("honed_engine_queue_depth", "Requests waiting for a place", registry=made)
        self.ready = Gauge("honed_engine_ready", "1 when the engine answers", registry=made)
        self.adapter = Info("honed_active_adapter", "What the alias `honed` is answered by", registry=made)
        self.licensed = Gauge("honed_judge_licensed", "1 where a scorer may train", ["scorer"], registry=made)
        self.agreement = Gauge("honed_judge_auc", "A scorer's AUC against people", ["scorer"], registry=made)
        self.iterations = Gauge("honed_iterations", "Iterations by stage", ["stage"], registry=made)

    def render(
        self,
        health: EngineHealth,
        *,
        adapter: str,
        stages: dict[str, int],
        judges: Sequence[dict[str, Any]],
    ) -> bytes:
        """The exposition text, its gauges set first.

        Args:
            health: of the engine.
            adapter: what the alias is answered by.
            stages: stage -> iterations that stand there.
            judges: how scorers stood when last held against people (`views.judges`).
        """
        self.licensed.clear()
        self.agreement.clear()
        for one in judges:
            self.licensed.labels(one["scorer"]).set(one["licensed"])
            if one["auc"] is not None:
                self.agreement.labels(one["scorer"]).set(one["auc"])
        self.running.set(health.running)
        self.waiting.set(health.waiting)
        self.ready.set(health.ready)
        self.adapter.info({"version": adapter})
        self.iterations.clear()
        for stage, count in stages.items():
            self.iterations.labels(stage).set(count)
        return generate_latest(self.registry)
