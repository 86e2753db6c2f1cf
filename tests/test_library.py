"""The program library: every file is in order, and every program does what its comment says."""

from __future__ import annotations

import math

import pytest

from attn_dsl.dsl import syntax
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.library import CATEGORIES, LibraryProgram, library, with_visibility
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.reference import evaluate
from attn_dsl.dsl.tokens import Tokens

ALL = library(spacy=True)
MEASURED = [entry for entry in ALL.values() if entry.measured]

# Tokens are separated by |; @ marks the query, ^ the keys with the top weight.
CASES = [
    ("uniform", "^a|^ b|@^ c"),
    ("early_tokens", "^a| b|@ c"),
    ("distant_tokens", "^a| b|@ c"),
    ("first_token", "^a| b|@ c"),
    ("self_token", "a| b|@^ c| d"),
    ("previous_token", "a|^ b|@ c| d"),
    ("second_previous_token", "a|^ b| c|@ d"),
    ("local_window", "a| b|^ c|^ d|^ e|^ f|^ g|^ h|^ i|@^ j"),
    ("distance_log", "a| b|@^ c"),
    ("distance_linear", "a| b|@^ c"),
    ("distance_table", "a|^ b|@ c"),
    ("self_and_first", "^a| b|@ c"),
    ("previous_and_self", "a|^ b|@ c"),
    ("local_and_first", "^a| b| c|@ d"),
    ("window_and_first", "^a| b| c|@ d"),
    ("delimiter_and_first", "^a| b|,| d|@ e"),
    ("induction", "The| cat|^ sat|.| The|@ cat"),
    ("induction", "Cat|^ sat|.| A|@ Cat"),
    ("induction_context", "See| the| cat|^ sat| by| a| cat|.| See| the|@ cat"),
    ("induction_and_first", "The| cat|^ sat|.| The|@ cat"),
    ("induction_and_first", "^The| cat|@ sat"),
    ("induction_long", "a| x|.| b| x|^!| b|@ x"),
    ("induction_long", "^a| x|@ y"),
    ("induction_soft", "a| x|.| b| x|^!| b|@ x"),
    ("induction_last_copy", "x| y| x|^ z|@ x"),
    ("induction_last_copy", "^a| b|@ c"),
    ("induction_word", "Un|do|^ it|.| un|@do"),
    ("duplicate_token", "a|^ cat| d|@ cat"),
    ("same_token", "a|^ cat| d|@^ cat"),
    ("duplicate_and_first", "a|^ cat| d|@ cat"),
    ("duplicate_and_first", "^a| cat|@ d"),
    ("duplicate_word", "^Un|^do| it|.| un|@do"),
    ("duplicate_word", "<s>|a|\n|\n|^b|@ b"),
    ("repeated_tokens", "a| b| c|^ b|@ d"),
    ("same_word", "a|^ un|^believ|@^able"),
    ("current_word_start", "a|^ un|believ|@able"),
    ("previous_word", "a|^ un|^do| it|@'s"),
    ("current_sentence", "Go|.|^ He|^ went|@^ off"),
    ("previous_sentence", "Yes|.|^ Go|^.| He|@ went"),
    ("current_sentence_start", "Go|.|^ He| went|@ off"),
    ("sentence_ends", 'Go|^.| He| went|^!"| A|@ b'),
    ("last_sentence_end", "Go|.| He|^!| went|@ off"),
    ("last_sentence_end", "^Go| on|@ then"),
    ("punctuation", "A|^,| b|^:| c|@ d"),
    ("newlines", "A|^\n|b| c|^\n|@d"),
    ("current_line_start", "A|\n|^b| c|@ d"),
    ("line_starts", "^A| a|\n|^b| c|@ d"),
    ("current_paragraph", "A|\n|a|\n|\n|^b|@^ c"),
    ("opening_bracket", "f|(|a|,| g|^(|b|@)"),
    ("opening_bracket", "f|^(|a| b|@ c"),
    ("matching_bracket", "f|^(|g|(|a|)|@)"),
    ("matching_bracket", "^f|(|@g"),
    ("matching_bracket", "^f|(|g|(|a|),|@b"),
    ("matching_bracket", '^f|(|"|a|@"'),
    ("opening_quote", 'He| said|^ "|Go| on|@ now'),
    ("names", "The| girl|^ Lily| saw|^ Tom|@ ."),
    ("last_name", "^Lily| saw| The| cat|@ ."),
    ("last_name", "Lily| saw|^ Tom| and|@ a"),
    ("pronoun_to_name", "Once|,|^ Tom| ran|.| Then|@ he"),
    ("pronoun_to_name", "^once|,| Tom| ran| and|@ fell"),
    ("pronoun_chain", "Tom| said| she| saw|^ him|,| so|@ he"),
    ("pronoun_chain", "Ann| said|^ she| saw| him|,| so|@ her"),
    ("pronoun_chain", "Ann| said|^ they| saw| him| at|@ their"),
    ("name_mover", "When|^ Mary| and| John| left|,| John| gave| it|@ to"),
    ("repeated_names", "When| Mary| and| John| left|,|^ John| gave| it|@ to"),
    ("noun_to_determiner", "once| saw|^ the| big|@ dog"),
    ("noun_to_determiner", "^once| a| b| c| d|@ dog"),
    ("verb_to_subject", "Tom| left|.|^ She| quickly|@ ran"),
    ("function_words", "Tom| saw|^ the| dog|@ bark"),
    ("reported_speech", "go|,|^ said| Tom|@ ."),
    ("long_tokens", "a|^ caterpillar| bit|@ him"),
    ("same_shape", "in|^ 1984| and| in|@^ 85"),
    ("keywords", "^if| x|:|^ return|@ x"),
    ("last_assignment", "x| =| y|;| z|^ =| w|@ u"),
    ("last_assignment", "^x| y|@ z"),
    ("same_identifier", "def| f|(|^my|^_x|):| return| my|@_x"),
    ("same_identifier", "^def| f|(|x|):|@ def"),
    ("same_indentation", "a|:|\n|   |^ b|\n|   |@^ c"),
    ("enclosing_block", "if|:|\n| |^ for|:|\n|  |  |@ x"),
    ("enclosing_function", "def| f|():| x|\n|^def| g|():|@ y"),
    # Bidirectional.
    ("next_token", "a|@ b|^ c| d"),
    ("both_neighbours", "a|^ b|@ c|^ d| e"),
    ("neighbourhood", "a|^ b|^ c|^ d|^ e|@^ f|^ g|^ h|^ i|^ j| k"),
    ("next_sentence_end", "Yes|.|@ Go| on|^.| He| went|."),
    ("next_sentence_end", "Yes|.|@ Go|^ on"),
    ("determiner_to_noun", "saw|@ the| very|^ dog| bark"),
    ("final_token", "a|@ b| c|^ d"),
    ("special_tokens", "^[CLS]|@ a| b|^[SEP]"),
    ("separator", "[CLS]|@ a|^[SEP]| b|^[SEP]"),
    ("separator_and_previous", "[CLS]|^ a|@ b| c|[SEP]"),
]

