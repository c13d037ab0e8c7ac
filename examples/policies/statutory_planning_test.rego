package dataspace.policies.statutory_planning_test

import future.keywords.not

import data.dataspace.policies.statutory_planning

query := {
	"stage": "query",
	"consumer": {"sector": "city"},
	"dataset": {"columns": {"postal_code": "string", "benefit": "string"}},
	"request": {
		"purpose": "service-planning",
		"purpose_tree": ["service-planning", "public-service-provision"],
	},
}

patched(path, value) := json.patch(query, [{"op": "replace", "path": path, "value": value}])

test_a_city_plans_by_areas if {
	d := statutory_planning.decision with input as query
	d.allow
	d.column_masks == {"postal_code": {"kind": "truncate", "length": 3}}
}

test_only_what_is_there_is_masked if {
	d := statutory_planning.decision with input as patched("/dataset/columns", {"benefit": "string"})
	d.allow
	d.column_masks == {}
}

test_nobody_else if {
	d := statutory_planning.decision with input as patched("/consumer/sector", "youth")
	d.reasons == [{"code": "consumer", "text": "only a city plans services on this basis"}]
}

test_for_nothing_else if {
	d := statutory_planning.decision with input as patched("/request/purpose_tree", ["marketing"])
	not d.allow
}

test_before_a_use_no_purpose_is_stated if {
	asked := object.union(query, {"stage": "catalog", "request": {"purpose": null, "purpose_tree": []}})
	statutory_planning.decision.allow with input as asked
}

test_an_empty_input_is_a_denial if {
	d := statutory_planning.decision with input as {}
	d.allow == false
}
