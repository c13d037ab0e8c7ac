# METADATA
# scope: package
# description: |
#   One evaluator for every offer and agreement: `input.policy` is the compiled ODRL, `input.facts` what
#   its constraints are held against (null: not known). A permission permits when all its constraints
#   hold; what the permissions that hold ask for adds up to the strictest.
# schemas:
#   - input: schema["decision-input"]
package dataspace.odrl

import future.keywords.not

default decision := {
	"allow": false,
	"reasons": [{"code": "odrl_undecided", "text": "the policy of the offer or agreement could not be evaluated"}],
}

decision := {"allow": false, "reasons": reasons} if count(reasons) > 0

decision := {
	"allow": true,
	"reasons": [],
	"consent": consent,
	"min_group_size": max([p.min_group_size | some p in holding]),
	"limits": limits,
	"duties": duties,
	"expires_at": expires_at,
} if {
	count(reasons) == 0
	count(holding) > 0
	count(required - checks) == 0
}

required := {"action", "permission", "prohibition", "consent_purpose", "whole"}

checks contains "whole" if {
	is_array(input.policy.duties)
	is_array(input.policy.prohibitions)
	is_boolean(input.policy.consent)
}

checks contains "action" if count(acting) > 0

checks contains "permission" if count(holding) > 0

checks contains "prohibition" if not input.request.action in input.policy.prohibitions

# Consent is given to a purpose: without a stated one there is nobody whose rows may leave.
checks contains "consent_purpose" if not consent_asked

checks contains "consent_purpose" if input.stage in before_use

checks contains "consent_purpose" if is_string(input.request.purpose)

before_use := {"catalog", "negotiation", "transfer"}

# --- permissions ---

covered_by_use := {"use", "query", "subscribe"}

acting := [p |
	is_array(input.policy.permissions)
	some p in input.policy.permissions
	whole(p)
	p.action == "use"
	input.request.action in covered_by_use
]

# What cannot be read whole does not permit: a list that is none would lose what it asks for.
whole(p) if {
	is_array(p.constraints)
	is_array(p.atoms)
	is_array(p.duties)
	is_boolean(p.consent)
	is_number(p.min_group_size)
}

holding := [p |
	some p in acting
	every c in p.constraints { holds(c) }
]

# --- constraints: `and` and `or` two levels deep, written out because Rego has no recursion ---

holds(c) if holds_inner(c)

holds(c) if {
	c.kind == "and"
	is_array(c.members)
	count(c.members) > 0
	every m in c.members { holds_inner(m) }
}

holds(c) if {
	c.kind == "or"
	is_array(c.members)
	some m in c.members
	holds_inner(m)
}

holds_inner(c) if holds_atom(c)

holds_inner(c) if {
	c.kind == "and"
	is_array(c.members)
	count(c.members) > 0
	every m in c.members { holds_atom(m) }
}

holds_inner(c) if {
	c.kind == "or"
	is_array(c.members)
	some m in c.members
	holds_atom(m)
}

holds_atom(c) if {
	c.kind == "atom"
	input.facts[c.fact] == null
	input.stage in c.later
}

holds_atom(c) if {
	c.kind == "atom"
	suits(c.test, input.facts[c.fact], c.value)
}

suits("any_of", fact, value) if {
	is_array(fact)
	is_array(value)
	some v in fact
	v in value
}

suits("none_of", fact, value) if {
	is_array(fact)
	is_array(value)
	count(fact) > 0
	every v in fact { not v in value }
}

suits("lt", fact, value) if {
	is_number(fact)
	fact < value
}

suits("lteq", fact, value) if {
	is_number(fact)
	fact <= value
}

suits("gt", fact, value) if {
	is_number(fact)
	fact > value
}

suits("gteq", fact, value) if {
	is_number(fact)
	fact >= value
}

# --- what the holding permissions ask for, added up ---

default consent_asked := false

consent_asked if input.policy.consent == true

consent_asked if {
	some p in holding
	p.consent == true
}

default consent := []

consent := [{"purpose": input.request.purpose, "recipient": input.consumer.id}] if {
	consent_asked
	is_string(input.request.purpose)
}

limits := {"max_queries_per_day": least([p.max_queries_per_day | some p in holding])}

expires_at := least([p.expires_at | some p in holding])

duties := array.concat([d | some p in holding; some d in p.duties], input.policy.duties)

# The least of the numbers; null where none is one.
least(values) := min(numbers) if {
	numbers := [v | some v in values; is_number(v)]
	count(numbers) > 0
}

least(values) := null if count([v | some v in values; is_number(v)]) == 0

# --- reasons, for people ---

reasons := [r | some r in reason_set]

reason_set contains {
	"code": "action_not_permitted",
	"text": concat("", ["no permission is for the action '", input.request.action, "'"]),
} if {
	count(acting) == 0
	is_string(input.request.action)
}

reason_set contains {
	"code": "prohibited",
	"text": concat("", ["the action '", input.request.action, "' is prohibited"]),
} if input.request.action in input.policy.prohibitions

reason_set contains {"code": concat("", ["constraint:", c.name]), "text": text(c)} if {
	count(holding) == 0
	some p in acting
	some c in p.atoms
	not holds_atom(c)
}

reason_set contains {
	"code": "consent_purpose",
	"text": "persons consent to a purpose, and no purpose is stated",
} if not "consent_purpose" in checks

text(c) := c.missing if input.facts[c.fact] == null

text(c) := replace(c.refusal, "<fact>", input.shown[c.fact]) if input.facts[c.fact] != null