SPACY_TEXT = "The| old| dog| was| chased| by| un|cles| and| cats|."
# Per token: part of speech, label, lemma, position of the head; pieces of a word have the same.
SPACY_PARSE = {
    "upos": "DET ADJ NOUN AUX VERB ADP NOUN NOUN CCONJ NOUN PUNCT".split(),
    "dep": "det amod nsubjpass auxpass ROOT agent pobj pobj cc conj punct".split(),
    "lemma": "the old dog be chase by uncle uncle and cat .".split(),
    "syntax_head": [2, 2, 4, 4, 4, 4, 5, 5, 7, 7, 4],
}
SPACY_CASES = [
    ("syntactic_head", 9, {7}),
    ("dependents", 4, {2, 3, 5, 10}),
    ("dependents", 7, {8, 9}),
    ("siblings", 0, {0, 1}),
    ("subject_of_verb", 4, {2}),
    ("verb_of_subject", 2, {4}),
    ("preposition_of_object", 6, {5}),
    ("determiner_of_noun", 2, {0}),
    ("noun_of_modifier", 1, {2}),
    ("passive_auxiliary", 4, {3}),
    ("conjuncts", 9, {7}),
    ("sentence_root", 0, {4}),
    ("nouns", 0, {2, 6, 7, 9}),
    ("verbs", 0, {4}),
    ("same_part_of_speech", 2, {6, 7, 9}),
]


