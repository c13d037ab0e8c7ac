"""What is refused before anybody is asked, with a reason a person can act on.

Only for the asker's sake: the provider enforces all of it again, and a name that slips through here
meets the same refusal there or an unknown column in the join engine.
"""

from __future__ import annotations

from sqlglot import exp

from connector.access import pseudonym
from connector.errors import NotPermitted, Reason
from connector.query.conditions import Conditions, NoLiteral, bare
from connector.query.description import Column
from connector.query.parse import Value
from connector.query.scope import Occurrence, Scopes

_COMPARING = (
    exp.EQ,
    exp.NEQ,
    exp.LT,
    exp.LTE,
    exp.GT,
    exp.GTE,
    exp.NullSafeEQ,
    exp.NullSafeNEQ,
    exp.Like,
    exp.ILike,
    exp.SimilarTo,
    exp.RegexpLike,
    exp.Glob,
    exp.In,
    exp.Between,
)


def refuse_hidden_columns(tree: exp.Query, scopes: Scopes) -> None:
    """Raises NotPermitted for a column that no dataset of the statement shows.

    Hidden and non-existent get one text: this side does not know which it is.
    """
    known = _known_names(tree, scopes)
    for column in tree.find_all(exp.Column):
        if isinstance(column.this, exp.Star):
            continue
        if column.table:
            occurrence = scopes.misnamed(column)
            if occurrence is not None:
                raise _hidden(column.name, [occurrence])
        elif known is not None and column.name.casefold() not in known:
            raise _hidden(column.name, scopes.occurrences)


def refuse_identifiers_beside_pseudonyms(tree: exp.Query, scopes: Scopes, conditions: Conditions) -> None:
    """Raises NotPermitted where a literal that is no pseudonym is compared with one.

    It could never match; asking would only carry a personal id, perhaps, towards the provider.
    """
    for node in tree.find_all(*_COMPARING):
        for column_node, others in _sides(node):
            occurrence = scopes.owner(column_node)
            column = occurrence.column(column_node.name) if occurrence is not None else None
            if occurrence is None or column is None or column.comparable:
                continue
            for other in others:
                _require_pseudonym(node, other, column, occurrence, conditions)


def _require_pseudonym(
    node: exp.Expr, other: exp.Expr, column: Column, occurrence: Occurrence, conditions: Conditions
) -> None:
    try:
        value = conditions.literal(other)
    except NoLiteral:
        return  # a column or an expression: joins on pseudonyms are what they are for
    if isinstance(node, exp.EQ | exp.NEQ | exp.In | exp.NullSafeEQ | exp.NullSafeNEQ) and _stands_for_one(
        value, column
    ):
        return
    what = "a pseudonym" if column.exposure == "pseudonym" else "a keyed hash"
    shown = f"{occurrence.name}.{column.name}"
    within = f" of {occurrence.description.collaboration}" if occurrence.description.collaboration else ""
    reason = Reason(
        code="raw_identifier",
        text=f"{shown} leaves {occurrence.name.participant} only as {what}{within}: "
        "a personal identifier, or any other value, never equals it.",
        source=occurrence.name.participant,
    )
    mend = (
        f"Join, group or count by {column.name}, or compare it by = or IN with {what} of an earlier answer."
    )
    raise NotPermitted([reason], mend=mend)


def _stands_for_one(value: Value, column: Column) -> bool:
    if value is None:
        return True
    if column.exposure == "pseudonym":
        return isinstance(value, str) and pseudonym.is_pseudonym(value)
    return isinstance(value, str) and value.startswith(pseudonym.HASHED)


def _sides(node: exp.Expr) -> list[tuple[exp.Column, list[exp.Expr]]]:
    """Each column of a comparison with what it is compared with."""
    if isinstance(node, exp.Between):
        pairs = [(node.this, [node.args["low"], node.args["high"]])]
    elif isinstance(node, exp.In):
        pairs = [(node.this, node.expressions)]
    else:
        pairs = [(node.this, [node.expression]), (node.expression, [node.this])]
    named = ((bare(side), others) for side, others in pairs)
    return [(side, others) for side, others in named if isinstance(side, exp.Column)]


def _known_names(tree: exp.Query, scopes: Scopes) -> set[str] | None:
    """Every name an unqualified column can have; None where the statement itself makes nameless ones."""
    if any(tree.find_all(exp.Values, exp.Columns)) or any(o.renamed for o in scopes.occurrences):
        return None
    names = {name.casefold() for o in scopes.occurrences for name in (*o.description.columns, *o.names)}
    for identifier in tree.find_all(exp.Identifier):
        parent = identifier.parent
        if not isinstance(parent, exp.Column | exp.Table):  # aliases, CTE columns, lambda parameters, fields
            names.add(identifier.name.casefold())
    # unnamed outputs are named by their text, which is no plain name
    return names | {
        c.name.casefold() for c in tree.find_all(exp.Column) if not c.name.replace("_", "a").isalnum()
    }


def _hidden(name: str, asked: list[Occurrence]) -> NotPermitted:
    reasons = []
    for occurrence in {o.name: o for o in asked}.values():
        description = occurrence.description
        reasons.append(
            Reason(
                code="column_not_exposed",
                text=f"{occurrence.name} shows no column {name!r} for {description.purpose} "
                f"under agreement {description.agreement}; it shows {', '.join(description.columns)}.",
                source=occurrence.name.participant,
            )
        )
    return NotPermitted(reasons, mend="Use the columns shown, or negotiate an agreement that opens more.")
