# METADATA
# scope: package
# description: |
#   Outreach youth work learns of young people who said yes to being contacted, and of nobody else.
# schemas:
#   - input: schema["decision-input"]
package dataspace.policies.outreach

default decision := {"allow": false, "reasons": []}

decision := {"allow": false, "reasons": reasons} if count(missing) > 0

decision := {
	"allow": true,
	"reasons": [],
	"consent": consent,
	"duties": [{"action": "delete", "within_seconds": 7776000}],
} if {
	count(missing) == 0
}

required := {"consumer", "purpose"}

missing := required - checks

checks contains "consumer" if input.consumer.sector == "youth"

checks contains "purpose" if "outreach" in input.request.purpose_tree

checks contains "purpose" if {
	input.request.purpose == null
	input.stage in {"catalog", "negotiation", "transfer"}
}

default consent := []

consent := [{"purpose": input.request.purpose, "recipient": input.consumer.id}] if {
	is_string(input.request.purpose)
}

texts := {
	"consumer": "only outreach youth work contacts young people on this basis",
	"purpose": "this is for outreach to young people only",
}

reasons := [{"code": code, "text": texts[code]} | some code in missing]
