package dataspace.odrl_test

import future.keywords.not

import data.dataspace.odrl

atom(fact, test, value, later) := {
	"kind": "atom",
	"name": fact,
	"fact": fact,
	"test": test,
	"value": value,
	"later": later,
	"refusal": concat("", ["no: <fact>: ", fact]),
	"missing": concat("", ["unknown: ", fact]),
}

purpose := atom("purpose", "any_of", ["planning"], ["catalog"])

member := atom("membership", "any_of", ["active"], [])

until := atom("now", "lteq", 1000, [])

permission(constraints, asks) := object.union(
	{
		"action": "use",
		"constraints": constraints,
		"atoms": constraints,
		"consent": false,
		"min_group_size": 1,
		"max_queries_per_day": null,
		"expires_at": null,
		"duties": [],
	},
	asks,
)

request(permissions) := {
	"stage": "query",
	"consumer": {"id": "city"},
	"request": {"action": "use", "purpose": "planning"},
	"policy": {"permissions": permissions, "prohibitions": ["distribute"], "duties": [], "consent": false},
	"facts": {"purpose": ["planning"], "membership": ["active"], "now": 900},
	"shown": {"purpose": "planning", "membership": "active", "now": ""},
}

with_facts(permissions, facts) := object.union(request(permissions), {"facts": facts, "shown": {"purpose": "other"}})

test_a_permission_without_constraints_permits if {
	odrl.decision.allow with input as request([permission([], {})])
}

test_all_constraints_hold if {
	odrl.decision.allow with input as request([permission([purpose, member, until], {})])
}

test_no_permission_is_a_denial if {
	not odrl.decision.allow with input as request([])
}

test_another_purpose_is_named_in_the_reason if {
	d := odrl.decision with input as with_facts([permission([purpose], {})], {"purpose": ["other"]})
	d == {"allow": false, "reasons": [{"code": "constraint:purpose", "text": "no: other: purpose"}]}
}

test_an_unknown_fact_is_a_denial if {
	d := odrl.decision with input as with_facts([permission([member], {})], {"membership": null})
	d.reasons == [{"code": "constraint:membership", "text": "unknown: membership"}]
}

test_an_unknown_fact_waits_where_it_is_known_later if {
	asked := object.union(with_facts([permission([purpose], {})], {"purpose": null}), {"stage": "catalog"})
	odrl.decision.allow with input as asked
}

test_a_known_fact_is_not_put_off if {
	asked := object.union(with_facts([permission([purpose], {})], {"purpose": ["other"]}), {"stage": "catalog"})
	not odrl.decision.allow with input as asked
}

test_time_is_compared if {
	not odrl.decision.allow with input as with_facts([permission([until], {})], {"now": 1001})
	odrl.decision.allow with input as with_facts([permission([until], {})], {"now": 1000})
}

test_none_of_denies_an_unknown_fact if {
	excluded := atom("membership", "none_of", ["left"], [])
	odrl.decision.allow with input as request([permission([excluded], {})])
	not odrl.decision.allow with input as with_facts([permission([excluded], {})], {"membership": []})
	not odrl.decision.allow with input as with_facts([permission([excluded], {})], {"membership": ["left"]})
}

test_or_needs_one_and_and_needs_all if {
	other := atom("purpose", "any_of", ["other"], [])
	either := {"kind": "or", "members": [other, member]}
	both := {"kind": "and", "members": [other, member]}
	odrl.decision.allow with input as request([permission([either], {})])
	not odrl.decision.allow with input as request([permission([both], {})])
	odrl.decision.allow with input as request([permission([{"kind": "or", "members": [both, either]}], {})])
	not odrl.decision.allow with input as request([permission([{"kind": "and", "members": [both, either]}], {})])
}

test_an_empty_and_does_not_hold if {
	not odrl.decision.allow with input as request([permission([{"kind": "and", "members": []}], {})])
}

test_a_kind_that_is_not_known_does_not_hold if {
	not odrl.decision.allow with input as request([permission([{"kind": "xone", "members": [member]}], {})])
}

test_a_prohibited_action_is_denied if {
	asked := json.patch(request([permission([], {})]), [{"op": "replace", "path": "/request/action", "value": "distribute"}])
	d := odrl.decision with input as asked
	not d.allow
	{"code": "prohibited", "text": "the action 'distribute' is prohibited"} in d.reasons
}

test_what_permissions_ask_for_adds_up_to_the_strictest if {
	d := odrl.decision with input as request([
		permission([], {"consent": true, "min_group_size": 5, "expires_at": 2000}),
		permission([member], {"min_group_size": 7, "max_queries_per_day": 10, "expires_at": 1500}),
		permission([atom("purpose", "any_of", ["other"], [])], {"min_group_size": 100}),
	])
	d.consent == [{"purpose": "planning", "recipient": "city"}]
	d.min_group_size == 7
	d.limits == {"max_queries_per_day": 10}
	d.expires_at == 1500
}

test_consent_without_a_purpose_is_a_denial if {
	asked := json.patch(
		request([permission([], {"consent": true})]),
		[{"op": "replace", "path": "/request/purpose", "value": null}],
	)
	not odrl.decision.allow with input as asked
}

test_duties_of_permission_and_policy_come_together if {
	asked := json.patch(
		request([permission([], {"duties": [{"action": "inform", "within_seconds": null}]})]),
		[{"op": "replace", "path": "/policy/duties", "value": [{"action": "delete", "within_seconds": 60}]}],
	)
	d := odrl.decision with input as asked
	[duty.action | some duty in d.duties] == ["inform", "delete"]
}

test_an_empty_input_is_a_denial if {
	d := odrl.decision with input as {}
	d.allow == false
}

test_every_comparison if {
	facts := [999, 1000, 1001]
	every test, held in {
		"lt": [true, false, false],
		"lteq": [true, true, false],
		"gt": [false, false, true],
		"gteq": [false, true, true],
	} {
		c := atom("now", test, 1000, [])
		[x | some now in facts; d := odrl.decision with input as with_facts([permission([c], {})], {"now": now}); x := d.allow] == held
	}
}

test_consent_of_the_whole_policy if {
	asked := json.patch(request([permission([], {})]), [{"op": "replace", "path": "/policy/consent", "value": true}])
	d := odrl.decision with input as asked
	d.consent == [{"purpose": "planning", "recipient": "city"}]
}

test_what_cannot_be_read_whole_does_not_permit if {
	not odrl.decision.allow with input as request([permission([], {"duties": "delete"})])
	not odrl.decision.allow with input as request([permission([], {"consent": null})])
	broken := json.patch(request([permission([], {})]), [{"op": "replace", "path": "/policy/duties", "value": null}])
	d := odrl.decision with input as broken
	d.allow == false
}
