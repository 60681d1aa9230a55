"""What all tables of a stage's file have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the file: unknown fields are mistakes, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
