"""Named instants at which a test may kill the process, to prove that a crash there loses nothing.

`HONED_FAILPOINT=name` in the environment arms one point; the process then dies of SIGKILL when it gets
there, so no handler, no `finally` and no buffer flush can tidy up. Unarmed, a point costs one dict look-up.
Points are declared here, not where they are hit, so that the crash matrix can be generated from one list.
"""

import os
import signal

#: Every point, in the order an iteration passes them.
FAILPOINTS = (
    "iteration.collecting",
    "judge.licensed",
    "judge.sampled",
    "judge.scored",
    "judge.paired",
    "iteration.snapshot.written",
    "iteration.training",
    "trainer.loaded",
    "trainer.step",
    "trainer.trained",
    "trainer.adapter.written",
    "trainer.manifest.written",
    "iteration.evaluating",
    "rebuild.begun",
    "contest.scored",
    "iteration.gated",
    "iteration.loaded",
    "iteration.attested",
    "settle.before_commit",
    "settle.after_commit",
    "feedback.before_commit",
    "feedback.after_commit",
    "canary.before_commit",
    "canary.after_commit",
    "rollback.before_commit",
    "rollback.after_commit",
    "forget.begun",
    "forget.moved",
    "forget.files",
    "forget.before_commit",
    "forget.scrubbed",
    "forget.compacted",
)


def failpoint(name: str) -> None:
    """Die here if the environment says so.

    Raises:
        KeyError: the point is not in `FAILPOINTS`.
    """
    if name not in FAILPOINTS:
        raise KeyError(name)
    if os.environ.get("HONED_FAILPOINT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
