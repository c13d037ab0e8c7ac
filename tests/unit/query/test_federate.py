"""Federated answers equal the same statement over the whole tables in one database, or name who failed."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import date
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.errors import (
    GrantStopped,
    NotFound,
    NotPermitted,
    PeerError,
    PeerProtocolError,
    PeerRefused,
    PeerUnreachable,
    RequestInvalid,
    SourceUnavailable,
    SqlInvalid,
)
from connector.query.federate import Access
from tests.unit.query.providers import PURPOSE, Raises, sample

# Each is run federated and, unchanged, over the whole tables in one DuckDB.
STATEMENTS: list[str] = [
    # one dataset
    "SELECT * FROM kela.benefits",
    "FROM kela.benefits",
    "SELECT area, amount FROM kela.benefits WHERE area = '00100' AND amount >= 300",
    "SELECT DISTINCT kind FROM kela.benefits ORDER BY kind",
    "SELECT b.* EXCLUDE (person) FROM kela.benefits b WHERE b.active",
    "SELECT person, amount * 2 AS twice FROM kela.benefits WHERE amount * 2 > 500 ORDER BY ALL",
    "SELECT area AS amount, amount AS area FROM kela.benefits ORDER BY amount, area, kind, person, rate",
    "SELECT COLUMNS('a.*') FROM kela.benefits",
    "SELECT area, kind FROM kela.benefits WHERE (area = '00100' OR area = '00200') AND NOT kind = 'basic'",
    "SELECT amount FROM kela.benefits WHERE amount BETWEEN 200 AND 500 AND started < DATE '2024-09-01'",
    "SELECT started FROM kela.benefits WHERE started IN ('2024-01-01', '2024-01-31') OR started IS NULL",
    "SELECT kind FROM kela.benefits WHERE kind NOT IN ('basic') AND kind <> 'housing'",
    "SELECT area FROM kela.benefits WHERE area > '00100' AND area LIKE '%2%'",
    "SELECT rate FROM kela.benefits WHERE rate > 0.1 AND rate < 0.5 OR rate = 1",
    "SELECT rate FROM kela.benefits WHERE rate > 0.1 AND 0.5 > rate",
    "SELECT amount FROM kela.benefits WHERE amount IS NULL AND area IS NOT NULL",
    "SELECT amount FROM kela.benefits WHERE NOT (amount = 100 OR amount IS NULL) AND active = TRUE",
    "SELECT amount FROM kela.benefits WHERE amount = NULL",
    "SELECT person FROM kela.benefits WHERE person IS NOT NULL AND amount > 1.5",
    "SELECT status FROM employment.clients WHERE status = 'it''s'",
    "SELECT score FROM employment.clients WHERE score <= -1.5 OR score = 1e9",
    # aggregates
    "SELECT count(*) FROM kela.benefits",
    "SELECT count(*) AS n, sum(amount), avg(rate) FROM kela.benefits WHERE area = 'nowhere'",
    "SELECT count(amount), min(kind), max(started) FROM kela.benefits",
    "SELECT area, count(*) AS n FROM kela.benefits GROUP BY area ORDER BY n DESC, area",
    "SELECT area, kind, count(DISTINCT person) AS people, sum(amount) FROM kela.benefits GROUP BY 1, 2",
    "SELECT area a, round(avg(amount) / 10, 1) FROM kela.benefits GROUP BY a HAVING count(*) > 5 ORDER BY a",
    "SELECT area, count(*) FILTER (WHERE active) AS n FROM kela.benefits GROUP BY area",
    "SELECT kind, sum(amount) AS s, rank() OVER (ORDER BY sum(amount) DESC) FROM kela.benefits GROUP BY ALL",
    "SELECT area, sum(count(*)) OVER () AS everybody FROM kela.benefits GROUP BY area",
    "SELECT area, kind, count(*) FROM kela.benefits GROUP BY ROLLUP (area, kind)",
    "SELECT upper(area) AS area, count(*) FROM kela.benefits GROUP BY area",
    "SELECT year(started) AS y, count(*) FROM kela.benefits GROUP BY y ORDER BY y",
    "SELECT area, string_agg(kind, ',' ORDER BY kind) FROM kela.benefits GROUP BY area",
    "SELECT area, count(*) AS n FROM kela.benefits GROUP BY area ORDER BY n DESC, area LIMIT 2 OFFSET 1",
    # joins
    "SELECT b.area, c.status FROM kela.benefits b JOIN employment.clients c ON b.person = c.person",
    "SELECT b.area, c.status, b.amount FROM kela.benefits b JOIN employment.clients c USING (person) "
    "WHERE b.amount > 100 AND c.birth_year < 1990",
    "SELECT b.amount, c.birth_year FROM kela.benefits b LEFT JOIN employment.clients c "
    "ON b.person = c.person AND c.status = 'open' WHERE b.area = '00100'",
    "SELECT b.amount, c.status FROM kela.benefits b LEFT JOIN employment.clients c USING (person) "
    "WHERE c.status IS NULL",
    "SELECT b.amount, c.status FROM kela.benefits b LEFT JOIN employment.clients c USING (person) "
    "WHERE c.status = 'open' AND b.active = TRUE",
    "SELECT b.amount, c.status FROM kela.benefits b RIGHT JOIN employment.clients c ON b.person = c.person "
    "WHERE b.amount IS NULL AND c.area = '00100'",
    "SELECT b.amount, c.status FROM kela.benefits b FULL JOIN employment.clients c ON b.person = c.person "
    "WHERE b.amount = 100 OR c.status = 'open'",
    "SELECT b.amount, c.status FROM kela.benefits b FULL OUTER JOIN employment.clients c USING (person) "
    "WHERE person IS NULL",
    "SELECT count(*) FROM kela.benefits CROSS JOIN school.leavers",
    "SELECT count(*) FROM kela.benefits b, school.leavers l WHERE b.person = l.person AND l.year = 2023",
    "SELECT area, status FROM kela.benefits SEMI JOIN school.leavers USING (person) "
    "JOIN employment.clients USING (person, area)",
    "SELECT person, amount FROM kela.benefits ANTI JOIN school.leavers USING (person) WHERE amount > 200",
    "SELECT * FROM kela.benefits NATURAL JOIN employment.clients",
    "SELECT kela.benefits.amount, employment.clients.status FROM kela.benefits "
    "JOIN employment.clients ON kela.benefits.person = employment.clients.person",
    "SELECT b.amount, c.status, l.school FROM kela.benefits b JOIN employment.clients c USING (person) "
    "LEFT JOIN school.leavers l USING (person) WHERE b.area IN ('00100', '00530')",
    "SELECT c.since, b.started, b.amount FROM employment.clients c ASOF JOIN kela.benefits b "
    "ON c.area = b.area AND c.since >= b.started WHERE c.birth_year = 1980 AND c.area = '00100' "
    "AND b.started > '2024-03-01' ORDER BY ALL",
    "SELECT q.amount FROM (kela.benefits JOIN school.leavers USING (person)) AS q WHERE q.year = 2023",
    "SELECT amount, school FROM (kela.benefits JOIN school.leavers USING (person))",
    "SELECT a.amount, b.amount FROM kela.benefits a JOIN kela.benefits b ON a.person = b.person "
    "AND a.amount < b.amount",
    "SELECT a.amount, b.kind FROM kela.benefits a JOIN kela.benefits b ON a.person = b.person "
    "WHERE a.area = '00100' AND b.area = '00200'",
    "SELECT benefits.amount, b.amount FROM kela.benefits JOIN kela.benefits b USING (person) "
    "WHERE benefits.area = '00100' AND b.kind = 'basic'",
    "SELECT count(*) FROM kela.benefits b LEFT JOIN (SELECT person, area FROM employment.clients "
    "WHERE status = 'open') c ON b.person = c.person AND b.area = c.area WHERE b.kind = 'basic'",
    # subqueries and CTEs
    "SELECT amount FROM kela.benefits WHERE person IN (SELECT person FROM school.leavers WHERE year = 2024)",
    "SELECT amount FROM kela.benefits WHERE person NOT IN "
    "(SELECT person FROM school.leavers WHERE person IS NOT NULL)",
    "SELECT amount FROM kela.benefits b WHERE EXISTS "
    "(SELECT * FROM school.leavers l WHERE l.person = b.person)",
    "SELECT status FROM employment.clients c WHERE NOT EXISTS "
    "(SELECT 1 FROM kela.benefits WHERE person = c.person AND kind = 'basic')",
    "SELECT c.status, (SELECT sum(amount) FROM kela.benefits b WHERE b.person = c.person) "
    "FROM employment.clients c",
    "SELECT amount - (SELECT avg(amount) FROM kela.benefits) FROM kela.benefits WHERE amount > 100",
    "SELECT area FROM kela.benefits WHERE amount > (SELECT avg(birth_year) - 1700 FROM employment.clients)",
    "WITH open AS (SELECT person, area FROM employment.clients WHERE status = 'open'), "
    "big AS (SELECT * FROM kela.benefits WHERE amount > 300) "
    "SELECT open.area, count(*) FROM open JOIN big USING (person) GROUP BY open.area",
    "WITH benefits AS (SELECT area, count(*) AS n FROM kela.benefits GROUP BY area) "
    "SELECT c.status, n FROM employment.clients c JOIN benefits USING (area)",
    "WITH RECURSIVE steps AS (SELECT min(year) AS y FROM school.leavers UNION ALL "
    "SELECT y + 1 FROM steps WHERE y < 2026) SELECT y, count(l.person) FROM steps "
    "LEFT JOIN school.leavers l ON l.year = y GROUP BY y ORDER BY y",
    "SELECT x.area, l.n FROM (SELECT DISTINCT area FROM kela.benefits) x, "
    "LATERAL (SELECT count(*) AS n FROM employment.clients c WHERE c.area = x.area) l",
    "SELECT v.area, count(b.person) FROM (VALUES ('00100'), ('99999')) v(area) "
    "LEFT JOIN kela.benefits b ON b.area = v.area GROUP BY v.area",
    "SELECT s.n, s.a FROM (SELECT area AS a, count(*) AS n FROM kela.benefits GROUP BY area) s WHERE s.n > 8",
    # a name that is a column of one source and an alias of another
    "SELECT c.area FROM employment.clients c WHERE c.person IN "
    "(SELECT person FROM kela.benefits WHERE area = c.area)",
    "SELECT kind AS area, area AS kind FROM kela.benefits WHERE area = '00100' ORDER BY 1, 2",
    "SELECT amount + 1 AS amount FROM kela.benefits WHERE amount > 300 ORDER BY amount",
    # windows
    "SELECT person, amount, row_number() OVER (PARTITION BY area ORDER BY amount, person, kind, rate) "
    "FROM kela.benefits WHERE area = '00100'",
    "SELECT area, amount, sum(amount) OVER w AS running FROM kela.benefits "
    "WINDOW w AS (PARTITION BY area ORDER BY amount RANGE UNBOUNDED PRECEDING)",
    "SELECT area, amount FROM kela.benefits "
    "QUALIFY dense_rank() OVER (PARTITION BY area ORDER BY amount DESC) = 1",
    "SELECT amount, lag(amount) OVER (ORDER BY amount, person, area, kind, rate, started, active) "
    "FROM kela.benefits",
    # set operations
    "SELECT person FROM kela.benefits UNION SELECT person FROM school.leavers",
    "SELECT area FROM kela.benefits WHERE amount > 500 UNION ALL SELECT area FROM employment.clients "
    "WHERE birth_year > 1990",
    "SELECT person FROM kela.benefits INTERSECT SELECT person FROM employment.clients",
    "SELECT person FROM kela.benefits EXCEPT SELECT person FROM school.leavers ORDER BY person",
    "SELECT area, amount FROM kela.benefits WHERE area = '00100' UNION ALL BY NAME "
    "SELECT birth_year AS amount, area FROM employment.clients WHERE area = '00200'",
    "(SELECT area FROM kela.benefits ORDER BY area LIMIT 3) UNION ALL (SELECT 'x') ORDER BY area",
    # NULLs
    "SELECT area, amount FROM kela.benefits ORDER BY area, amount DESC, kind, person",
    "SELECT area, amount FROM kela.benefits ORDER BY area NULLS FIRST, amount NULLS FIRST",
    "SELECT coalesce(b.area, c.area, 'none') FROM kela.benefits b "
    "FULL JOIN employment.clients c USING (person)",
    "SELECT area IS DISTINCT FROM '00100', count(*) FROM kela.benefits GROUP BY 1",
    "SELECT CASE WHEN amount > 400 THEN 'much' WHEN amount IS NULL THEN 'unknown' ELSE 'some' END AS c, "
    "count(*) FROM kela.benefits GROUP BY c",
    "SELECT count(DISTINCT area), count(DISTINCT (area, kind)), count(*) FROM kela.benefits",
]


def normal(table: pa.Table) -> list[tuple[Any, ...]]:
    """Values as they are meant: a sum is the same whether it is a wide integer, a decimal or a double."""

    def value(one: Any) -> Any:
        return (
            round(float(one), 6)
            if isinstance(one, float | Decimal | int) and not isinstance(one, bool)
            else one
        )

    return [tuple(map(value, row.values())) for row in table.to_pylist()]


def bare_name(name: str) -> str:
    """DuckDB names an output by its text, with every parenthesis that its parser sees."""
    return name.replace("(", "").replace(")", "")


def assert_equal(federated: pa.Table, expected: pa.Table, sql: str) -> None:
    assert len(federated.column_names) == len(expected.column_names)
    if "string_agg" not in sql:  # an output named by its text, in which the function goes by another name
        assert list(map(bare_name, federated.column_names)) == list(map(bare_name, expected.column_names))
    left, right = normal(federated), normal(expected)
    if "ORDER BY" in sql.rsplit(")", 1)[-1]:
        assert left == right
    assert Counter(left) == Counter(right)


@pytest.mark.parametrize("sql", STATEMENTS)
async def test_the_answer_is_that_of_one_database(sql: str) -> None:
    """Query: federated result = result of the same query over the policy views in one database."""
    ecosystem = sample()
    answer = await ecosystem.federation().run(sql, PURPOSE)
    assert_equal(answer.table, ecosystem.database.run(sql), sql)
    assert ecosystem.open_streams == 0


@pytest.mark.parametrize(
    ("sql", "parameters", "plain"),
    [
        ("amount > ? AND area = ?", [200, "00100"], "amount > 200 AND area = '00100'"),
        ("area = ? ORDER BY amount LIMIT ?", ["00100", 3], "area = '00100' ORDER BY amount LIMIT 3"),
        ("kind = $k AND amount < $m", {"m": 500, "k": "basic"}, "kind = 'basic' AND amount < 500"),
        ("started >= ?", [date(2024, 5, 1)], "started >= DATE '2024-05-01'"),
        ("rate = $1 OR amount / $2 > 400", [0.25, 2], "rate = 0.25 OR amount / 2 > 400"),
        ("area = ?", [None], "area = NULL"),
        ("kind = ?", ["it's; DROP TABLE x"], "kind = 'it''s; DROP TABLE x'"),
    ],
)
async def test_parameters(sql: str, parameters: Any, plain: str) -> None:
    """Query: bind parameters, pushed or not, mean what the literal means."""
    ecosystem = sample()
    select = "SELECT amount FROM kela.benefits WHERE "
    answer = await ecosystem.federation().run(select + sql, PURPOSE, parameters)
    assert_equal(answer.table, ecosystem.database.run(select + plain), sql)


@pytest.mark.parametrize(
    "sql", ["SELECT area FROM kela.benefits LIMIT 7", "SELECT * FROM kela.benefits LIMIT 5 OFFSET 3"]
)
async def test_any_rows_will_do(sql: str) -> None:
    """A LIMIT without an order: as many rows as asked, all of them real."""
    ecosystem = sample()
    answer = normal((await ecosystem.federation().run(sql, PURPOSE)).table)
    assert len(answer) == len(ecosystem.database.run(sql))
    everything = Counter(normal(ecosystem.database.run(sql.partition(" LIMIT ")[0])))
    assert Counter(answer) <= everything


# --- random statements ----------------------------------------------------------------------------------

COLUMNS: dict[str, dict[str, list[str]]] = {
    "b": {
        "area": ["'00100'", "'00200'", "'none'", "5"],
        "kind": ["'basic'", "'housing'", "''"],
        "amount": ["100", "300", "-1", "250.5", "'300'"],
        "rate": ["0.25", "0.1", "1", "1e0"],
        "started": ["'2024-03-01'", "DATE '2024-05-30'", "'2024-3-1'"],
        "active": ["TRUE", "FALSE"],
    },
    "c": {
        "area": ["'00100'", "'02100'"],
        "birth_year": ["1980", "1990", "1984.5"],
        "status": ["'open'", "'it''s'"],
        "since": ["'2024-04-30'"],
        "score": ["0", "-1.5", "2.25", "1e9"],
    },
}


@st.composite
def comparisons(draw: st.DrawFn, aliases: str) -> str:
    alias = draw(st.sampled_from(aliases))
    column = draw(st.sampled_from(sorted(COLUMNS[alias])))
    literals = st.sampled_from(COLUMNS[alias][column])
    name = f"{alias}.{column}"
    operator = draw(
        st.sampled_from(["=", "<>", "<", "<=", ">", ">=", "IN", "NOT IN", "BETWEEN", "IS", "FLIP"])
    )
    if column == "active" and operator not in ("=", "<>", "IS"):
        operator = "="
    match operator:
        case "IN" | "NOT IN":
            listed = draw(st.lists(literals, min_size=1, max_size=3))
            return f"{name} {operator} ({', '.join(listed)})"
        case "BETWEEN":
            return f"{name} BETWEEN {draw(literals)} AND {draw(literals)}"
        case "IS":
            return f"{name} IS {draw(st.sampled_from(['NULL', 'NOT NULL']))}"
        case "FLIP":
            return f"{draw(literals)} >= {name}"
    return f"{name} {operator} {draw(literals)}"


def filters(aliases: str) -> st.SearchStrategy[str]:
    return st.recursive(
        comparisons(aliases),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(lambda pair: f"({pair[0]} AND {pair[1]})"),
            st.tuples(inner, inner).map(lambda pair: f"({pair[0]} OR {pair[1]})"),
            inner.map(lambda one: f"NOT ({one})"),
        ),
        max_leaves=5,
    )


JOINS = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]


@given(
    join=st.sampled_from(JOINS),
    on=st.one_of(st.just("b.person = c.person"), filters("bc").map(lambda f: f"b.person = c.person AND {f}")),
    where=filters("bc"),
)
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
async def test_random_filters_over_every_kind_of_join(join: str, on: str, where: str) -> None:
    """Query: random SQL, the same answer. What is pushed where must never lose or add a row."""
    ecosystem = sample()
    sql = (
        "SELECT b.area, b.kind, b.amount, c.status, c.birth_year, c.area FROM kela.benefits b "
        f"{join} employment.clients c ON {on} WHERE {where}"
    )
    try:
        expected = ecosystem.database.run(sql)
    except duckdb.Error:
        with pytest.raises(SqlInvalid):
            await ecosystem.federation().run(sql, PURPOSE)
        return
    answer = await ecosystem.federation().run(sql, PURPOSE)
    assert Counter(normal(answer.table)) == Counter(normal(expected))


@given(
    where=filters("b"),
    group=st.lists(st.sampled_from(["area", "kind", "active"]), max_size=2, unique=True),
    aggregates=st.lists(
        st.sampled_from(["count(*)", "sum(amount)", "avg(amount)", "count(DISTINCT person)", "max(amount)"]),
        min_size=1,
        max_size=3,
    ),
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
async def test_random_aggregates(where: str, group: list[str], aggregates: list[str]) -> None:
    """Answered whole by the provider or computed here: the same numbers."""
    ecosystem = sample()
    outputs = ", ".join([*group, *(f"{aggregate} AS x{n}" for n, aggregate in enumerate(aggregates))])
    sql = f"SELECT {outputs} FROM kela.benefits b WHERE {where}"
    sql += f" GROUP BY {', '.join(group)}" if group else ""
    try:
        expected = ecosystem.database.run(sql)
    except duckdb.Error:
        return
    answer = await ecosystem.federation().run(sql, PURPOSE)
    assert Counter(normal(answer.table)) == Counter(normal(expected))


# --- provenance -----------------------------------------------------------------------------------------

JOINED = "SELECT b.area, c.status FROM kela.benefits b JOIN employment.clients c USING (person)"


async def test_an_answer_says_where_it_came_from() -> None:
    """Query: participants, agreements, policy revisions, audit ids, and what was hidden by whom."""
    answer = await sample().federation().run(JOINED, PURPOSE, actor="aino")
    assert answer.participants == ("kela", "employment")
    assert answer.agreements == ("agreement-kela-benefits", "agreement-employment-clients")
    assert answer.policy_revisions == {"kela": ("policy-of-kela",), "employment": ("policy-of-employment",)}
    assert {p: len(ids) for p, ids in answer.audit_ids.items()} == {"kela": 1, "employment": 1}
    assert {(h.participant, h.dataset, h.part.what) for h in answer.hidden} == {
        ("kela", "benefits", "column name"),
        ("employment", "clients", "column name"),
    }
    assert not answer.identified
    assert (answer.purpose, answer.groups_hidden) == (PURPOSE, 0)


async def test_an_identified_disclosure_is_called_that() -> None:
    """Architecture, pseudonym domains: one identified part makes the answer one."""
    ecosystem = sample()
    ecosystem.provided["kela", "benefits"].identified = True
    assert (await ecosystem.federation().run(JOINED, PURPOSE)).identified


async def test_each_dataset_is_described_once() -> None:
    """However often the statement reads it."""
    ecosystem = sample()
    sql = (
        "SELECT 1 FROM kela.benefits a, kela.benefits b, KELA.Benefits c WHERE a.amount = 1 AND b.amount = 2"
    )
    await ecosystem.federation().run(sql, PURPOSE)
    assert ecosystem.described == ["kela.benefits"]
    assert len(ecosystem.asked) == 3


async def test_explain_asks_for_no_rows() -> None:
    """EXPLAIN: which organisation runs what, what is shown how, what is hidden and why."""
    ecosystem = sample()
    sql = (
        "SELECT b.person, count(*) FROM kela.benefits b SEMI JOIN school.leavers USING (person) GROUP BY ALL"
    )
    explanation = await ecosystem.federation().explain(sql, PURPOSE)
    assert ecosystem.asked == []
    kela, school = explanation.fragments
    assert (kela.participant, kela.agreement_id) == ("kela", "agreement-kela-benefits")
    assert kela.sql == 'SELECT "person" FROM "benefits"'
    assert kela.exposures == {"person": "pseudonym"}
    assert school.hidden[0].what == "column name"
    assert "SEMI JOIN school.leavers" in explanation.sql


# --- refusals and faults --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "purpose"),
    [
        ("SELECT * FROM kela.benefits", "outreach"),
        ("SELECT * FROM kela.secrets", PURPOSE),
        ("SELECT * FROM nobody.benefits", PURPOSE),
        ("SELECT * FROM kela.benefits JOIN kela.secrets USING (person)", PURPOSE),
    ],
)
async def test_without_an_agreement(sql: str, purpose: str) -> None:
    """Query: only agreements in force for the stated purpose resolve; others say how to ask for access."""
    ecosystem = sample()
    with pytest.raises(NotFound, match=r"no agreement in force on \w+\.\w+ for .*connector request"):
        await ecosystem.federation().run(sql, purpose)
    assert ecosystem.asked == []


async def test_refused_statements_reach_no_provider() -> None:
    """A raw identifier, a hidden column, rows of an aggregate-only dataset: nobody is asked."""
    ecosystem = sample()
    for sql in (
        "SELECT area FROM kela.benefits WHERE person = '010190-900X'",
        "SELECT hetu FROM kela.benefits",
        "SELECT * FROM kela.benefit_statistics",
    ):
        with pytest.raises(NotPermitted):
            await ecosystem.federation().run(sql, PURPOSE)
    assert ecosystem.asked == []


async def _cut(sent: int, chunk: bytes) -> bytes:
    if sent > 1:
        raise ConnectionResetError
    return chunk


async def _garbled(sent: int, chunk: bytes) -> bytes:
    return chunk[:-20] + bytes(20) if sent > 1 else chunk


async def _silent(sent: int, chunk: bytes) -> bytes:
    if sent > 1:
        await asyncio.sleep(60)
    return chunk


async def _stopped(sent: int, chunk: bytes) -> bytes:
    return chunk if sent == 1 else b""


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (_cut, PeerUnreachable),
        (_garbled, PeerProtocolError),
        (_silent, PeerUnreachable),
        (_stopped, PeerProtocolError),
        (Raises(lambda: SourceUnavailable("secret")), PeerUnreachable),
        (Raises(lambda: GrantStopped("secret", code="consent_changed")), PeerUnreachable),
        (Raises(lambda: GrantStopped("secret", code="agreement_terminated")), PeerRefused),
    ],
)
async def test_a_provider_that_fails_midway_is_named(fault: Any, kind: type[PeerError]) -> None:
    """Query, faults: always an error that names the participant, never a silently short answer."""
    ecosystem = sample()
    ecosystem.faults["employment", "clients"] = fault
    federation = ecosystem.federation(batch_rows=10, fetch_seconds=0.5)
    with pytest.raises(kind) as caught:
        await federation.run(JOINED, PURPOSE)
    assert caught.value.participant == "employment"
    assert "secret" not in str(caught.value)
    assert ecosystem.open_streams == 0, "the other provider's stream is closed, too"
    ecosystem.faults.clear()
    assert len((await federation.run(JOINED, PURPOSE)).table), "nothing is left behind"


async def test_a_provider_that_answers_something_else() -> None:
    """Columns that were not asked for are not interpreted."""
    ecosystem = sample()
    honest = ecosystem.open_stream
    federation = ecosystem.federation()
    federation._open_stream = lambda access, sql, rows: honest(  # type: ignore[method-assign]
        access, sql.replace('"status"', '"area"'), rows
    )
    with pytest.raises(PeerProtocolError, match="employment: it answered with other columns"):
        await federation.run("SELECT status FROM employment.clients", PURPOSE)


def _without(name: str) -> Any:
    return lambda wire: {k: v for k, v in wire.items() if k != name}


@pytest.mark.parametrize(
    "garble",
    [
        lambda _: None,
        lambda _: [],
        _without("columns"),
        _without("hidden"),
        _without("aggregateOnly"),
        lambda w: w | {"columns": []},
        lambda w: w | {"columns": w["columns"] * 2},
        lambda w: w | {"columns": [w["columns"][0] | {"type": "blob"}]},
        lambda w: w | {"columns": [w["columns"][0] | {"name": "a\x00b"}]},
        lambda w: w | {"columns": [w["columns"][0] | {"filterable": 1}]},
        lambda w: w | {"columns": [w["columns"][0]] * 2000},
        lambda w: w | {"minGroupSize": True},
        lambda w: w | {"minGroupSize": "5"},
        lambda w: w | {"aggregateOnly": "no"},
        lambda w: w | {"dimensions": [1]},
        lambda w: w | {"participant": "employment"},
        lambda w: w | {"dataset": "other"},
        lambda w: w | {"agreement": "other"},
        lambda w: w | {"hidden": [{"what": 1}]},
    ],
)
async def test_a_description_that_cannot_be_used(garble: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer's JSON is checked before anything is planned on it."""
    ecosystem = sample()
    honest = ecosystem.describe

    async def describe(access: Access) -> Any:
        return garble(await honest(access))

    monkeypatch.setattr(ecosystem, "describe", describe)
    with pytest.raises(PeerProtocolError) as caught:
        await ecosystem.federation().run("SELECT area FROM kela.benefits", PURPOSE)
    assert caught.value.participant == "kela"
    assert ecosystem.asked == []


