"""What each participant is asked for a statement: as little as is surely enough."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from connector.errors import NotPermitted
from connector.model.decision import Bucket, Hash
from connector.query.description import Description, read_description
from connector.query.federate import Access
from connector.query.parse import TableName, parse
from connector.query.plan import Plan, plan
from tests.unit.query.providers import PURPOSE, Provided, sample

PSEUDONYM = "x1_" + "abcdefghijklmnopqrstuvwxyz"


def described(provided: Provided, table: TableName) -> Description:
    access = Access(
        participant=table.participant, dataset=table.dataset, agreement_id="ag-1", purpose=PURPOSE
    )
    return read_description(
        provided.described(access),
        participant=table.participant,
        dataset=table.dataset,
        agreement="ag-1",
    )


def planned(sql: str, parameters: Any = (), **benefits: Any) -> Plan:
    """Over the sample ecosystem; `benefits` changes how kela shows its rows."""
    provided = sample().provided
    provided["kela", "benefits"] = replace(provided["kela", "benefits"], **benefits)
    statement = parse(sql, parameters)
    descriptions = {t: described(provided[t.participant, t.dataset], t) for t in statement.tables}
    return plan(statement, descriptions)


def asked(sql: str, parameters: Any = (), **benefits: Any) -> list[str]:
    return [f"{f.table.participant}: {f.sql}" for f in planned(sql, parameters, **benefits).fragments]


# --- columns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "fragments"),
    [
        # only what is named, in the provider's order
        ("SELECT amount, area FROM kela.benefits", ['kela: SELECT "area", "amount" FROM "benefits"']),
        ('SELECT "AREA" FROM kela.benefits', ['kela: SELECT "area" FROM "benefits"']),
        # a column both have is taken from the one that is meant
        (
            "SELECT b.area, c.status FROM kela.benefits b, employment.clients c WHERE b.person = c.person",
            [
                'kela: SELECT "person", "area" FROM "benefits"',
                'employment: SELECT "person", "status" FROM "clients"',
            ],
        ),
        # ... and from both where that is open
        (
            "SELECT area FROM kela.benefits JOIN employment.clients USING (person)",
            [
                'kela: SELECT "person", "area" FROM "benefits"',
                'employment: SELECT "person", "area" FROM "clients"',
            ],
        ),
        # an inner query's names stay inside, an outer one's reach in
        (
            "SELECT year FROM school.leavers l WHERE EXISTS "
            "(SELECT * FROM employment.clients WHERE person = l.person AND birth_year < year)",
            [
                'school: SELECT "person", "year" FROM "leavers"',
                'employment: SELECT "person", "birth_year" FROM "clients"',
            ],
        ),
        # counting needs one column, and takes the one that tells least
        ("SELECT count(*) FROM kela.benefits, school.leavers", ['kela: SELECT "active" FROM "benefits"']),
        # a whole row, a star and a pattern are all columns
        ("SELECT l FROM school.leavers l", ['school: SELECT "person", "year", "school" FROM "leavers"']),
        ("SELECT l.* FROM school.leavers l", ['school: SELECT "person", "year", "school" FROM "leavers"']),
        (
            "SELECT COLUMNS('y.*') FROM school.leavers",
            ['school: SELECT "person", "year", "school" FROM "leavers"'],
        ),
        (
            "SELECT a FROM school.leavers AS l(a, b, c) WHERE b = 2023",
            ['school: SELECT "person", "year", "school" FROM "leavers"'],
        ),
        # the same dataset twice, asked once where one answer serves both
        (
            "SELECT a.area FROM kela.benefits a JOIN kela.benefits b ON a.area = b.area",
            ['kela: SELECT "area" FROM "benefits"'],
        ),
        # two places that call their columns by the dataset's own name share one answer
        (
            "SELECT (SELECT max(kind) FROM kela.benefits) FROM kela.benefits WHERE area = '00100'",
            ['kela: SELECT "area", "kind" FROM "benefits"'],
        ),
    ],
)
def test_columns(sql: str, fragments: list[str]) -> None:
    """Query: projections are pushed. What the statement does not name does not leave."""
    assert asked(sql)[: len(fragments)] == fragments


# --- conditions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "pushed"),
    [
        ("area = '00100'", "\"area\" = '00100'"),
        ("'00100' = area", "\"area\" = '00100'"),
        ("area = 'it''s'", "\"area\" = 'it''s'"),
        ("area <> 'x'", "\"area\" <> 'x'"),
        ("area >= 'x'", "\"area\" >= 'x'"),
        ("5 > amount", '"amount" < 5'),
        ("amount = -5", '"amount" = -5'),
        ("amount IN (1, 2)", '"amount" IN (1, 2)'),
        ("amount NOT IN (1, 2)", '"amount" NOT IN (1, 2)'),
        ("amount BETWEEN 1 AND 2", '("amount" >= 1) AND ("amount" <= 2)'),
        ("amount IS NULL", '"amount" IS NULL'),
        ("amount IS NOT NULL", '"amount" IS NOT NULL'),
        ("active = true", '"active" = TRUE'),
        ("started > DATE '2024-02-01'", "\"started\" > '2024-02-01'"),
        ("started = '2024-02-01'", "\"started\" = '2024-02-01'"),
        ("((amount = 1 OR area = 'x'))", '("amount" = 1) OR ("area" = \'x\')'),
        ("NOT (amount = 1 AND area = 'x')", 'NOT (("amount" = 1) AND ("area" = \'x\'))'),
        # a double at our side, perhaps more digits at theirs: the looser condition travels
        ("rate < 0.3", '"rate" <= 0.3'),
        ("rate > 1", '"rate" >= 1.0'),
        ("rate = 0.25", '"rate" = 0.25'),
        # these stay here
        ("rate <> 0.25", None),
        ("NOT rate > 0.25", None),
        ("amount = 1.5", None),
        ("amount = '1'", None),
        ("area = 100", None),
        ("amount = 99999999999999999999", None),
        ("amount + 1 = 2", None),
        ("amount = amount", None),
        ("area LIKE '00%'", None),
        ("lower(area) = 'x'", None),
        ("active", None),
        ("active IS TRUE", None),
        ("area = NULL", None),
        ("area IS DISTINCT FROM 'x'", None),
        ("started = '2024-2-1'", None),
        ("started = '2024-13-41'", None),
        ("started > TIMESTAMP '2024-02-01 00:00:00'", None),
        ("area = 'back\\slash'", None),
        ("area = 'new\nline'", None),
        ("amount IN (SELECT 1)", None),
        ("amount IN (1, NULL)", None),
        ("amount = random()", None),
        ("person IS NOT NULL", None),
        (f"amount IN ({', '.join(map(str, range(501)))})", None),
        (f"area = '{'x' * 9000}'", None),
        (" OR ".join(f"amount = {n}" for n in range(61)), None),
    ],
)
def test_conditions(condition: str, pushed: str | None) -> None:
    """Query: filters are pushed; only `column op literal` of one type, within the provider's limits."""
    (fragment,) = asked(f"SELECT amount FROM kela.benefits WHERE ({condition})")
    assert fragment.partition(" WHERE ")[2] == (pushed or "")


