"""The synthetic population: lawful identifiers, registers that agree, and truths that SQL reaches as well."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import fields
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, get_args

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import connector
from connector.demo import registers, truth
from connector.demo.population import (
    AREAS,
    AS_OF,
    LATEST_MONTH,
    MONTHS,
    REFERENCE_DATE,
    Benefit,
    BenefitMonth,
    Client,
    Consent,
    ConsentState,
    LeaverMonth,
    LeaverStatus,
    Person,
    Population,
    Service,
    SupportNeed,
    generate,
)

SMALL, FULL = 2_000, 30_000
K = 5


generated = cache(lambda persons: generate(persons=persons))


@pytest.fixture(scope="module", params=[SMALL, FULL])
def population(request: pytest.FixtureRequest) -> Population:
    return generated(request.param)


@pytest.fixture(scope="module")
def full() -> Population:
    return generated(FULL)


@pytest.fixture(scope="module")
def folder(population: Population, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registers")
    registers.write_clients_sqlite(folder / "clients.sqlite", population)
    registers.write_benefits_parquet(folder / "benefits.parquet", population)
    registers.write_leavers_csv(folder / "leavers.csv", population)
    registers.write_consents_csv(folder / "school.csv", population.school_consents)
    registers.write_consents_csv(folder / "kela.csv", population.kela_consents)
    return folder


@pytest.fixture(scope="module")
def sql(folder: Path) -> Callable[[str], list[tuple[Any, ...]]]:
    """Run SQL over the written files: clients, benefits, leavers, school_consents and kela_consents."""
    db = duckdb.connect()
    # Through Arrow: DuckDB's own SQLite reader is an extension that would have to be downloaded.
    with sqlite3.connect(folder / "clients.sqlite") as sqlite:
        sqlite.row_factory = sqlite3.Row
        rows = [dict(row) for row in sqlite.execute("SELECT * FROM clients")]
    sqlite.close()
    db.register("clients", pa.Table.from_pylist(rows))
    db.execute(f"CREATE VIEW benefits AS SELECT * FROM read_parquet('{folder}/benefits.parquet')")
    for table, file in (("leavers", "leavers"), ("school_consents", "school"), ("kela_consents", "kela")):
        db.execute(f"CREATE VIEW {table} AS SELECT * FROM read_csv('{folder}/{file}.csv', all_varchar=true)")
    return lambda query: db.execute(query).fetchall()


def age(born: date, on: date) -> int:
    return on.year - born.year - ((on.month, on.day) < (born.month, born.day))


class TestDeterminism:
    def test_the_same_seed_gives_the_same_population(self) -> None:
        assert generate(seed=7, persons=SMALL) == generate(seed=7, persons=SMALL)

    def test_another_seed_gives_another(self) -> None:
        ours, theirs = generate(seed=7, persons=SMALL), generate(seed=8, persons=SMALL)
        assert {p.hetu for p in ours.persons} != {p.hetu for p in theirs.persons}

    @pytest.mark.parametrize("hash_seed", ["0", "1"])
    def test_hash_randomisation_of_the_process_does_not_matter(self, hash_seed: str) -> None:
        program = (
            "import hashlib; from connector.demo.population import generate;"
            f"print(hashlib.sha256(repr(generate(persons={SMALL})).encode()).hexdigest())"
        )
        root = str(Path(next(iter(connector.__path__))).parent)
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == hashlib.sha256(repr(generate(persons=SMALL)).encode()).hexdigest()


class TestPersons:
    def test_there_are_as_many_as_asked_for_with_distinct_hetus_and_phones(
        self, population: Population
    ) -> None:
        assert len(population.persons) in (SMALL, FULL)
        assert len({p.hetu for p in population.persons}) == len(population.persons)
        assert len({p.phone for p in population.persons}) == len(population.persons)

    def test_every_hetu_is_well_formed_artificial_and_tells_birth_and_sex(
        self, population: Population
    ) -> None:
        for person in population.persons:
            match = re.fullmatch(r"(\d\d)(\d\d)(\d\d)([-YXWVUABCDEF])(9\d\d)([0-9A-Y])", person.hetu)
            assert match is not None, person.hetu
            day, month, year, sign, number, check = match.groups()
            century = 1900 if sign in "-YXWVU" else 2000
            assert date(century + int(year), int(month), int(day)) == person.born
            assert ("F", "M")[int(number) % 2] == person.sex
            # The letters G, I, O, Q and Z are left out, as they could be read as digits or one another.
            remainder = int(day + month + year + number) % 31
            assert check == [c for c in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in "GIOQZ"][remainder]

    def test_some_hetus_differ_in_the_century_sign_alone(self, full: Population) -> None:
        without_sign = Counter(p.hetu[:6] + p.hetu[7:] for p in full.persons)
        assert sum(n > 1 for n in without_sign.values()) > 50

    def test_ages_are_16_to_64_with_a_generous_share_of_young(self, population: Population) -> None:
        ages = [age(p.born, REFERENCE_DATE) for p in population.persons]
        assert (min(ages), max(ages)) == (16, 64)
        assert 0.4 < sum(a <= 29 for a in ages) / len(ages) < 0.6

    def test_postal_codes_are_helsinki_shaped(self, population: Population) -> None:
        codes = {area.postal_code for area in AREAS}
        assert len(codes) == len(AREAS) >= 70
        assert all(re.fullmatch(r"00\d{3}", code) for code in codes)
        assert {p.postal_code for p in population.persons} <= codes
        assert len({code[:3] for code in codes}) == 9

    def test_phones_are_too_short_to_ring(self, population: Population) -> None:
        assert all(re.fullmatch(r"\+358 40 \d{5}", p.phone) for p in population.persons)

    def test_too_many_persons_is_refused_rather_than_repeated(self) -> None:
        with pytest.raises(ValueError):
            generate(persons=200_000)


class TestRegistersAgree:
    def test_on_the_identity_of_a_person(self, population: Population) -> None:
        persons = {p.hetu: p for p in population.persons}
        rows: list[Client | BenefitMonth] = [*population.clients, *population.benefits]
        for row in rows:
            person = persons[row.hetu]
            assert (row.name, row.postal_code) == (person.name, person.postal_code)
            assert row.birth_year == person.born.year
        for benefit in population.benefits:
            assert benefit.sex == persons[benefit.hetu].sex
        for leaver in population.leavers:
            person = persons[leaver.hetu]
            assert (leaver.name, leaver.postal_code) == (person.name, person.postal_code)
            assert leaver.phone == person.phone

    def test_on_what_people_do(self, population: Population) -> None:
        """Nobody draws unemployment benefit while the school knows them at work in that month."""
        working = {(row.hetu, row.month) for row in population.leavers if row.status == "working"}
        unemployed = {
            (row.hetu, row.month)
            for row in population.benefits
            if row.benefit in ("labour_market_subsidy", "basic_allowance")
        }
        assert working
        assert not working & unemployed

    def test_unemployment_benefit_is_for_clients(self, population: Population) -> None:
        clients = {row.hetu for row in population.clients}
        for row in population.benefits:
            if row.benefit in ("labour_market_subsidy", "basic_allowance"):
                assert row.hetu in clients


class TestClients:
    def test_rows_are_one_per_person_and_plausible(self, population: Population) -> None:
        born = {p.hetu: p.born for p in population.persons}
        assert [c.hetu for c in population.clients] == sorted({c.hetu for c in population.clients})
        for client in population.clients:
            assert client.service in get_args(Service)
            assert client.support_need in get_args(SupportNeed)
            assert re.fullmatch(r"\d{4}", client.occupation_code)
            assert age(born[client.hetu], REFERENCE_DATE) >= 18
            assert age(born[client.hetu], client.registered_on) >= 17
            assert client.registered_on <= REFERENCE_DATE
            since = (LATEST_MONTH.year - client.registered_on.year) * 12
            assert (
                1 <= client.unemployed_months <= since + LATEST_MONTH.month - client.registered_on.month + 1
            )

    def test_every_need_and_service_occurs(self, population: Population) -> None:
        assert {c.support_need for c in population.clients} == set(get_args(SupportNeed))
        assert {c.service for c in population.clients} == set(get_args(Service))

    def test_need_grows_with_unemployment(self, full: Population) -> None:
        months: defaultdict[SupportNeed, list[int]] = defaultdict(list)
        for client in full.clients:
            months[client.support_need].append(client.unemployed_months)
        means = [sum(months[need]) / len(months[need]) for need in get_args(SupportNeed)]
        assert means == sorted(means)


class TestBenefits:
    def test_rows_are_one_per_person_and_month_in_order(self, population: Population) -> None:
        keys = [(row.month, row.hetu) for row in population.benefits]
        assert keys == sorted(set(keys))
        assert {month for month, _ in keys} == set(MONTHS)

    def test_values_stay_in_their_ranges(self, population: Population) -> None:
        for row in population.benefits:
            assert row.benefit in get_args(Benefit)
            assert 0 <= row.sick_days <= 26
            assert row.work_capacity_pct is None or 0 <= row.work_capacity_pct <= 100
            if row.benefit == "sickness_allowance":
                assert row.sick_days > 0
                assert row.work_capacity_pct is not None

    def test_capacity_is_assessed_for_some_only(self, population: Population) -> None:
        assert {row.work_capacity_pct is None for row in population.benefits} == {True, False}


class TestLeavers:
    def test_rows_are_one_per_person_and_month_in_order(self, population: Population) -> None:
        keys = [(row.month, row.hetu) for row in population.leavers]
        assert keys == sorted(set(keys))

    def test_each_left_young_and_is_followed_from_the_next_month_on(self, population: Population) -> None:
        born = {p.hetu: p.born for p in population.persons}
        followed: defaultdict[str, list[date]] = defaultdict(list)
        for row in population.leavers:
            assert 16 <= age(born[row.hetu], row.left_on) <= age(born[row.hetu], REFERENCE_DATE) <= 24
            assert row.status in get_args(LeaverStatus)
            assert 0 <= row.absence_days <= 22
            followed[row.hetu].append(row.month)
        left_on = {row.hetu: row.left_on for row in population.leavers}
        for hetu, months in followed.items():
            assert months == [month for month in MONTHS if month > left_on[hetu]]


class TestConsents:
    def test_registers_name_controller_purpose_and_recipient(self, population: Population) -> None:
        def parties(consents: tuple[Consent, ...]) -> set[tuple[str, str, str]]:
            return {(c.controller, c.purpose, c.recipient) for c in consents}

        assert parties(population.school_consents) == {("school", "outreach", "youth")}
        assert parties(population.kela_consents) == {("kela", "case-work", "employment")}

    def test_each_person_has_at_most_one_record_and_some_were_never_asked(
        self, population: Population
    ) -> None:
        leavers = {row.hetu for row in population.leavers}
        both = {c.hetu for c in population.clients} & {b.hetu for b in population.benefits}
        for consents, everybody in ((population.school_consents, leavers), (population.kela_consents, both)):
            hetus = [c.hetu for c in consents]
            assert hetus == sorted(set(hetus))
            assert set(hetus) < everybody

    def test_every_state_occurs(self, population: Population) -> None:
        for consents in (population.school_consents, population.kela_consents):
            assert {c.state for c in consents} == set(get_args(ConsentState))

    def test_some_consents_have_run_out(self, full: Population) -> None:
        for consents in (full.school_consents, full.kela_consents):
            assert any(c.state == "given" and not c.valid_at(AS_OF) for c in consents)

    def test_times_are_utc_and_only_given_consents_reach_beyond_the_reference(
        self, population: Population
    ) -> None:
        for consent in (*population.school_consents, *population.kela_consents):
            for instant in (consent.given_at, consent.valid_until):
                assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", instant)
            assert consent.given_at <= consent.valid_until
            assert consent.given_at < AS_OF
            if consent.state != "given":
                assert consent.valid_until < AS_OF

    def test_validity_excludes_its_end_and_every_other_state(self) -> None:
        start, end = "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"
        given = Consent("010190-900P", "school", "outreach", "youth", "given", start, end)
        assert given.valid_at(start)
        assert not given.valid_at(end)
        assert not given.valid_at("2025-12-31T23:59:59Z")
        refused = Consent("010190-900P", "school", "outreach", "youth", "refused", start, end)
        assert not refused.valid_at(start)


class TestSizes:
    """The numbers the demonstration is told with; they hold for the default seed and size."""

    def test_clients(self, full: Population) -> None:
        assert 8_500 <= len(full.clients) <= 9_500

    def test_benefits(self, full: Population) -> None:
        assert 50_000 <= len(full.benefits) <= 90_000
        assert 7_500 <= len({row.hetu for row in full.benefits}) <= 8_500

    def test_leavers(self, full: Population) -> None:
        assert 2_800 <= len({row.hetu for row in full.leavers}) <= 3_200

    def test_clients_and_recipients_overlap_but_neither_contains_the_other(self, full: Population) -> None:
        clients, recipients = {c.hetu for c in full.clients}, {b.hetu for b in full.benefits}
        assert len(clients & recipients) > 0.6 * len(clients | recipients)
        assert len(clients - recipients) > 1_000
        assert len(recipients - clients) > 1_000

    def test_shares_of_consent(self, full: Population) -> None:
        leavers = {row.hetu for row in full.leavers}
        both = {c.hetu for c in full.clients} & {b.hetu for b in full.benefits}
        assert sum(c.valid_at(AS_OF) for c in full.school_consents) / len(leavers) == pytest.approx(
            0.61, abs=0.02
        )
        assert sum(c.valid_at(AS_OF) for c in full.kela_consents) / len(both) == pytest.approx(0.55, abs=0.02)

    def test_small_cells_exist_beside_many_that_may_be_shown(self, full: Population) -> None:
        shown, hidden = truth.benefit_statistics(full, K)
        assert 1 <= hidden < len(shown)
        assert min(truth.support_needs_by_area(full).values()) < K


class TestFiles:
    def test_clients_table_has_types_a_key_and_an_index_on_hetu(
        self, population: Population, folder: Path
    ) -> None:
        with sqlite3.connect(folder / "clients.sqlite") as db:
            columns = {
                name: (kind, key) for _, name, kind, _, _, key in db.execute("PRAGMA table_info(clients)")
            }
            plan = db.execute(
                "EXPLAIN QUERY PLAN SELECT * FROM clients WHERE hetu = '010190-900P'"
            ).fetchall()
            count = db.execute("SELECT count(*) FROM clients").fetchone()
        db.close()
        assert list(columns) == [field.name for field in fields(Client)]
        assert columns["hetu"] == ("TEXT", 1)
        assert {name for name, (kind, _) in columns.items() if kind == "INTEGER"} == {
            "birth_year",
            "unemployed_months",
        }
        assert "USING INDEX" in plan[0][3]
        assert count == (len(population.clients),)

    def test_benefits_file_has_types_order_and_row_groups(self, population: Population, folder: Path) -> None:
        file = pq.ParquetFile(folder / "benefits.parquet")
        schema = file.schema_arrow
        assert schema.names == [field.name for field in fields(BenefitMonth)]
        assert schema.field("month").type == pa.date32()
        assert {schema.field(n).type for n in ("birth_year", "sick_days", "work_capacity_pct")} == {
            pa.int32()
        }
        assert file.num_row_groups == -(-len(population.benefits) // registers.BENEFITS_ROW_GROUP_ROWS)
        assert [tuple(row.values()) for row in file.read().to_pylist()] == [
            tuple(getattr(row, field.name) for field in fields(BenefitMonth)) for row in population.benefits
        ]

    def test_leavers_file_holds_the_rows_in_order(
        self, population: Population, sql: Callable[[str], list[tuple[Any, ...]]]
    ) -> None:
        assert sql("FROM leavers") == [as_text(row) for row in population.leavers]

    def test_consent_files_hold_the_records(
        self, population: Population, sql: Callable[[str], list[tuple[Any, ...]]]
    ) -> None:
        assert sql("FROM school_consents") == [as_text(row) for row in population.school_consents]
        assert sql("FROM kela_consents") == [as_text(row) for row in population.kela_consents]

    def test_writing_again_replaces(self, tmp_path: Path) -> None:
        for size in (500, 300):
            population = generate(persons=size)
            registers.write_clients_sqlite(tmp_path / "clients.sqlite", population)
        with sqlite3.connect(tmp_path / "clients.sqlite") as db:
            assert db.execute("SELECT count(*) FROM clients").fetchone() == (len(population.clients),)
        db.close()


def as_text(row: LeaverMonth | Consent) -> tuple[str, ...]:
    return tuple(str(getattr(row, field.name)) for field in fields(row))


class TestTruth:
    def test_support_needs_by_area(
        self, population: Population, sql: Callable[[str], list[tuple[Any, ...]]]
    ) -> None:
        rows = sql("""
            SELECT left(c.postal_code, 3), c.support_need, count(DISTINCT c.hetu)
            FROM clients c JOIN benefits b USING (hetu)
            WHERE b.benefit IN ('sickness_allowance', 'rehabilitation_allowance')
              AND b.month = (SELECT max(month) FROM benefits)
            GROUP BY ALL
        """)
        expected = truth.support_needs_by_area(population)
        assert {(area, need): persons for area, need, persons in rows} == expected
        assert expected

    @pytest.mark.parametrize("k", [1, K, 40, 1_000_000])
    def test_benefit_statistics(
        self, population: Population, sql: Callable[[str], list[tuple[Any, ...]]], k: int
    ) -> None:
        rows = sql("""
            SELECT benefit, left(postal_code, 3), count(DISTINCT hetu), sum(sick_days)
            FROM benefits WHERE month = DATE '2026-10-01' GROUP BY ALL
        """)
        shown, hidden = truth.benefit_statistics(population, k)
        assert shown == {(benefit, area): (n, int(days)) for benefit, area, n, days in rows if n >= k}
        assert hidden == sum(n < k for _, _, n, _ in rows)

    def test_benefit_rows_of(
        self, population: Population, sql: Callable[[str], list[tuple[Any, ...]]]
    ) -> None:
        hetu = truth.a_consenting_client_with_benefits(population).hetu
        rows = sql(f"SELECT benefit, month, sick_days FROM benefits WHERE hetu = '{hetu}' ORDER BY month")
        assert rows == truth.benefit_rows_of(population, hetu)
        assert rows
        assert truth.benefit_rows_of(population, "010190-900P") == []

    def test_outreach_rows(self, population: Population, sql: Callable[[str], list[tuple[Any, ...]]]) -> None:
        rows = sql(f"""
            SELECT l.* FROM leavers l JOIN school_consents c USING (hetu)
            WHERE c.state = 'given' AND c.given_at <= '{AS_OF}' AND c.valid_until > '{AS_OF}'
            ORDER BY l.month, l.hetu
        """)
        expected = truth.outreach_rows(population)
        assert rows == [as_text(row) for row in expected]
        assert 0 < len(expected) < len(population.leavers)

    def test_outreach_rows_follow_the_instant(self, population: Population) -> None:
        assert truth.outreach_rows(population, as_of="2020-01-01T00:00:00Z") == []
        assert truth.outreach_rows(population, as_of="2040-01-01T00:00:00Z") == []


class TestPicks:
    def test_a_consenting_client_with_benefits(
        self, population: Population, sql: Callable[[str], list[tuple[Any, ...]]]
    ) -> None:
        person = truth.a_consenting_client_with_benefits(population)
        assert in_both(sql, person)
        assert consent_of(sql, "kela_consents", person) == ("given", True)
        assert len({benefit for benefit, _, _ in truth.benefit_rows_of(population, person.hetu)}) > 1

    @pytest.mark.parametrize("state", ["refused", "withdrawn", "given", None])
    def test_a_client_without_consent(
        self,
        population: Population,
        sql: Callable[[str], list[tuple[Any, ...]]],
        state: ConsentState | None,
    ) -> None:
        person = truth.a_client_without_consent(population, state)
        assert in_both(sql, person)
        assert consent_of(sql, "kela_consents", person) == (None if state is None else (state, False))

    def test_a_consenting_leaver(
        self, population: Population, sql: Callable[[str], list[tuple[Any, ...]]]
    ) -> None:
        person = truth.a_consenting_leaver(population)
        assert consent_of(sql, "school_consents", person) == ("given", True)
        rows = sql(f"SELECT month FROM leavers WHERE hetu = '{person.hetu}' AND status = 'outside'")
        assert [month for (month,) in rows] == [str(month) for month in MONTHS]

    def test_nobody_to_pick_is_an_error(self) -> None:
        nobody = generate(persons=0)
        for pick in (
            truth.a_consenting_client_with_benefits,
            truth.a_client_without_consent,
            truth.a_consenting_leaver,
        ):
            with pytest.raises(LookupError):
                pick(nobody)


def in_both(sql: Callable[[str], list[tuple[Any, ...]]], person: Person) -> bool:
    return bool(sql(f"SELECT 1 FROM clients SEMI JOIN benefits USING (hetu) WHERE hetu = '{person.hetu}'"))


def consent_of(
    sql: Callable[[str], list[tuple[Any, ...]]], table: str, person: Person
) -> tuple[str, bool] | None:
    rows = sql(f"""
        SELECT state, state = 'given' AND given_at <= '{AS_OF}' AND valid_until > '{AS_OF}'
        FROM {table} WHERE hetu = '{person.hetu}'
    """)
    return rows[0] if rows else None
