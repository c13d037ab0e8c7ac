package dataspace.policies.case_work_test

import data.dataspace.policies.case_work

query := {
	"stage": "query",
	"consumer": {"id": "employment"},
	"offer": {"subjects_named": true},
	"request": {
		"purpose": "case-work",
		"purpose_tree": ["case-work"],
		"actor_roles": ["case_worker"],
		"subjects_named": 1,
		"subjects_consenting": 1,
	},
}

patched(path, value) := json.patch(query, [{"op": "replace", "path": path, "value": value}])

refused(asked) := {r.code | some r in d.reasons} if {
	d := case_work.decision with input as asked
	d.allow == false
}

test_a_case_worker_asks_about_a_client_who_agreed if {
	d := case_work.decision with input as query
	d.allow
	d.consent == [{"purpose": "case-work", "recipient": "employment"}]
	d.limits == {"max_rows": 1000}
}

test_the_consent_may_be_counted_later if {
	d := case_work.decision with input as patched("/request/subjects_consenting", null)
	d.allow
	count(d.consent) == 1
}

test_every_person_named_consents if {
	refused(patched("/request/subjects_consenting", 0)) == {"consenting"}
	refused(patched("/request/subjects_named", 2)) == {"consenting"}
}

test_only_case_workers_ask if {
	refused(patched("/request/actor_roles", ["analyst"])) == {"role"}
	refused(patched("/request/actor_roles", [])) == {"role"}
}

test_no_lists_of_persons if {
	refused(patched("/offer/subjects_named", false)) == {"subjects_named"}
}

test_for_nothing_else if {
	refused(patched("/request/purpose_tree", ["marketing"])) == {"purpose"}
}

test_an_empty_input_is_a_denial if {
	d := case_work.decision with input as {}
	d.allow == false
}

test_before_a_use_no_purpose_is_stated if {
	asked := object.union(query, {"stage": "catalog", "request": {"purpose": null, "purpose_tree": []}})
	d := case_work.decision with input as asked
	d.allow
}
