# METADATA
# scope: package
# description: |
#   A case worker asks about clients who agreed to it, naming them one by one. That the person who asks is a
#   case worker is the consumer's word; the consent is checked at the register, row by row or not at all.
# schemas:
#   - input: schema["decision-input"]
package dataspace.policies.case_work

default decision := {"allow": false, "reasons": []}

decision := {"allow": false, "reasons": reasons} if count(missing) > 0

decision := {
	"allow": true,
	"reasons": [],
	"consent": consent,
	"limits": {"max_rows": 1000},
} if {
	count(missing) == 0
}

required := {"consenting", "purpose", "role", "subjects_named"}

missing := required - checks

before_use := {"catalog", "negotiation", "transfer"}

checks contains "purpose" if "case-work" in input.request.purpose_tree

checks contains "purpose" if {
	input.request.purpose == null
	input.stage in before_use
}

checks contains "role" if "case_worker" in input.request.actor_roles

checks contains "role" if input.stage in before_use

checks contains "subjects_named" if input.offer.subjects_named == true

# Not counted yet (null): the consent asked for below decides, at the source.
checks contains "consenting" if input.request.subjects_consenting == null

checks contains "consenting" if {
	is_number(input.request.subjects_named)
	input.request.subjects_consenting == input.request.subjects_named
}

default consent := []

consent := [{"purpose": input.request.purpose, "recipient": input.consumer.id}] if {
	is_string(input.request.purpose)
}

texts := {
	"consenting": "a person named has given no valid consent to this purpose and recipient",
	"purpose": "this is for case work with a client only",
	"role": "only a case worker may ask about a client",
	"subjects_named": "the offer does not ask that persons are named one by one",
}

reasons := [{"code": code, "text": texts[code]} | some code in missing]
