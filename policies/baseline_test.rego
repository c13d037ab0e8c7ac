package dataspace.baseline_test

import data.dataspace.baseline

query := {
	"stage": "query",
	"participant": "kela",
	"consumer": {"id": "city", "status": "active"},
	"dataset": {
		"id": "benefits",
		"status": "active",
		"personal_data": true,
		"legal_basis": "eu-gdpr:A6-1-e",
		"disclosure_basis": "statute",
		"purposes": ["service-planning"],
		"formats": ["FederatedQuery-PULL"],
	},
	"offer": {"collaboration": null, "subjects_named": false},
	"agreement": {"id": "a", "state": "active", "assignee": "city", "assigner": "kela", "target": "benefits"},
	"collaboration": null,
	"request": {
		"purpose": "service-planning",
		"purpose_tree": ["service-planning", "public-service-provision"],
		"format": "FederatedQuery-PULL",
		"subjects_named": null,
	},
}

patched(path, value) := json.patch(query, [{"op": "replace", "path": path, "value": value}])

refused(asked) := {r.code | some r in d.reasons} if {
	d := baseline.decision with input as asked
	d.allow == false
}

test_an_ordinary_query_is_permitted if {
	d := baseline.decision with input as query
	d == {"allow": true, "reasons": [], "consent": []}
}

test_every_single_requirement_denies if {
	refused(patched("/consumer/status", "suspended")) == {"participant_active"}
	refused(patched("/dataset/status", "retired")) == {"dataset_status"}
	refused(patched("/request/format", "Kafka-PULL")) == {"format"}
	refused(patched("/dataset/legal_basis", null)) == {"legal_basis"}
	refused(patched("/dataset/disclosure_basis", null)) == {"disclosure_basis"}
	refused(patched("/dataset/purposes", ["statistics"])) == {"purpose"}
	refused(patched("/agreement", null)) == {"agreement"}
	refused(patched("/agreement/state", "terminated")) == {"agreement"}
	refused(patched("/agreement/assignee", "youth")) == {"agreement"}
	refused(patched("/agreement/target", "clients")) == {"agreement"}
}

test_deprecated_is_shown_and_takes_no_new_agreements if {
	deprecated := json.patch(
		query,
		[
			{"op": "replace", "path": "/dataset/status", "value": "deprecated"},
			{"op": "replace", "path": "/agreement", "value": null},
			{"op": "replace", "path": "/request/format", "value": null},
		],
	)
	at_catalog := object.union(deprecated, {"stage": "catalog"})
	baseline.decision.allow with input as at_catalog
	at_negotiation := object.union(deprecated, {"stage": "negotiation"})
	"dataset_status" in refused(at_negotiation)
}

test_the_wider_purpose_of_the_dataset_covers_the_narrower if {
	d := baseline.decision with input as patched("/dataset/purposes", ["public-service-provision"])
	d.allow
}

test_an_offer_on_named_persons_needs_some if {
	asked := patched("/offer/subjects_named", true)
	baseline.decision.allow with input as asked
	named := json.patch(asked, [{"op": "replace", "path": "/request/subjects_named", "value": 2}])
	baseline.decision.allow with input as named
	nobody := json.patch(asked, [{"op": "replace", "path": "/request/subjects_named", "value": 0}])
	refused(nobody) == {"subjects_named"}
}

test_a_collaboration_is_valid_and_has_both if {
	held := {
		"id": "c",
		"purpose": "service-planning",
		"valid": true,
		"provider_is_member": true,
		"consumer_is_member": true,
	}
	asked := json.patch(patched("/offer/collaboration", "c"), [{"op": "replace", "path": "/collaboration", "value": held}])
	baseline.decision.allow with input as asked
	every member in ["valid", "provider_is_member", "consumer_is_member"] {
		path := concat("/", ["/collaboration", member])
		refused(json.patch(asked, [{"op": "replace", "path": path, "value": false}])) == {"collaboration"}
	}
	other := json.patch(asked, [{"op": "replace", "path": "/collaboration/purpose", "value": "outreach"}])
	refused(other) == {"collaboration_purpose"}
	refused(patched("/offer/collaboration", "c")) == {"collaboration", "collaboration_purpose"}
}

test_consent_is_asked_for_where_it_is_the_ground if {
	d := baseline.decision with input as patched("/dataset/disclosure_basis", "consent")
	d.consent == [{"purpose": "service-planning", "recipient": "city"}]
}

test_before_a_use_no_purpose_is_stated if {
	asked := json.patch(query, [
		{"op": "replace", "path": "/stage", "value": "catalog"},
		{"op": "replace", "path": "/request/purpose", "value": null},
		{"op": "replace", "path": "/request/purpose_tree", "value": []},
		{"op": "replace", "path": "/request/format", "value": null},
		{"op": "replace", "path": "/agreement", "value": null},
	])
	baseline.decision.allow with input as asked
	refused(object.union(asked, {"stage": "query"})) == {"agreement", "format", "purpose"}
}

test_data_that_is_not_personal_needs_no_ground if {
	asked := json.patch(query, [
		{"op": "replace", "path": "/dataset/personal_data", "value": false},
		{"op": "replace", "path": "/dataset/legal_basis", "value": null},
		{"op": "replace", "path": "/dataset/disclosure_basis", "value": null},
		{"op": "replace", "path": "/dataset/purposes", "value": []},
	])
	baseline.decision.allow with input as asked
}

test_an_empty_input_is_a_denial if {
	d := baseline.decision with input as {}
	d.allow == false
}

test_every_requirement_has_its_words if {
	every code in baseline.required {
		baseline.texts[code] with input as query
	}
}
