"""Secrets are known by their form, and nothing else is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.config import PrivacyConfig
from store.records import Message
from store.redaction import Redactor, luhn

DEFAULT = Redactor.of(PrivacyConfig().redact)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("write to Ann.Lee+x@mail.example.co.uk, please", "write to [email], please"),
        ("ann@localhost and @handle and a@b", "ann@localhost and @handle and a@b"),
        ("mail:ann@example.org.", "mail:[email]."),
        ("card 4111 1111 1111 1111 ok", "card [card] ok"),
        ("4012-8888-8888-1881", "[card]"),
        ("378282246310005", "[card]"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("0000000000000000", "0000000000000000"),
        ("4111 1111 1111 1111 123 is card and code", "[card] 123 is card and code"),
        ("3782 822463 10005", "[card]"),
        ("at 1700000000006 ms", "at 1700000000006 ms"),
        ("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
        ("4111111111111111.25", "4111111111111111.25"),
        ('class="sk-estimator-doc-link"', 'class="sk-estimator-doc-link"'),
        ("order 1234567", "order 1234567"),
        ("key sk-proj-abcdefghijklmnop1234 here", "key [key] here"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "[key]"),
        ("AKIAIOSFODNN7EXAMPLE", "[key]"),
        ("risk-averse task-force sk-short", "risk-averse task-force sk-short"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nthanks", "[key]\nthanks"),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "[key]"),
    ],
)
def test_secrets_are_named_in_their_place(text: str, stored: str) -> None:
    assert DEFAULT.text(text) == stored
    assert DEFAULT.text(stored) == stored


def test_ones_own_patterns_and_no_kinds() -> None:
    own = Redactor.of((), [r"patient \d+"])
    assert own.text("Patient 7, patient 12, ann@example.org") == "Patient 7, [redacted], ann@example.org"
    assert Redactor.of(()).text("ann@example.org") == "ann@example.org"


def test_values_and_messages() -> None:
    assert DEFAULT.value({"a": ["x@example.org", 3, None]}) == {"a": ["[email]", 3, None]}
    assert DEFAULT.messages([Message("user", "x@example.org")]) == (Message("user", "[email]"),)


@given(st.text(max_size=300))
def test_twice_is_once(text: str) -> None:
    once = DEFAULT.text(text)
    assert DEFAULT.text(once) == once


@given(st.from_regex(r"\A[1-9][0-9]{11,17}\Z"))
def test_one_digit_in_ten_checks(digits: str) -> None:
    assert sum(luhn(digits + last) for last in "0123456789") == 1


def test_an_expression_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="match everywhere"):
        PrivacyConfig(redact_patterns=("a*",))
    with pytest.raises(ValueError, match="no regular expression"):
        PrivacyConfig(redact_patterns=("(",))
