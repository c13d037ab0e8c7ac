package dataspace.policies.outreach_test

import future.keywords.not

import data.dataspace.policies.outreach

query := {
	"stage": "event",
	"consumer": {"id": "youth", "sector": "youth"},
	"request": {"purpose": "outreach", "purpose_tree": ["outreach", "public-service-provision"]},
}

patched(path, value) := json.patch(query, [{"op": "replace", "path": path, "value": value}])

test_those_who_said_yes_are_reached if {
	d := outreach.decision with input as query
	d.allow
	d.consent == [{"purpose": "outreach", "recipient": "youth"}]
}

test_what_was_received_is_deleted if {
	d := outreach.decision with input as query
	d.duties == [{"action": "delete", "within_seconds": 90 * 86400}]
}

test_nobody_else if {
	d := outreach.decision with input as patched("/consumer/sector", "city")
	not d.allow
}

test_for_nothing_else if {
	d := outreach.decision with input as patched("/request/purpose_tree", ["case-work"])
	not d.allow
}

test_an_empty_input_is_a_denial if {
	d := outreach.decision with input as {}
	d.allow == false
}

test_before_a_use_no_purpose_is_stated if {
	asked := object.union(query, {"stage": "catalog", "request": {"purpose": null, "purpose_tree": []}})
	d := outreach.decision with input as asked
	d.allow
}
