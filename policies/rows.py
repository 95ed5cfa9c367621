"""What the lines of a run directory's files are made of."""

from pydantic import BaseModel, ConfigDict


class Row(BaseModel):
    # NaN is an answer ("the KL is no number"), and it must arrive at the gate as one.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Turn(Row):
    role: str
    content: str
