"""Many valid dataset descriptors over one small source file, for tests and benchmarks of a large catalogue.

python -m tests.many FOLDER COUNT
"""

from __future__ import annotations

import sys
from pathlib import Path

THEMES = ("SOCI", "EDUC", "ECON", "TRAN", "HEAL")
TOPICS = ("traffic", "libraries", "schools", "energy", "housing", "sports", "parks")
SOURCE = "data/many.csv"

_DESCRIPTOR = """\
apiVersion: v3.2.0
kind: DataContract
id: urn:many:{number:05d}
name: {name}
version: 1.0.0
status: active
description:
  purpose: Counts of {topic} by area, number {number}.

schema:
  - name: many
    physicalType: file
    properties:
      - {{name: area, logicalType: string, physicalType: VARCHAR, required: true, description: Postal code}}
      - {{name: count, logicalType: integer, physicalType: INTEGER, description: How many}}

customProperties:
  - property: dataspace
    value:
      title:
        fi: Luvut {topic} {number}
        sv: Siffror {topic} {number}
        en: Counts of {topic} {number}
      accessRights: {rights}
      themes: [{theme}]
      keywords: [counts, {topic}]
      gdpr: {{personalData: false}}
      source: {{kind: csv, location: {source}}}
      offers:
        - id: open
          termsVersion: "1.0"
          approval: automatic
          columns: {{area: clear, count: clear}}
          permission:
            - action: use
              constraint:
                - {{leftOperand: "dsc:membership", operator: eq, rightOperand: active}}
"""


def dataset_id(number: int) -> str:
    return f"many_{number:05d}"


def descriptor(number: int) -> str:
    """The `number`th descriptor: every other one is PUBLIC, themes and topics go round."""
    return _DESCRIPTOR.format(
        number=number,
        name=dataset_id(number),
        topic=TOPICS[number % len(TOPICS)],
        theme=THEMES[number % len(THEMES)],
        rights="PUBLIC" if number % 2 == 0 else "RESTRICTED",
        source=SOURCE,
    )


def write_many(folder: Path, count: int) -> None:
    """`count` descriptors in `folder`/catalog and their source in `folder`/data: a participant's folder."""
    catalog, source = folder / "catalog", folder / SOURCE
    catalog.mkdir(parents=True, exist_ok=True)
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("area,count\n00100,1\n00200,2\n", encoding="utf-8")
    for number in range(count):
        (catalog / f"{dataset_id(number)}.odcs.yaml").write_text(descriptor(number), encoding="utf-8")


if __name__ == "__main__":
    write_many(Path(sys.argv[1]), int(sys.argv[2]))
