"""What all messages of a site are made of: closed, bounded, and without NaN or infinities."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from coinfer.errors import UserError

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)]
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e9)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Text = Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]


class MessageError(UserError):
    """A message that cannot be accepted; the message is one line for a person."""


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(extra="forbid", frozen=True)
