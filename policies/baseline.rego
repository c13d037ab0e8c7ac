# METADATA
# scope: package
# description: |
#   What holds for every dataset, whatever its offers and the operator's own policies say. An allow-list:
#   each requirement is a check that has to be proved, and one that cannot be is a reason to refuse.
# schemas:
#   - input: schema["decision-input"]
package dataspace.baseline

default decision := {
	"allow": false,
	"reasons": [{"code": "baseline_undecided", "text": "the baseline policy could not be evaluated"}],
}

decision := {"allow": false, "reasons": reasons} if count(missing) > 0

decision := {"allow": true, "reasons": [], "consent": consent} if count(missing) == 0

# Written out, not derived: an expression that fails would make it smaller, and the policy wider.
required := {
	"participant_active",
	"dataset_status",
	"format",
	"legal_basis",
	"disclosure_basis",
	"purpose",
	"agreement",
	"subjects_named",
	"collaboration",
	"collaboration_purpose",
}

missing := required - checks

# --- who, and what is asked for ---

checks contains "participant_active" if input.consumer.status == "active"

checks contains "dataset_status" if input.dataset.status == "active"

# Deprecated: shown, agreements that exist go on, no new ones are made.
checks contains "dataset_status" if {
	input.dataset.status == "deprecated"
	input.stage in {"catalog", "transfer", "query", "event"}
}

checks contains "format" if {
	input.request.format == null
	input.stage in {"catalog", "negotiation"}
}

checks contains "format" if input.request.format in input.dataset.formats

# --- personal data: purposes, legal basis, ground for disclosure ---

checks contains "legal_basis" if input.dataset.personal_data == false

checks contains "legal_basis" if {
	input.dataset.personal_data == true
	is_string(input.dataset.legal_basis)
	input.dataset.legal_basis != ""
}

checks contains "disclosure_basis" if input.dataset.personal_data == false

checks contains "disclosure_basis" if {
	input.dataset.personal_data == true
	is_string(input.dataset.disclosure_basis)
	input.dataset.disclosure_basis != ""
}

checks contains "purpose" if {
	input.request.purpose == null
	input.stage in {"catalog", "negotiation", "transfer"}
}

checks contains "purpose" if {
	is_array(input.request.purpose_tree)
	some purpose in input.request.purpose_tree
	purpose in input.dataset.purposes
}

checks contains "purpose" if {
	input.dataset.personal_data == false
	count(input.dataset.purposes) == 0
	is_string(input.request.purpose)
}

consent_asked if {
	input.dataset.personal_data == true
	input.dataset.disclosure_basis == "consent"
}

default consent := []

consent := [{"purpose": input.request.purpose, "recipient": input.consumer.id}] if {
	consent_asked
	is_string(input.request.purpose)
}

# --- the agreement ---

checks contains "agreement" if input.stage in {"catalog", "negotiation"}

checks contains "agreement" if {
	is_string(input.agreement.id)
	input.agreement.state == "active"
	input.agreement.assignee == input.consumer.id
	input.agreement.assigner == input.participant
	input.agreement.target == input.dataset.id
}

# --- subjects named one by one: not counted yet (null), it is the permit that asks for them ---

checks contains "subjects_named" if input.offer.subjects_named == false

checks contains "subjects_named" if input.request.subjects_named == null

checks contains "subjects_named" if {
	is_number(input.request.subjects_named)
	input.request.subjects_named > 0
}

# --- the collaboration: a pseudonym domain with members and one purpose ---

checks contains "collaboration" if input.offer.collaboration == null

checks contains "collaboration" if {
	is_string(input.offer.collaboration)
	input.collaboration.id == input.offer.collaboration
	input.collaboration.valid == true
	input.collaboration.provider_is_member == true
	input.collaboration.consumer_is_member == true
}

checks contains "collaboration_purpose" if input.offer.collaboration == null

checks contains "collaboration_purpose" if input.stage in {"catalog", "negotiation", "transfer"}

checks contains "collaboration_purpose" if {
	is_string(input.collaboration.purpose)
	input.collaboration.purpose in input.request.purpose_tree
}

# --- reasons, for people ---

reasons := [{"code": code, "text": texts[code]} | some code in missing]

default purpose_stated := "no purpose is stated"

purpose_stated := concat("", ["purpose '", input.request.purpose, "'"]) if is_string(input.request.purpose)

default purposes := "none"

purposes := concat(", ", input.dataset.purposes) if count(input.dataset.purposes) > 0

texts := {
	"participant_active": "the consumer is not an active participant of the data space",
	"dataset_status": "the dataset is not open for this",
	"format": "the dataset cannot be had in the format asked for",
	"legal_basis": "the dataset holds personal data and names no legal basis",
	"disclosure_basis": "the dataset holds personal data and names no ground for disclosing it",
	"purpose": concat("", [purpose_stated, "; the purposes of the dataset are: ", purposes]),
	"agreement": "there is no agreement in force between the two participants on this dataset",
	"subjects_named": "the agreement is on persons named one by one, and the request names nobody",
	"collaboration": "the collaboration of the offer is over, or one of the two participants is not in it",
	"collaboration_purpose": concat("", [purpose_stated, ", which is not the purpose of the collaboration"]),
}
