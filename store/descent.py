"""Lines of descent of adapters: who came from whom, and what a move of the pointer leaves behind. Pure."""

from collections.abc import Iterable, Mapping

from store.records import Adapter, AdapterStatus


def lineage_of(version: str | None, parents: Mapping[str, str | None]) -> tuple[str, ...]:
    """A version and those before it, nearest first; nothing for None, the base."""
    chain: list[str] = []
    while version is not None and version not in chain:
        chain.append(version)
        version = parents.get(version)
    return tuple(chain)


def left_behind(
    served: Iterable[str | None], target: str | None, parents: Mapping[str, str | None]
) -> tuple[str, ...]:
    """Versions that a move to `target` leaves: what was served, back to where its line meets the target's.

    Args:
        served: the versions that answered until now; None is the base.
        target: the version that answers from now on; None is the base.
        parents: every version's parent; None is the base.
    """
    stay = lineage_of(target, parents)
    gone = [version for top in served for version in lineage_of(top, parents) if version not in stay]
    return tuple(dict.fromkeys(gone))


def way_back(adapter: Adapter, known: Mapping[str, Adapter]) -> str | None:
    """The nearest ancestor that nobody rolled back or retired; None is the base.

    Args:
        adapter: what is left.
        known: every adapter by version.
    """
    parents = {version: one.parent for version, one in known.items()}
    for version in lineage_of(adapter.version, parents)[1:]:
        if version in known and known[version].status is AdapterStatus.SUPERSEDED:
            return version
    return None
