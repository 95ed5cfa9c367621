import pytest

from policies.shape import RUN, Answer, compare_shapes, distinct, repetition, shape, stock_phrase


def answer(*tokens: int, text: str = "words", ended: bool = True) -> Answer:
    return Answer(tokens, text, ended, (1.0,) * len(tokens))


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [((), 0.0), ((1, 2, 3), 0.0), ((1, 2, 3, 4, 5), 0.0), ((1,) * 8, 0.8), ((1, 2, 1, 2, 1, 2), 1 / 3)],
)
def test_repetition_is_the_share_of_four_grams_seen_before(tokens: tuple[int, ...], wanted: float) -> None:
    assert repetition(tokens) == pytest.approx(wanted)


def test_distinct_pools_all_answers() -> None:
    assert distinct([(1, 2), (1, 2), (1, 3)], 2) == pytest.approx(2 / 3)
    assert distinct([(1,)], 2) == 0


def test_shape_of_no_answers_is_empty() -> None:
    assert shape([]) == {}


def test_shape_averages_over_answers() -> None:
    metrics = shape([answer(1, 2, 3), answer(text=" \n", ended=False)])
    assert metrics["shape/empty"] == 0.5
    assert metrics["shape/ended"] == 0.5
    assert metrics["shape/length_tokens"] == 1.5
    assert metrics["shape/entropy_token"] == 1.0


def test_comparison_names_both_sides_and_the_length_ratio() -> None:
    metrics = compare_shapes([answer(1, 2, 3)], [answer(1, 2)])
    assert metrics["shape/length_ratio"] == 1.5
    assert metrics["incumbent/shape/length_tokens"] == 2


def test_there_is_no_length_ratio_to_an_incumbent_that_says_nothing() -> None:
    assert "shape/length_ratio" not in compare_shapes([answer(1)], [answer(text="")])


PHRASE = tuple(range(100, 100 + RUN))
PLAIN = [(*range(9), *range(20, 29)), tuple(range(40, 59)), (7,), ()]


@pytest.mark.parametrize(
    ("after", "before", "wanted"),
    [
        ([], PLAIN, 0.0),
        (PLAIN, PLAIN, 0.0),
        (PLAIN, [], 0.0),
        ([PHRASE], [PLAIN[0]], 0.0),
        ([(*PHRASE, 1), (2, *PHRASE), PLAIN[1], PLAIN[2]], PLAIN, 0.5),
        ([PHRASE * 3, PLAIN[0], PLAIN[1], PLAIN[2]], PLAIN, 0.0),
        ([PHRASE[:-1], PHRASE[:-1], PHRASE[1:], PHRASE[1:]], PLAIN, 0.0),
        ([PHRASE] * 4, [PHRASE, PHRASE, PHRASE, PLAIN[0]], 0.25),
        ([PLAIN[0]] * 4, [PHRASE] * 4, 1.0),
        ([PLAIN[0], PLAIN[0], PHRASE, PHRASE], [PHRASE] * 4, 0.5),
    ],
)
def test_a_stock_phrase_is_one_that_newly_many_answers_share(
    after: list[tuple[int, ...]], before: list[tuple[int, ...]], wanted: float
) -> None:
    assert stock_phrase(after, before) == pytest.approx(wanted)
    if after and before:
        sides = [[answer(*tokens) for tokens in side] for side in (after, before)]
        assert compare_shapes(*sides)["shape/stock_phrase"] == pytest.approx(wanted)