def read_case(case: str) -> tuple[Tokens, int, set[int]]:
    strings, query, top = [], -1, set()
    for i, part in enumerate(case.split("|")):
        token = part.lstrip("@^")
        marks = part[: len(part) - len(token)]
        query = i if "@" in marks else query
        top |= {i} if "^" in marks else set()
        strings.append(token)
    return Tokens.from_strings(strings), query, top


def top_keys(row: list[float]) -> set[int]:
    return {k for k, weight in enumerate(row) if weight > max(row) - 1e-9}


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_program_does_what_it_says(name: str, case: str) -> None:
    tokens, query, expected = read_case(case)
    matrix = evaluate(ALL[name].program, tokens)
    assert top_keys(matrix[query]) == expected
    assert all(math.isclose(sum(row), 1.0) for row in matrix)


@pytest.fixture
def spacy_parse(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    table = {name: list(column) for name, column in SPACY_PARSE.items()}
    monkeypatch.setattr(syntax, "parse_tokens", lambda analysis: table)
    return table


@pytest.mark.parametrize(("name", "query", "expected"), SPACY_CASES)
def test_a_spacy_program_does_what_it_says(
    name: str, query: int, expected: set[int], spacy_parse: dict[str, list]
) -> None:
    matrix = evaluate(ALL[name].program, Tokens.from_strings(SPACY_TEXT.split("|")))
    assert top_keys(matrix[query]) == expected
    assert all(math.isclose(sum(row), 1.0) for row in matrix)


@pytest.mark.parametrize(
    ("name", "query", "expected"),
    [("verb_of_object", 3, 1), ("object_of_verb", 1, 3), ("same_lemma", 5, 3),
     ("pronoun_to_noun", 4, 3)],
)  # fmt: skip
def test_spacy_programs_on_a_sentence_with_an_object(
    name: str, query: int, expected: int, spacy_parse: dict[str, list]
) -> None:
    spacy_parse.update(
        upos=["PROPN", "VERB", "DET", "NOUN", "PRON", "NOUN"],
        dep=["nsubj", "ROOT", "det", "dobj", "dep", "dep"],
        lemma=["Tom", "see", "the", "cat", "it", "cat"],
        syntax_head=[1, 1, 3, 1, 1, 1],
    )
    tokens = Tokens.from_strings(["Tom", " saw", " the", " cat", " it", " cats"])
    assert top_keys(evaluate(ALL[name].program, tokens)[query]) == {expected}


def test_the_library_is_small() -> None:
    """A reader can read all of it, and weights that were measured stand in short programs."""
    assert len(library()) <= 120
    assert max(t.nodes(entry.program) for entry in MEASURED) <= 20


def test_every_program_without_measured_weights_has_a_case() -> None:
    cases = {name for name, *_ in [*CASES, *SPACY_CASES]}
    cases |= {"verb_of_object", "object_of_verb", "same_lemma", "pronoun_to_noun"}
    assert cases == {name for name, entry in ALL.items() if entry not in MEASURED}


@pytest.mark.parametrize("entry", ALL.values(), ids=ALL)
def test_every_file_is_in_order(entry: LibraryProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    facts = check(entry.program, source=entry.source, name=entry.path)
    assert facts.holes == 0 and facts.lookahead == ()
    assert show(parse(entry.source)) == entry.source
    assert entry.path.removesuffix(".attn").split("/")[-1] == entry.name == entry.program.name
    lines = [line for line in entry.source.splitlines() if line.startswith("# ")]
    assert " ".join(line.removeprefix("# ") for line in lines) == f"{entry.doc} category: {entry.category}"
    assert entry.doc.endswith(".") and entry.doc[0].isupper() and max(map(len, lines)) <= 110
    assert entry.category in CATEGORIES


@pytest.mark.parametrize("entry", ALL.values(), ids=ALL)
def test_spacy_programs_lie_in_their_own_folder(entry: LibraryProgram) -> None:
    calls = {node.name for node in entry.program.walk() if isinstance(node, t.Call)}
    assert any(FEATURES[name].extra for name in calls) == entry.path.startswith("library/spacy/")
    assert (entry.name in library()) == (not entry.path.startswith("library/spacy/"))


def test_no_two_programs_are_the_same() -> None:
    visibilities: tuple[t.Visibility | None, ...] = (None, "causal", "bidirectional")
    for visibility in visibilities:
        heads = [entry.program for entry in library(visibility, spacy=True).values()]
        names: dict[object, str] = {}
        for head in heads:
            same = names.setdefault((head.terms, head.visibility), head.name)
            assert same == head.name


def test_a_library_of_one_visibility() -> None:
    causal, both = library("causal", spacy=True), library("bidirectional", spacy=True)
    assert all(entry.program.causal for entry in causal.values())
    assert not any(entry.program.causal for entry in both.values())
    assert set(both) == set(ALL) and set(causal) < set(ALL)
    assert not {"next_token", "final_token", "determiner_to_noun"} & set(causal)
    assert {"special_tokens", "both_neighbours", "neighbourhood"} <= set(causal)
    for entry in [*causal.values(), *both.values()]:
        assert entry.source == show(entry.program) == show(parse(entry.source))


def test_an_unknown_visibility_is_an_error() -> None:
    with pytest.raises(InputError, match="sideways"):
        library("sideways")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("term", "other"),
    [
        ("-2 * log(1 + q - k)", "-2 * log(1 + abs(q - k))"),
        ("-2 * (q - k)", "-2 * abs(q - k)"),
        ("6 * decay(q - k, 0.8)", "6 * decay(abs(q - k), 0.8)"),
        ("by q - k [0: 1, 2: 0]", "by abs(q - k) [0: 1, 2: 0]"),
        ("2 * inv(min(q - k, 8)) where punct(k)", "2 * inv(min(abs(q - k), 8)) where punct(k)"),
        ("-2 * (q-1 - k)", "-2 * (q-1 - k)"),
        ("2 where k == q-1", "2 where k == q-1"),
        ("1 * k - 2 * log(q - k) where q - k > 2", "1 * k - 2 * log(abs(q - k)) where q - k > 2"),
        ("2 where q - k in 1..4", "2 where q - k in 1..4"),
    ],
)
def test_distances_count_both_ways_in_a_bidirectional_program(term: str, other: str) -> None:
    causal = parse(f"head a causal:\n {term}")
    both = parse(f"head a bidirectional:\n {other}")
    assert with_visibility(causal, "bidirectional") == both
    assert with_visibility(both, "causal") == causal
    assert with_visibility(both, "bidirectional") is both


@pytest.mark.parametrize(
    ("term", "makes_sense"),
    [
        ("2 where k == q+1", False),
        ("2 where k > q", False),
        ("2 where q < k and punct(k)", False),
        ("2 where q+1 <= k", False),
        ("2 where k == nearest(punct(k) and k >= q+1)", False),
        ("2 where text_final(k)", False),
        ("2 where k >= q", True),
        ("2 where k > q-1", True),
        ("2 where not k > q", True),
        ("2 where k == q+1 or k == q-1", True),
        ("2 where k != q", True),
    ],
)
def test_a_program_that_looks_ahead_has_no_causal_form(term: str, makes_sense: bool) -> None:
    head = parse(f"head a bidirectional:\n {term}")
    assert (with_visibility(head, "causal") is not None) == makes_sense


CAUSAL_SAMPLE = ["Lily", " saw", " Tom", ".", " She", " said", ",", ' "', "Hi", '."', "\n", "Tom"]


@pytest.mark.parametrize("name", sorted(library("causal")))
def test_a_causal_program_does_not_see_what_follows(name: str) -> None:
    program, tokens = library("causal")[name].program, Tokens.from_strings(CAUSAL_SAMPLE)
    whole = evaluate(program, tokens)
    for n in range(1, len(tokens)):
        row = evaluate(program, tokens.prefix(n))[-1]
        assert row == pytest.approx(whole[n - 1][:n])
        assert not any(whole[n - 1][n:])