@pytest.mark.parametrize(
    ("sql", "conditions"),
    [
        ("kela.benefits b JOIN employment.clients c ON b.person = c.person AND b.amount = 1", ["b", ""]),
        (
            "kela.benefits b CROSS JOIN employment.clients c WHERE b.amount = 1 AND c.birth_year = 1",
            ["b", "c"],
        ),
        ("kela.benefits b LEFT JOIN employment.clients c USING (person) WHERE b.amount = 1", ["b", ""]),
        ("kela.benefits b LEFT JOIN employment.clients c USING (person) WHERE c.birth_year = 1", ["", ""]),
        ("kela.benefits b LEFT JOIN employment.clients c ON b.amount = 1 AND c.birth_year = 1", ["", ""]),
        ("kela.benefits b RIGHT JOIN employment.clients c USING (person) WHERE b.amount = 1", ["", ""]),
        ("kela.benefits b RIGHT JOIN employment.clients c USING (person) WHERE c.birth_year = 1", ["", "c"]),
        ("kela.benefits b FULL JOIN employment.clients c USING (person) WHERE b.amount = 1", ["", ""]),
        ("kela.benefits b SEMI JOIN employment.clients c ON c.birth_year = 1 WHERE b.amount = 1", ["b", ""]),
        ("kela.benefits b ANTI JOIN employment.clients c ON b.amount = 1", ["", ""]),
        ("kela.benefits b NATURAL JOIN employment.clients c WHERE b.amount = 1", ["", ""]),
        ("kela.benefits b POSITIONAL JOIN employment.clients c WHERE b.amount = 1", ["", ""]),
        ("kela.benefits b, employment.clients c WHERE b.amount = 1 OR c.birth_year = 1", ["", ""]),
        ("kela.benefits b, employment.clients c WHERE NOT (b.amount = 2 OR c.birth_year = 1)", ["", ""]),
        ("kela.benefits b TABLESAMPLE 50%, employment.clients c WHERE b.amount = 1", ["", ""]),
        (
            "kela.benefits b JOIN employment.clients c ON b.amount = 1 "
            "RIGHT JOIN school.leavers l ON l.year = 1 WHERE l.year = 2",
            ["", "", "l"],
        ),
        (
            "kela.benefits b LEFT JOIN employment.clients c ON true "
            "JOIN school.leavers l ON l.year = 2 AND c.birth_year = 1 AND b.amount = 1",
            ["b", "", "l"],
        ),
    ],
)
def test_which_side_of_a_join(sql: str, conditions: list[str]) -> None:
    """Never to the side that an outer join may fill with NULLs, never out of an OR between tables."""
    texts = {"b": '"amount" = 1', "c": '"birth_year" = 1', "l": '"year" = 2', "": ""}
    found = [fragment.partition(" WHERE ")[2] for fragment in asked(f"SELECT 1 FROM {sql}")]
    assert found == [texts[condition] for condition in conditions]


