# METADATA
# scope: package
# description: |
#   Planning of services by a city, on a statutory basis: no consent is asked. Areas are shown as the first
#   three digits of their postal code, which is all that planning needs.
# schemas:
#   - input: schema["decision-input"]
package dataspace.policies.statutory_planning

default decision := {"allow": false, "reasons": []}

decision := {"allow": false, "reasons": reasons} if count(missing) > 0

decision := {"allow": true, "reasons": [], "column_masks": column_masks} if count(missing) == 0

required := {"consumer", "purpose"}

missing := required - checks

checks contains "consumer" if input.consumer.sector == "city"

checks contains "purpose" if "service-planning" in input.request.purpose_tree

# Before a use nobody has stated a purpose yet.
checks contains "purpose" if {
	input.request.purpose == null
	input.stage in {"catalog", "negotiation", "transfer"}
}

default column_masks := {}

column_masks := {"postal_code": {"kind": "truncate", "length": 3}} if {
	input.dataset.columns.postal_code == "string"
}

texts := {
	"consumer": "only a city plans services on this basis",
	"purpose": "this basis is for the planning of services only",
}

reasons := [{"code": code, "text": texts[code]} | some code in missing]
