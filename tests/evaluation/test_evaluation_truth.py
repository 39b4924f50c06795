"""Labels as people write them: what counts, and what is refused with the row that is wrong."""

import decimal
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.evaluation import truth
from pipeline.task import parse

TASK = parse(
    """
name: poles
prompt: Look at the pole.
questions:
  kind: {type: label, labels: [wood, steel, none]}
  problems: {type: labels, labels: [rust, lean, graffiti]}
  lit: {type: boolean}
  lamps: {type: integer, minimum: 0, maximum: 9}
  degrees: {type: number, optional: true}
  words: {type: string}
  badge: {type: string, optional: true}
  spots: {type: boxes}
""",
    "poles.yaml",
)


def from_csv(text, key_column="id"):
    return truth.check(truth.read_csv(text, "labels.csv", key_column), TASK)


def from_table(rows, columns=None):
    names = tuple(columns or rows[0])
    return truth.check(truth.LabelRows("p.d.t", "id", names, rows), TASK)


def test_a_csv_cell_is_read_by_the_kind_of_its_question():
    found = from_csv(
        "\ufeffid,kind,problems,lit,lamps,degrees,words,badge,remark\r\n"
        'k1,Wood,"[""rust"", ""lean""]",yes,2,3.5,"MAIN ST, 3",A1,fine\r\n'
        "k2,steel,rust; graffiti,FALSE,0,,,,\r\n"
    )
    assert found.rows["k1"] == {
        "kind": "wood",
        "problems": ["rust", "lean"],
        "lit": True,
        "lamps": 2,
        "degrees": 3.5,
        "words": "MAIN ST, 3",
        "badge": "A1",
    }
    assert found.rows["k2"]["problems"] == ["rust", "graffiti"]
    assert found.questions == ("kind", "problems", "lit", "lamps", "degrees", "words", "badge")
    assert found.ignored == ("remark",)


def test_an_empty_cell_is_a_true_null_where_null_is_allowed_an_empty_text_in_csv_and_else_no_label():
    row = from_csv("id,kind,problems,lit,lamps,degrees,words,badge\nk,wood,,,,,,\n").rows["k"]
    assert row == {"kind": "wood", "degrees": None, "words": "", "badge": None}
    row = from_table([{"id": "k", "kind": "wood", "words": None, "badge": None, "lit": None}]).rows["k"]
    assert row == {"kind": "wood", "badge": None}


def test_case_and_spaces_around_names_keys_and_labels_do_not_matter_nor_do_blank_lines():
    found = from_csv("id , Kind,REMARK,lit\n\n k1 , WOOD ,x, \n\nk2,steel,,\n")
    assert found.rows == {"k1": {"kind": "wood"}, "k2": {"kind": "steel"}}
    assert found.ignored == ("REMARK",)
    assert from_table([{"id": "k", "KIND": " Wood"}]).rows == {"k": {"kind": "wood"}}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_label_that_is_no_finite_number_is_refused(value):
    with pytest.raises(ConfigError, match=r"row 1 \(id k\): degrees: (nan|inf) is not a number"):
        from_table([{"id": "k", "degrees": value}])


def test_values_of_a_table_keep_their_types():
    row = {"id": 7, "lamps": decimal.Decimal(3), "degrees": decimal.Decimal("2.5"), "problems": [], "lit": False}
    assert from_table([row]).rows == {"7": {"lamps": 3, "degrees": 2.5, "problems": [], "lit": False}}


def test_a_key_may_be_labelled_twice_alike_but_not_differently():
    assert len(from_csv("id,kind\na,wood\na,Wood\n").rows) == 1
    with pytest.raises(ConfigError, match=r"labels.csv, row 2: a is labelled twice, differently"):
        from_csv("id,kind\na,wood\na,steel\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("key,kind\na,wood\n", "--label_key_column=id: labels.csv has no such column; it has key, kind"),
        ("", "it has none"),
        ("id,color\na,red\n", "no column has the name of a question of task poles; its questions are kind, problems"),
        ("id,kind\na,concrete\n", "row 1 (id a): kind: 'concrete' is not one of: wood, steel, none"),
        ("id,lamps\na,1\nb,12\n", "row 2 (id b): lamps: '12' is not a whole number from 0 to 9"),
        ("id,lit\na,perhaps\n", "lit: 'perhaps' is neither true nor false"),
        ("id,problems\na,[rust\n", "problems: it is not a JSON list"),
        ("id,kind\n,wood\n", "row 1: id is empty"),
        ("id,kind\n", "it has no labels"),
        ("id,kind\na,\n", "it has no labels"),
        ("id,kind\na,wood,x\n", "line 2: 3 cells, but the header has 2; a text with commas goes in double quotes"),
        ("id,kind,lit\na,wood\n", "line 2: 2 cells, but the header has 3"),
        ("id,kind,Kind\na,wood,steel\n", "its header has kind twice"),
        ("id,degrees\na,NaN\n", "degrees: 'NaN' is not a number"),
        ("id,degrees\na,1e999\n", "degrees: inf is not a number"),
        ('id,kind\na,"wo\n', "not CSV"),
    ],
)
def test_labels_that_cannot_be_used_are_one_line_that_says_where(text, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        from_csv(text)


CELLS = st.sampled_from(
    ["wood", "id", "kind", "a", "", '"', "[", "[]", '["rust"]', 900 * "[", "1e999", "NaN", "yes", "\0"]
)


@settings(max_examples=150, deadline=None)
@given(st.text() | st.lists(st.lists(CELLS | st.text(max_size=3), min_size=1).map(",".join)).map("\n".join))
def test_any_text_is_labels_or_one_line_of_what_is_wrong(text):
    for head in ("", "id,kind,problems,lit,lamps,degrees,words,badge,spots\n"):
        try:
            assert from_csv(head + text).rows
        except ConfigError as error:
            assert "\n" not in str(error)


def test_a_free_text_task_has_no_right_answers():
    with pytest.raises(ConfigError, match="free text"):
        truth.check(truth.read_csv("id,a\nk,b\n", "l.csv", "id"), parse("{name: x, prompt: y}", "x"))


def test_a_limit_takes_the_same_rows_whatever_their_order():
    keys = [f"k{number}" for number in range(50)]
    one = from_table([{"id": key, "kind": "wood"} for key in keys]).limited(7)
    other = from_table([{"id": key, "kind": "wood"} for key in reversed(keys)]).limited(7)
    assert len(one.rows) == 7
    assert set(one.rows) == set(other.rows)
    assert set(one.rows) != set(keys[:7])
