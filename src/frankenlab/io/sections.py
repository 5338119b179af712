"""Sections of a config as pydantic models: exact types, no unknown keys, no null.

A section that code lower than `frankenlab.config` reads is defined beside that code.
"""

from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A mapping of a config. The text below a key is its description in messages."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def plain(self) -> dict[str, Any]:
        """Return the section as a config spells it, with its defaults, ready for JSON or YAML."""
        return self.model_dump(mode="json", exclude_none=True)

    def changed(self, **values: Any) -> Self:
        """Return a copy in which some keys have other values, which are not checked."""
        return self.model_copy(update=values)


def _refuse_null(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("null", "null is not a value; leave the key out")
    return value


T = TypeVar("T")
# Of a key that is None where it is absent.
OptionalKey = Annotated[T | None, BeforeValidator(_refuse_null)]
