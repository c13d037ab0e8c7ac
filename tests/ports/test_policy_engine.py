"""Port PolicyEngine: a contract over the embedded engine and real OPA; the two held against each other."""

import asyncio
import copy
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import count
from random import Random
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import pytest_asyncio

from connector.access.decision import BASELINE, ODRL, policy_packages
from connector.access.decision_fixtures import fixture_inputs
from connector.adapters.opa_engine import OpaEngine
from connector.adapters.policy_files import deciding_packages, relocated, revision_of
from connector.adapters.rego_engine import RegoEngine
from connector.errors import ConfigurationError, PolicyInvalid, PolicyUnavailable
from connector.model.decision import CompoundCondition, Deny, FieldCondition, Permit, Truncate
from connector.ports import PolicyEngine
from tests.decision_cases import CASES, changes_of
from tests.decisions import PROVIDERS, World, ask, input_of, modules
from tests.parts.opa import OpaServer

Make = Callable[..., PolicyEngine]

MUTATIONS = 300
SLOW_SECONDS = 0.4


def own(body: str, name: str = "local") -> str:
    return f'package dataspace.policies.{name}\n\ndefault decision := {{"allow": false}}\n\n{body}\n'


ALLOW = own('decision := {"allow": true}')
CITY_ONLY = own('decision := {"allow": true} if input.consumer.id == "city"')