@pytest.mark.parametrize(
    ("condition", "parameters", "pushed"),
    [
        ("amount = ? AND area = ?", [5, "x"], '("amount" = 5) AND ("area" = \'x\')'),
        ("amount IN ($a, $b)", {"a": 1, "b": 2}, '"amount" IN (1, 2)'),
        ("started = ?", [date(2024, 2, 1)], "\"started\" = '2024-02-01'"),
        ("rate = ?", [Decimal("0.1")], '"rate" = 0.1'),
        ("amount = ?", [None], ""),
        ("amount = ?", [True], ""),
        ("amount = ?", ["1"], ""),
        ("rate < ?", [float("nan")], ""),
        ("area = ?", ["'; DROP TABLE x; --"], "\"area\" = '''; DROP TABLE x; --'"),
    ],
)
def test_parameters_are_literals(condition: str, parameters: Any, pushed: str) -> None:
    """A bound value travels as a literal of the closed grammar, quoted by us."""
    (fragment,) = asked(f"SELECT amount FROM kela.benefits WHERE {condition}", parameters)
    assert fragment.partition(" WHERE ")[2] == pushed


def test_an_unqualified_name_that_could_be_an_alias_stays_here() -> None:
    """Whose it is, the engine decides."""
    sql = "SELECT amount * 2 AS rate FROM kela.benefits WHERE rate = 1"
    assert asked(sql) == ['kela: SELECT "amount", "rate" FROM "benefits"']


@pytest.mark.parametrize(
    ("sql", "limit"),
    [
        ("SELECT area FROM kela.benefits LIMIT 5", "5"),
        ("SELECT area FROM kela.benefits WHERE amount = 1 LIMIT 5 OFFSET 2", "7"),
        ("SELECT area FROM kela.benefits LIMIT ?", "5"),
        ("SELECT area FROM kela.benefits WHERE rate < 1 LIMIT 5", ""),
        ("SELECT area FROM kela.benefits WHERE area LIKE 'x%' LIMIT 5", ""),
        ("SELECT area FROM kela.benefits ORDER BY area LIMIT 5", ""),
        ("SELECT DISTINCT area FROM kela.benefits LIMIT 5", ""),
        ("SELECT max(area) FROM kela.benefits LIMIT 5", ""),
        ("SELECT kurtosis(amount) FROM kela.benefits LIMIT 5", ""),
        ("SELECT rank() OVER (ORDER BY area) FROM kela.benefits LIMIT 5", ""),
        ("SELECT b.area FROM kela.benefits b, kela.benefits c LIMIT 5", ""),
        ("SELECT area FROM kela.benefits LIMIT 5%", ""),
        ("SELECT area FROM kela.benefits LIMIT (SELECT 5)", ""),
        ("SELECT area FROM kela.benefits USING SAMPLE 5 LIMIT 5", ""),
        ("SELECT area FROM (SELECT area FROM kela.benefits) LIMIT 5", ""),
    ],
)
def test_limit(sql: str, limit: str) -> None:
    """LIMIT travels only where any rows will do."""
    assert asked(sql, [5] if "?" in sql else [])[0].partition(" LIMIT ")[2] == limit