async def test_fragments_are_fetched_at_the_same_time() -> None:
    """A slow provider does not keep the others waiting to begin."""
    ecosystem = sample()
    both = asyncio.Event()

    async def meet(sent: int, chunk: bytes) -> bytes:
        if ecosystem.open_streams == 2:
            both.set()
        async with asyncio.timeout(5):
            await both.wait()
        return chunk

    ecosystem.faults = {("kela", "benefits"): meet, ("employment", "clients"): meet}
    assert len((await ecosystem.federation().run(JOINED, PURPOSE)).table)


async def test_cancelling_closes_every_stream() -> None:
    """Query: cancel. The providers see their reader leave."""
    ecosystem = sample()
    ecosystem.faults["employment", "clients"] = _silent
    task = asyncio.create_task(ecosystem.federation(batch_rows=10).run(JOINED, PURPOSE))
    async with asyncio.timeout(5):
        while ecosystem.open_streams < 2:  # noqa: ASYNC110 - the streams' own count
            await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ecosystem.open_streams == 0


# --- one dataset, streamed ------------------------------------------------------------------------------


async def test_a_stream_passes_rows_through() -> None:
    """Rows as they come, in the batches asked for, with the provider's word at the end."""
    ecosystem = sample()
    federation = ecosystem.federation()
    async with federation.stream("kela.benefits", ["amount", "area"], PURPOSE, batch_rows=10) as fragment:
        batches = [batch async for batch in fragment]
    assert [batch.num_rows for batch in batches] == [10] * 6
    assert pa.Table.from_batches(batches) == ecosystem.database.run("SELECT amount, area FROM kela.benefits")
    assert fragment.end.rows == 60
    assert ecosystem.asked == [("kela", 'SELECT "amount", "area" FROM "benefits"')]


