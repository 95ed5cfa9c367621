"""Conversations to tokens and back; the engine and the trainer share it, so they cannot read a turn differently.

What people write is data: a control token spelled out in a message is taken out before the template is filled in,
or anyone could open a system turn of their own. In an answer it stays, as the plain characters it is made of.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from store.errors import Invalid
from store.records import Message, Role

#: Stands for an answer while looking for what a template puts after one.
MARK = "honed-answer"
#: No tokenizer packs more characters into a token on average.
CHARACTERS_PER_TOKEN = 32


def load_tokenizer(model_dir: Path) -> Any:
    """The tokenizer of a local model directory."""
    return AutoTokenizer.from_pretrained(model_dir, local_files_only=True)


def refuse_hopeless(messages: Sequence[Message], context: int) -> int:
    """Turn away a text that cannot fit before it is looked at closely. Returns its characters.

    Raises:
        Invalid: more characters than any tokenizer packs into a context of so many tokens.
    """
    characters = sum(len(message.content) for message in messages)
    if characters > CHARACTERS_PER_TOKEN * context:
        raise Invalid(
            f"the prompt has {characters} characters, far more than the context of {context} tokens holds",
            param="messages",
        )
    return characters


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation up to where the answer starts.

    Raises:
        Invalid: the template takes no such conversation (roles that do not alternate, say).
    """
    control = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    turns = [
        {
            # Templates know no developer; OpenAI's meaning of it is what others call system.
            "role": str(Role.SYSTEM if message.role == Role.DEVELOPER else message.role),
            "content": without_control(message.content, control),
        }
        for message in messages
    ]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise Invalid(
            f"the model's chat template refuses this conversation: {error}", param="messages"
        ) from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_completion(tokenizer: Any, text: str, *, ended: bool) -> list[int]:
    """Token ids of an answer; with the end token where the model ended the turn itself."""
    ids = list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    return [*ids, end_token(tokenizer)] if ended else ids


def end_token(tokenizer: Any) -> int:
    """The token that ends an answer: what the template puts there, if that is a control token, else EOS."""
    turns = [{"role": "user", "content": "-"}, {"role": "assistant", "content": MARK}]
    after = tokenizer.apply_chat_template(turns, tokenize=False).partition(MARK)[2]
    first = next(iter(tokenizer(after, add_special_tokens=False)["input_ids"]), tokenizer.eos_token_id)
    # Not `all_special_ids`: it leaves out control tokens that have no name such as EOS in this tokenizer.
    known = tokenizer.added_tokens_decoder.get(first)
    return int(first if known is not None and known.special else tokenizer.eos_token_id)


def end_tokens(listed: int | Sequence[int] | None, tokenizer: Any) -> frozenset[int]:
    """Every token an answer ends at: the model's own (`generation_config`), EOS, and the template's end of turn.

    Without the last an answer would run on into a turn of its own.
    """
    own = [] if listed is None else [listed] if isinstance(listed, int) else listed
    return frozenset({*own, tokenizer.eos_token_id, end_token(tokenizer)} - {None})


def without_control(text: str, control: Sequence[str]) -> str:
    """`text` with every control token removed, those that appear by removing another included.

    One pass, because a hostile text can nest as many of them as it has characters: what was kept so far is
    looked at again only where a removal has just joined it.
    """
    tokens = tuple(token for token in control if token)
    if not any(token in text for token in tokens):
        return text
    kept: list[str] = []
    longest = max(map(len, tokens))
    for character in text:
        kept.append(character)
        end = "".join(kept[-longest:])
        found = next((token for token in tokens if end.endswith(token)), None)
        if found is not None:
            del kept[len(kept) - len(found) :]
    return "".join(kept)
