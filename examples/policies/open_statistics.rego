# METADATA
# scope: package
# description: |
#   Statistics for anybody in the data space: groups of at least five persons, and never a row.
# schemas:
#   - input: schema["decision-input"]
package dataspace.policies.open_statistics

default decision := {"allow": false, "reasons": []}

decision := {"allow": false, "reasons": reasons} if count(missing) > 0

decision := {"allow": true, "reasons": [], "min_group_size": 5} if count(missing) == 0

required := {"aggregate_only", "purpose"}

missing := required - checks

checks contains "aggregate_only" if input.offer.aggregate_only == true

checks contains "purpose" if "official-statistics" in input.request.purpose_tree

checks contains "purpose" if {
	input.request.purpose == null
	input.stage in {"catalog", "negotiation", "transfer"}
}

texts := {
	"aggregate_only": "statistics come from offers that answer in groups only",
	"purpose": "this is for statistics only",
}

reasons := [{"code": code, "text": texts[code]} | some code in missing]