async def test_a_stream_holds_its_source_back() -> None:
    """Backpressure: batches that nobody takes are not made."""
    ecosystem = sample()
    sent = 0

    async def count(number: int, chunk: bytes) -> bytes:
        nonlocal sent
        sent = number
        return chunk

    ecosystem.faults["kela", "benefits"] = count
    async with ecosystem.federation().stream("kela.benefits", [], PURPOSE, batch_rows=5) as fragment:
        async for batch in fragment:
            assert batch.num_columns == 7
            await asyncio.sleep(0.01)
            assert sent <= 2
            break
    assert ecosystem.open_streams == 0


async def test_a_stream_that_is_stopped_says_so() -> None:
    """The stop signal reaches the reader as an error with the provider's name."""
    ecosystem = sample()
    ecosystem.faults["kela", "benefits"] = Raises(lambda: GrantStopped("x", code="agreement_terminated"))
    rows = list[int]()

    async def read() -> None:
        async with ecosystem.federation().stream("kela.benefits", ["area"], PURPOSE, 10) as fragment:
            async for batch in fragment:
                rows.append(batch.num_rows)

    with pytest.raises(PeerRefused, match="agreement_terminated"):
        await read()
    assert sum(rows) == 60


@pytest.mark.parametrize(
    ("dataset", "columns", "batch_rows", "kind"),
    [
        ("kela.benefits", ["name"], 10, NotPermitted),
        ("kela.benefit_statistics", ["area"], 10, NotPermitted),
        ("kela.benefits", [], 0, RequestInvalid),
        ("kela.benefits", [], 10_000_000, RequestInvalid),
        ("kela", [], 10, NotFound),
        ("kela.x.y", [], 10, NotFound),
    ],
)
async def test_streams_that_are_refused(
    dataset: str, columns: list[str], batch_rows: int, kind: type[Exception]
) -> None:
    """The same refusals as for statements, before anybody is asked for rows."""
    ecosystem = sample()
    with pytest.raises(kind):
        async with ecosystem.federation().stream(dataset, columns, PURPOSE, batch_rows=batch_rows):
            pass
    assert ecosystem.asked == []