@pytest.mark.parametrize("condition", ["person = ?", "person IN (?)", "? = person"])
@pytest.mark.parametrize("invertible", [True, False])
def test_pseudonyms_of_an_earlier_answer(condition: str, invertible: bool) -> None:
    """Keys travel only as pseudonyms, and only where the provider says that it takes them."""
    (fragment,) = asked(
        f"SELECT area FROM kela.benefits WHERE {condition}", [PSEUDONYM], invertible=invertible
    )
    assert (PSEUDONYM in fragment) == invertible


def test_masked_columns_are_compared_as_they_are_shown() -> None:
    """The provider's conditions see masked values, and so does the statement here."""
    masks = {"amount": Bucket(size=100), "area": Hash()}
    sql = "SELECT area, amount FROM kela.benefits WHERE amount >= 200 AND area IS NOT NULL"
    assert asked(sql, masks=masks) == ['kela: SELECT "area", "amount" FROM "benefits" WHERE "amount" >= 200']


# --- aggregates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["benefits", "benefit_statistics"])
def test_aggregates_are_answered_whole(dataset: str) -> None:
    """Query: whole-participant aggregates are pushed, from any dataset: groups travel, rows do not."""
    sql = (
        f"SELECT area, count(*) AS n, round(avg(amount), 1) FROM kela.{dataset} WHERE kind = 'basic' "
        "GROUP BY area HAVING sum(amount) > 10 ORDER BY n DESC LIMIT 3"
    )
    made = planned(sql)
    assert [f.sql for f in made.fragments] == [
        'SELECT "area", COUNT(*) AS "agg_1", AVG("amount") AS "agg_2", SUM("amount") AS "agg_3" '
        f'FROM "{dataset}" WHERE "kind" = \'basic\' GROUP BY "area"'
    ]
    assert made.sql == (
        'SELECT area, "agg_1" AS n, ROUND("agg_2", 1) AS "round(avg(amount), 1)" '
        f'FROM "kela"."{dataset}" AS "{dataset}" WHERE "agg_3" > 10 ORDER BY n DESC LIMIT 3'
    )


def test_a_parameter_that_only_the_provider_needs_stays_out_of_the_join() -> None:
    """An engine refuses values that its statement does not use."""
    made = planned("SELECT count(*) FROM kela.benefits WHERE area = ? HAVING count(*) > ?", ["00100", 5])
    assert dict(made.parameters) == {"p2": 5}


def test_groups_of_one_dataset_join_rows_of_another() -> None:
    """Each SELECT over an aggregate-only dataset is answered on its own."""
    sql = (
        "SELECT c.status, s.n FROM employment.clients c JOIN "
        "(SELECT area, count(*) AS n FROM kela.benefit_statistics GROUP BY area) s ON s.area = c.area"
    )
    assert asked(sql) == [
        'employment: SELECT "area", "status" FROM "clients"',
        'kela: SELECT "area", COUNT(*) AS "agg_1" FROM "benefit_statistics" GROUP BY "area"',
    ]


