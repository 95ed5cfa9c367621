"""What an operator's label must say: one of three forms, about answers that exist."""

from typing import Any

from api.schemas import OperatorRequest
from store.db import Store
from store.errors import Invalid

FORMS = (
    "a label says one of: completion_id and good (true or false); completion_id and over (another completion id), "
    "with same: true where neither is better; prompt, better and worse"
)


def label_of(body: OperatorRequest, store: Store) -> dict[str, Any]:
    """The label as the intent carries it: fields of `store.records.Label`, or the texts of a written comparison.

    Raises:
        Invalid: none of the forms, or two at once (`param` names the field that is missing or too many).
        NotFound: an answer that does not exist.
    """
    written = {"prompt": body.prompt, "better": body.better, "worse": body.worse}
    if any(value is not None for value in written.values()):
        return written_pair(body, written)
    if body.completion_id is None:
        raise Invalid(FORMS, param="completion_id")
    if (body.good is None) == (body.over is None):
        raise Invalid(FORMS, param="good" if body.good is None else "over")
    require_answer(store, body.completion_id, body.choice_index, "completion_id", "choice_index")
    about: dict[str, Any] = {"completion_id": body.completion_id, "choice_index": body.choice_index}
    if body.over is None:
        if body.same:
            raise Invalid(FORMS, param="over")
        return {**about, "good": body.good}
    require_answer(store, body.over, body.over_index, "over", "over_index")
    require_same_prompt(store, body.completion_id, body.over)
    if (body.over, body.over_index) == (body.completion_id, body.choice_index):
        raise Invalid("over names the same answer; a comparison needs two", param="over")
    compared = {**about, "other_id": body.over, "other_index": body.over_index}
    return {**compared, "same": True} if body.same else compared


def written_pair(body: OperatorRequest, written: dict[str, str | None]) -> dict[str, Any]:
    """Two answers written down in the label itself."""
    extra = {"completion_id": body.completion_id, "good": body.good, "over": body.over, "same": body.same}
    unwanted = next((name for name, value in extra.items() if value is not None), None)
    if unwanted is not None:
        raise Invalid(FORMS, param=unwanted)
    empty = next((name for name, text in written.items() if text is None or not text.strip()), None)
    if empty is not None:
        raise Invalid(f"{empty} is missing or empty; {FORMS}", param=empty)
    if written["better"] == written["worse"]:
        raise Invalid("better and worse are the same text; a comparison needs two", param="worse")
    return dict(written)


def require_answer(store: Store, completion_id: str, index: int, id_field: str, index_field: str) -> None:
    completion = store.completions.find(completion_id)
    if completion is None or not completion.stored:
        raise Invalid(f"{id_field}: no recorded answer {completion_id!r}", param=id_field)
    if all(choice.index != index for choice in completion.choices):
        count = len(completion.choices)
        raise Invalid(f"{index_field} {index}: {completion_id} has {count} choices", param=index_field)


def require_same_prompt(store: Store, one: str, other: str) -> None:
    if store.completions.get(one).messages != store.completions.get(other).messages:
        raise Invalid("over answers another prompt; only answers to one prompt can be compared", param="over")
