# METADATA
# scope: package
# description: Planning of services. Permits what is listed in `required`, and nothing else.
package dataspace.policies.planning

default decision := {"allow": false, "reasons": []}

decision := {"allow": false, "reasons": reasons} if count(missing) > 0

decision := {"allow": true, "reasons": []} if count(missing) == 0

required := {"purpose"}

missing := required - checks

checks contains "purpose" if "service-planning" in input.request.purpose_tree

# Before a use nobody has stated a purpose yet.
checks contains "purpose" if {
	input.request.purpose == null
	input.stage in {"catalog", "negotiation", "transfer"}
}

reasons := [{"code": code, "text": "only for the planning of services"} | some code in missing]
