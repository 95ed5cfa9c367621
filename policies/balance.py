"""The balance of liked and disliked examples: without tensors, so that a plan can tell it before anything loads."""


def class_weights(n_up: float, n_down: float, *, ratio: float, cap: float) -> tuple[float, float]:
    """Weights (up, down) that make up * n_up / (down * n_down) equal `ratio`, one of them always 1.

    KTO (2402.01306, section 4) advises a ratio of 1 to 4/3. The cap keeps a rare class from steering the run: past
    it the ratio is missed on purpose. With one class missing there is nothing to balance. Counts may be weighted.
    """
    if n_up <= 0 or n_down <= 0:
        return 1.0, 1.0
    wanted = ratio * n_down / n_up
    return (min(wanted, cap), 1.0) if wanted >= 1 else (1.0, min(1 / wanted, cap))
