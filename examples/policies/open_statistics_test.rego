package dataspace.policies.open_statistics_test

import future.keywords.not

import data.dataspace.policies.open_statistics

query := {
	"stage": "query",
	"offer": {"aggregate_only": true},
	"request": {"purpose": "statistics", "purpose_tree": ["statistics", "official-statistics"]},
}

patched(path, value) := json.patch(query, [{"op": "replace", "path": path, "value": value}])

test_groups_of_five if {
	d := open_statistics.decision with input as query
	d.allow
	d.min_group_size == 5
}

test_never_rows if {
	d := open_statistics.decision with input as patched("/offer/aggregate_only", false)
	d.reasons == [{"code": "aggregate_only", "text": "statistics come from offers that answer in groups only"}]
}

test_for_nothing_else if {
	d := open_statistics.decision with input as patched("/request/purpose_tree", ["case-work"])
	not d.allow
}

test_an_empty_input_is_a_denial if {
	d := open_statistics.decision with input as {}
	d.allow == false
}

test_before_a_use_no_purpose_is_stated if {
	asked := object.union(query, {"stage": "catalog", "request": {"purpose": null, "purpose_tree": []}})
	d := open_statistics.decision with input as asked
	d.allow
}
