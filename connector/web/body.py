"""Request bodies of the client API: camelCase, and nothing that is not known."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Refusal(Body):
    reason: str = Field(min_length=1, max_length=500, description="Told to the other side: no personal data.")
