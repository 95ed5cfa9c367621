"""What the bench of engines makes of its turns: honed against the better of those it is compared with."""

from benchmarks.bench_engines import Way, measure, report


def test_honed_is_held_against_the_best_of_those_compared_and_the_median_counts() -> None:
    def way(name: str, *, compared: bool = True) -> Way:
        return Way(name, lambda clients, offset: 0.0, compared=compared)

    ways = [way("honed", compared=False), way("slow"), way("fast"), way("another thing", compared=False)]
    turns = {
        "honed": [10.0, 30.0, 20.0],
        "slow": [4.0, 4.0, 4.0],
        "fast": [16.0, 1.0, 16.0],
        "another thing": [90.0] * 3,
    }
    (row,) = report(ways, {8: turns})
    assert (row["best"], row["ratio"], row["floor"]) == ("fast", 20.0 / 16.0, 1.0)


def test_each_way_goes_first_in_turn_and_the_first_round_only_warms_up() -> None:
    asked: list[tuple[str, int]] = []

    def speed(name: str, tokens: float) -> Way:
        def measured(clients: int, offset: int) -> float:
            asked.append((name, clients))
            assert offset >= clients
            return tokens

        return Way(name, measured, (1,) if name == "alone" else (1, 8))

    found = measure([speed("honed", 1.0), speed("alone", 2.0), speed("both", 3.0)], rounds=2)
    assert found == {
        1: {"honed": [1.0] * 2, "alone": [2.0] * 2, "both": [3.0] * 2},
        8: {"honed": [1.0] * 2, "both": [3.0] * 2},
    }
    firsts = [asked[index][0] for index in (0, 3, 6)]
    assert firsts == ["honed", "alone", "both"]
