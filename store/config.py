"""`[store]`: where state lives."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class StoreConfig(BaseModel):
    """`[store]`: where state lives."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    directory: Path = Field(default=Path("var"))
    """State directory: database, models, run directories with their adapters. One service at a time holds it."""