@pytest.mark.parametrize(
    "select",
    [
        "* FROM {} ",
        "area FROM {}",
        "DISTINCT area FROM {}",
        "area FROM {} GROUP BY area",
        "kind, count(*) FROM {} GROUP BY amount, kind",
        "amount, count(*) FROM {} GROUP BY amount",
        "person, count(*) FROM {} GROUP BY person",
        "area, amount, count(*) FROM {} GROUP BY area",
        "min(amount) FROM {}",
        "max(amount) FROM {}",
        "count(amount) FROM {}",
        "median(amount) FROM {}",
        "array_agg(amount) FROM {}",
        "kurtosis(amount) FROM {}",
        "sum(amount * amount) FROM {}",
        "sum(DISTINCT amount) FROM {}",
        "sum(person) FROM {}",
        "count(DISTINCT (area, kind)) FROM {}",
        "sum(amount) FILTER (WHERE active) FROM {}",
        "sum(CASE WHEN active THEN amount END) FROM {}",
        "count(*) FROM {} WHERE amount = 100",
        "count(*) FROM {} WHERE amount > 100",
        "count(*) FROM {} WHERE area <> '00100'",
        "count(*) FROM {} WHERE area > '00100'",
        "count(*) FROM {} WHERE NOT area = '00100'",
        "count(*) FROM {} WHERE area = '00100' OR kind = 'basic'",
        "count(*) FROM {} WHERE area LIKE '00%'",
        "count(*) FROM {} WHERE area IS NULL",
        "area, kind, count(*) FROM {} GROUP BY CUBE (area, kind)",
        "substr(area, 1, 2) AS a, count(*) FROM {} GROUP BY a",
        "count(*) FROM {} b JOIN employment.clients c ON b.area = c.area",
        "count(*) FROM {} USING SAMPLE 50%",
        "count(*) FROM (SELECT area FROM {})",
        "count(*) FROM {} WHERE area IN (SELECT area FROM employment.clients)",
        "(SELECT count(*) FROM {} b WHERE b.area = c.area) FROM employment.clients c",
        "amount, sum(count(*)) OVER () FROM {} GROUP BY ALL",
        "sum(amount) OVER (PARTITION BY area) FROM {}",
    ],
)
def test_what_an_aggregate_only_dataset_does_not_answer(select: str) -> None:
    """Refused before anybody is asked, with what could be asked instead."""
    with pytest.raises(NotPermitted) as caught:
        planned("SELECT " + select.format("kela.benefit_statistics"))
    (reason,) = caught.value.reasons
    assert reason.code == "aggregate_only"
    assert reason.source == "kela"
    assert "kela.benefit_statistics shows no rows" in reason.text
    assert "area, kind" in caught.value.mend


@pytest.mark.parametrize("select", ["area, amount FROM kela.benefits", "min(area) FROM kela.benefits"])
def test_a_minimum_group_size_shows_no_rows_either(select: str) -> None:
    """A row is a group of one."""
    with pytest.raises(NotPermitted, match="groups of at least 5"):
        planned(f"SELECT {select}", min_group_size=5, dimensions=frozenset({"area"}))


# --- refusals before anybody is asked -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "column"),
    [
        ("SELECT name FROM kela.benefits", "name"),
        ("SELECT b.name FROM kela.benefits b", "name"),
        ("SELECT kela.benefits.name FROM kela.benefits", "name"),
        ("SELECT area FROM kela.benefits WHERE name = 'x'", "name"),
        ("SELECT area FROM kela.benefits ORDER BY name", "name"),
        ("SELECT area FROM kela.benefits GROUP BY area HAVING max(name) = 'x'", "name"),
        ("SELECT rowid FROM kela.benefits", "rowid"),
        ("SELECT b.rowid FROM kela.benefits b", "rowid"),
        ("SELECT sum(birth_year) FROM kela.benefits", "birth_year"),
        ("SELECT * FROM kela.benefits b JOIN employment.clients c ON b.hetu = c.person", "hetu"),
        ("SELECT b.birth_year FROM kela.benefits b JOIN employment.clients c USING (person)", "birth_year"),
        ("SELECT * FROM kela.benefits JOIN employment.clients c ON name = c.person", "name"),
        ("SELECT (SELECT max(b.name)) FROM kela.benefits b", "name"),
        ("WITH x AS (SELECT name FROM kela.benefits) SELECT * FROM x", "name"),
        ("SELECT area FROM kela.benefits UNION SELECT name FROM school.leavers", "name"),
        (
            "SELECT area FROM kela.benefits b WHERE EXISTS (SELECT 1 FROM school.leavers WHERE b.name = 1)",
            "name",
        ),
        ("SELECT count(*) FROM kela.benefit_statistics WHERE name = 'x'", "name"),
    ],
)
def test_columns_that_are_not_shown(sql: str, column: str) -> None:
    """Hidden and non-existent read the same; the refusal lists what is shown, and nobody was asked."""
    with pytest.raises(NotPermitted) as caught:
        planned(sql)
    reason = caught.value.reasons[0]
    assert reason.code == "column_not_exposed"
    assert f"no column {column!r}" in reason.text
    assert PURPOSE in reason.text
    assert caught.value.mend