@pytest_asyncio.fixture(params=["embedded", "opa"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Engines of one kind, closed afterwards. On the shared OPA each test has a scope, and leaves nothing:
    OPA compiles all it holds after every change."""
    made: list[PolicyEngine] = []

    def embedded(*, hasty: bool = False) -> PolicyEngine:
        made.append(RegoEngine(check_seconds=SLOW_SECONDS if hasty else 5.0))
        return made[-1]

    def opa(*, hasty: bool = False) -> PolicyEngine:
        made.append(OpaEngine(url, scope=scope, decision_seconds=SLOW_SECONDS if hasty else 5.0))
        return made[-1]

    url, scope = "", f"contract_{next(_SCOPES)}"
    if request.param == "opa":
        url = request.getfixturevalue("opa_server").url
    yield opa if url else embedded
    for engine in made:
        await engine.close()
    if url:
        await asyncio.to_thread(delete_policies, url, scope)


_SCOPES = count(1)


def policy_ids(url: str, scope: str) -> list[str]:
    with build_opener(ProxyHandler({})).open(f"{url}/v1/policies") as answer:
        ids = [policy["id"] for policy in json.load(answer)["result"]]
    return [name for name in ids if name.startswith(f"{scope}_")]


def delete_policies(url: str, scope: str) -> None:
    opener = build_opener(ProxyHandler({}))
    waiting = policy_ids(url, scope)
    while waiting:
        name = waiting.pop(0)
        try:
            opener.open(Request(f"{url}/v1/policies/{name}", method="DELETE")).close()
        except HTTPError as error:
            error.close()
            waiting.append(name)  # another module calls it: that one first


@pytest_asyncio.fixture
async def engine(make: Make) -> PolicyEngine:
    engine = make()
    await engine.load(modules())
    return engine


def asked(consumer: str = "city") -> dict[str, Any]:
    document = copy.deepcopy(dict(fixture_inputs()[3]))
    document["consumer"] = {**document["consumer"], "id": consumer}
    return document


async def allowed(engine: PolicyEngine, package: str, document: Mapping[str, Any]) -> bool:
    answer = await engine.evaluate([package], document)
    return answer[package]["allow"] is True


class TestPolicyEngine:
    async def test_decisions(self, engine: PolicyEngine) -> None:
        """Skeleton, ports and twins: the same table of decisions on both engines, reasons included."""
        wrong = {}
        for case in CASES:
            request = ask(case.dataset, case.offer, case.stage, **changes_of(case))
            decision = await World(engine, PROVIDERS[case.dataset]).decider.decide(request)
            reasons = decision.reasons if isinstance(decision, Deny) else ()
            if {r.code for r in reasons} != case.codes or not all(r.text for r in reasons):
                wrong[case.name] = [(r.code, r.text) for r in reasons] or decision
        assert not wrong

    async def test_the_revision_is_that_of_names_and_texts(self, engine: PolicyEngine) -> None:
        """Port PolicyEngine: equal modules have an equal revision on every engine and replica."""
        assert engine.revision == revision_of(modules())
        assert len(engine.revision) == 16
        await engine.load({**modules(), "policies/local.rego": ALLOW})
        assert engine.revision != revision_of(modules())

    async def test_nothing_is_decided_before_policies_are_loaded(self, make: Make) -> None:
        """Fail closed: no policies is no answer, not a permit."""
        engine = make()
        assert engine.revision == ""
        with pytest.raises(PolicyUnavailable):
            await engine.evaluate([ODRL], asked())

    async def test_load_replaces_everything(self, make: Make) -> None:
        """Port PolicyEngine: a module that is no longer there no longer decides."""
        engine = make()
        await engine.load({"policies/a.rego": ALLOW, "policies/b.rego": own("", "other")})
        assert await allowed(engine, "dataspace.policies.local", asked("youth"))
        await engine.load({"policies/a.rego": CITY_ONLY})
        assert not await allowed(engine, "dataspace.policies.local", asked("youth"))
        assert await allowed(engine, "dataspace.policies.local", asked("city"))
        with pytest.raises(PolicyUnavailable):
            await engine.evaluate(["dataspace.policies.other"], asked())

    async def test_modules_may_call_each_other_in_any_order(self, make: Make) -> None:
        """Operators share functions between policies; neither the order of files nor of names matters."""
        caller = own(
            'decision := {"allow": true} if data.dataspace.policies.zz.friendly(input.consumer.id)', "aa"
        )
        importer = (
            "package dataspace.policies.mm\n\nimport data.dataspace.policies.zz\n\n"
            'default decision := {"allow": false}\n\n'
            'decision := {"allow": true} if zz.friendly(input.consumer.id)\n'
        )
        library = 'package dataspace.policies.zz\n\nfriendly(who) if who == "city"\n'
        engine = make()
        await engine.load(
            {"policies/1.rego": caller, "policies/2.rego": importer, "policies/3.rego": library}
        )
        for package in ("dataspace.policies.aa", "dataspace.policies.mm"):
            assert await allowed(engine, package, asked("city"))
            assert not await allowed(engine, package, asked("youth"))

    async def test_an_unknown_package_is_unavailable(self, engine: PolicyEngine) -> None:
        """Fail closed: undefined is never "no objection"."""
        with pytest.raises(PolicyUnavailable):
            await engine.evaluate([ODRL, "dataspace.policies.nowhere"], asked())

    async def test_a_failing_evaluation_is_unavailable_and_passes(self, make: Make) -> None:
        """Fail closed, and the engine answers the next request. Errors say nothing of the input."""
        engine = make()
        fragile = own('decision := {"allow": true} if to_number(input.facts.odd) > 1')
        documents = [{**d, "facts": {"odd": "2"}} for d in fixture_inputs()]
        await engine.load({"policies/local.rego": fragile.replace("input.facts.odd", '"2"')})
        with pytest.raises(PolicyInvalid):  # the trial inputs have no such fact: found before it is taken
            await engine.load({"policies/local.rego": own("decision := {} if true")})
        guarded = own(
            'decision := {"allow": true} if {\n\tis_string(input.facts.odd)\n'
            "\tto_number(input.facts.odd) > 1\n}"
        )
        await engine.load({"policies/local.rego": guarded})
        package = "dataspace.policies.local"
        assert await allowed(engine, package, documents[3])
        with pytest.raises(PolicyUnavailable) as raised:
            await engine.evaluate([package], {**documents[3], "facts": {"odd": "010190-999Y"}})
        assert "010190" not in str(raised.value)
        assert await allowed(engine, package, documents[3])

    @pytest.mark.parametrize(
        ("text", "line", "said"),
        [
            pytest.param(own('decision := {"allow": true if {'), 5, "", id="syntax"),
            pytest.param(own('decision := {"allow": true} if nothing == 1'), 5, "nothing", id="unsafe"),
            pytest.param(own('decision := {"allow": true} if foo(1)'), 5, "foo", id="unknown-function"),
            pytest.param(
                own('decision := {"allow": true} if http.send({}).status_code == 200'),
                5,
                "http.send",
                id="network",
            ),
            pytest.param(
                own('decision := {"allow": true} if time.now_ns() > 0'), 5, "time.now_ns", id="clock"
            ),
            pytest.param(own('decision := {"allow": true} if not input.x == 1'), 5, "not", id="plain-not"),
            pytest.param(own('decision := {"allow": true} if data.secret == 1'), 5, "data", id="data"),
            pytest.param(
                own('decision := {"allow": true, "text": $"{input.x}"}'),
                5,
                "interpolation",
                id="interpolation",
            ),
            pytest.param(
                'package dataspace.policies.x\n\ndecision := {"allow": true}\n', 0, "default", id="default"
            ),
            pytest.param('default decision := {"allow": true}\n', 1, "package", id="package"),
            pytest.param(own('decision := {"allow": "yes"}'), 0, "allow", id="not-a-boolean"),
            pytest.param(own('decision := {"allow": true, "rows": 1}'), 0, "rows", id="unknown-key"),
            pytest.param(
                own('decision := {"allow": true, "column_masks": {"x": {"kind": "blur"}}}'),
                0,
                "kind",
                id="unknown-mask",
            ),
            pytest.param(
                own('decision := {"allow": true}\n\ndecision := {"allow": false} if input.stage'),
                0,
                "",
                id="conflict",
            ),
            pytest.param(
                own('decision := {"allow": true} if local\n\nlocal if local2\n\nlocal2 if local'),
                0,
                "",
                id="recursion",
            ),
        ],
    )
    async def test_a_bad_policy_is_refused_by_its_place_and_the_old_stay(
        self, make: Make, text: str, line: int, said: str
    ) -> None:
        """Skeleton, bad input: file:line and what is wrong; nothing in force changes."""
        engine = make()
        good = {"policies/good.rego": own('decision := {"allow": true}', "good")}
        await engine.load(good)
        before = engine.revision
        with pytest.raises(PolicyInvalid) as raised:
            await engine.load({**good, "policies/bad.rego": text})
        assert raised.value.where.startswith(f"policies/bad.rego:{line}" if line else "policies/bad.rego")
        assert said in raised.value.message
        assert "backtrace" not in str(raised.value).lower()
        assert engine.revision == before
        assert await allowed(engine, "dataspace.policies.good", asked())

    async def test_a_policy_that_takes_too_long_is_refused(self, make: Make) -> None:
        """Skeleton, bad input: the process does not hang; the policies in force stay."""
        engine = make(hasty=True)
        await engine.load({"policies/local.rego": ALLOW})
        slow = own(
            'decision := {"allow": true} if {\n'
            "\tmany := numbers.range(1, 100000)\n"
            "\tcount([1 | some x in many; some y in many; x == y]) > 3\n}"
        )
        begun = time.monotonic()
        with pytest.raises(PolicyInvalid):
            await engine.load({"policies/local.rego": slow})
        assert time.monotonic() - begun < 10
        assert await allowed(engine, "dataspace.policies.local", asked())

    async def test_a_decision_shapes_the_data(self, make: Make) -> None:
        """Architecture, idea 1: row filters and masks come back as values, the same from both engines."""
        engine = make()
        shaping = own(
            'decision := {"allow": true,\n'
            '\t"row_filter": {"type": "compound", "operator": "and", "value": cs},\n'
            '\t"column_masks": {"postal_code": {"kind": "truncate", "length": 2}},\n'
            '\t"expires_at": input.now + 60}\n\n'
            'cs := [c |\n\tsome s in ["guidance", "training"]\n'
            '\tc := {"type": "field", "field": "service", "operator": "ne", "value": s}\n]',
            "statutory_planning",
        )
        await engine.load({**modules(), "policies/statutory_planning.rego": shaping})
        world = World(engine, "employment")
        decision = await world.decider.decide(ask("clients", "planning"))
        assert isinstance(decision, Permit)
        assert decision.row_filter == CompoundCondition(
            operator="and",
            conditions=tuple(
                FieldCondition(field="service", operator="ne", value=s) for s in ("guidance", "training")
            ),
        )
        assert decision.column_masks["postal_code"] == Truncate(length=2)
        assert decision.expires_at is not None
        assert (decision.expires_at - world.clock.now()).total_seconds() == 60


def _mutated(random: Random, document: dict[str, Any]) -> dict[str, Any]:
    """The document with one to three members taken out, made null or given another type."""
    changed = copy.deepcopy(document)
    for _ in range(random.randint(1, 3)):
        holder: Any = changed
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = random.choice(keys)
            inner = holder[key]
            if isinstance(inner, dict | list) and inner and random.random() < 0.8:
                holder = inner
                continue
            if random.random() < 0.4:
                del holder[key]
            else:
                holder[key] = random.choice([None, "", "x", 0, 7, -1, True, False, [], ["x"], {}, {"x": 1}])
            break
    return changed


async def _outcome(engine: PolicyEngine, packages: list[str], document: Mapping[str, Any]) -> bool:
    """Whether every package permits; what cannot be evaluated does not."""
    try:
        answers = await engine.evaluate(packages, document)
    except PolicyUnavailable:
        return False
    return all(answer.get("allow") is True for answer in answers.values())


async def test_both_engines_answer_alike_whatever_they_are_asked(opa_server: OpaServer) -> None:
    """parts.md 1.5: OPA permits on what is missing where others deny. Our policies do not let it.

    300 inputs with members missing, null or of another type: never a permit on one engine and a denial
    on the other; and whole inputs give equal documents.
    """
    embedded, opa = RegoEngine(), OpaEngine(opa_server.url, scope="corpus")
    await embedded.load(modules())
    await opa.load(modules())
    assert embedded.revision == opa.revision
    random = Random(2026)
    permitted = 0
    asked_ = [c for c in CASES if c.stage != "publish" and "terms_missing" not in c.codes]
    documents = []
    for case in asked_:
        if "policy_not_enforceable" in case.codes:
            continue
        request = ask(case.dataset, case.offer, case.stage, **changes_of(case))
        terms = request.terms_in_force
        assert terms is not None
        packages = [ODRL, BASELINE, *policy_packages(request.dataset, terms)]
        document = json.loads(json.dumps(input_of(request, PROVIDERS[case.dataset])))
        documents.append((packages, document))
        assert await embedded.evaluate(packages, document) == await opa.evaluate(packages, document), (
            case.name
        )
    for _ in range(MUTATIONS):
        packages, document = random.choice(documents)
        changed = _mutated(random, document)
        one, other = await _outcome(embedded, packages, changed), await _outcome(opa, packages, changed)
        assert one == other, json.dumps(changed)
        permitted += one
    assert 0 < permitted < MUTATIONS
    await opa.close()
    await asyncio.to_thread(delete_policies, opa_server.url, "corpus")


# --- the embedded engine alone -------------------------------------------------------------------------


async def test_the_embedded_engine_denies_on_another_thread() -> None:
    """parts.md 1.7: its panic is no Exception, and must not pass the handlers that deny."""
    engine = RegoEngine()
    await engine.load(modules())
    failed: list[type[BaseException]] = []

    def elsewhere() -> None:
        try:
            asyncio.run(engine.evaluate([ODRL], asked()))
        except BaseException as error:
            failed.append(type(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert failed == [PolicyUnavailable]
    assert await allowed(engine, BASELINE, asked())
    await engine.close()


# --- the real OPA alone --------------------------------------------------------------------------------


async def test_an_opa_that_forgot_its_policies_gets_them_again(opa_server: OpaServer) -> None:
    """A restarted OPA is empty: denying for ever would be safe, and useless."""
    engine = OpaEngine(opa_server.url, scope="forgetful")
    await engine.load(modules())
    await asyncio.to_thread(delete_policies, opa_server.url, "forgetful")
    assert await allowed(engine, BASELINE, asked())
    await engine.close()
    await asyncio.to_thread(delete_policies, opa_server.url, "forgetful")


async def test_old_revisions_do_not_pile_up_at_opa(opa_server: OpaServer) -> None:
    """opa_engine: the revision in force and the one before it are kept, modules that call each other too."""
    engine = OpaEngine(opa_server.url, scope="tidy")
    library = "package dataspace.policies.lib\n\nsmall(x) if x < {}\n"
    for number in range(4):
        caller = own('decision := {"allow": true} if data.dataspace.policies.lib.small(1)')
        await engine.load({"policies/a.rego": library.format(number), "policies/b.rego": caller})
    assert len(await asyncio.to_thread(policy_ids, opa_server.url, "tidy")) == 4
    await engine.close()
    await asyncio.to_thread(delete_policies, opa_server.url, "tidy")


async def test_an_opa_that_is_not_there_is_unavailable() -> None:
    """Fail closed: no OPA, no decision."""
    engine = OpaEngine("http://127.0.0.1:9", scope="nobody")
    with pytest.raises(PolicyUnavailable):
        await engine.load(modules())
    with pytest.raises(PolicyUnavailable):
        await engine.evaluate([ODRL], asked())
    await engine.close()


@pytest.mark.parametrize("url", ["", "opa:8181", "http://", "http://opa:8181/v1", "ftp://opa"])
def test_the_url_of_an_opa_is_a_base_url(url: str) -> None:
    """Skeleton, settings: a wrong one is named, with the mend."""
    with pytest.raises(ConfigurationError) as raised:
        OpaEngine(url)
    assert raised.value.where == "opa_url"


def test_revisions_live_under_packages_of_their_own() -> None:
    """opa_engine: packages and references move, strings, comments and lines stay."""
    text = (
        "# data.dataspace.policies.x\npackage dataspace.policies.x\n\nimport data.dataspace.policies.y\n\n"
        's := "data.dataspace"\n\nz := data.dataspace.policies.y.z\n'
    )
    assert relocated(text, "r1") == (
        "# data.dataspace.policies.x\npackage r1.dataspace.policies.x\n\n"
        "import data.r1.dataspace.policies.y\n\n"
        's := "data.dataspace"\n\nz := data.r1.dataspace.policies.y.z\n'
    )


def test_every_example_policy_decides() -> None:
    """The table is about all of them: none is left out."""
    assert len(deciding_packages(modules())) == 6
    assert len(CASES) >= 60