@pytest.mark.parametrize(
    "condition",
    [
        "person = '010190-900X'",
        "'010190-900X' = person",
        "b.person IN ('010190-900X', 'p1_abc')",
        "person <> '010190-900X'",
        "person LIKE '0101%'",
        "person > 'p1_'",
        "person BETWEEN 'a' AND 'z'",
        "NOT (person = '010190-900X' AND amount = 1)",
        "amount = 1 OR person = 'x'",
        "person IS NOT DISTINCT FROM 'x'",
        "person = ?",
        "person = 19900101",
        "area IN (SELECT area FROM employment.clients WHERE person = '010190-900X')",
    ],
)
def test_a_raw_identifier_beside_a_pseudonym(condition: str) -> None:
    """Skeleton, refusals: a query for a raw identifier. Explained, and the identifier is not in the text."""
    parameters = ["010190-900X"] if "?" in condition else []
    with pytest.raises(NotPermitted) as caught:
        planned(f"SELECT area FROM kela.benefits b WHERE {condition}", parameters)
    assert caught.value.reasons[0].code == "raw_identifier"
    assert "only as a pseudonym of planning-2026" in caught.value.reasons[0].text
    assert "900X" not in str(caught.value)


def test_a_hash_is_compared_with_hashes_only() -> None:
    """The mask `hash` stands for values, too."""
    masks = {"area": Hash()}
    with pytest.raises(NotPermitted, match="only as a keyed hash"):
        planned("SELECT amount FROM kela.benefits WHERE area = '00100'", masks=masks)
    assert asked("SELECT amount FROM kela.benefits WHERE area = 'h1_abc'", masks=masks)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT s.n FROM (SELECT count(*) AS n FROM kela.benefits) s",
        "SELECT n FROM (SELECT count(*) AS n FROM kela.benefits)",
        "WITH x(a, b) AS (SELECT area, kind FROM kela.benefits) SELECT a, b FROM x",
        'SELECT "max(area)" FROM (SELECT max(area) FROM kela.benefits)',
        "SELECT list_transform([amount], z -> z + 1) FROM kela.benefits",
        "SELECT amount * 2 AS twice, twice + 1 FROM kela.benefits",
        "SELECT v.q, q FROM kela.benefits, (VALUES (1)) v(q)",
        "SELECT s.k FROM (SELECT {'k': amount} AS s FROM kela.benefits)",
        "SELECT amount FROM kela.benefits b WHERE b.person = (SELECT min(person) FROM school.leavers)",
        "SELECT amount FROM kela.benefits b JOIN school.leavers l ON b.person = l.person",
        f"SELECT amount FROM kela.benefits WHERE person = '{PSEUDONYM}'",
    ],
)
def test_what_looks_alike_and_is_fine(sql: str) -> None:
    """Names that the statement gives itself, and pseudonyms beside pseudonyms."""
    assert planned(sql).fragments


def test_tables_land_under_names_of_their_own() -> None:
    """Another fragment of one dataset never takes the name of a dataset that is asked as well."""
    provided = sample().provided
    provided["kela", "benefits__2"] = provided["kela", "benefits"]
    statement = parse(
        "SELECT a.area FROM kela.benefits a, kela.benefits b, kela.benefits__2 c "
        "WHERE a.amount = 1 AND b.amount = 2 AND c.amount = 3"
    )
    descriptions = {t: described(provided[t.participant, t.dataset], t) for t in statement.tables}
    made = plan(statement, descriptions)
    assert [f.landing for f in made.fragments] == ["benefits", "benefits__3", "benefits__2"]
    assert 'kela."benefits__3" AS b' in made.sql
