"""Types of fields in a request's JSON, with one way to say what a field may be."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from higgs_patches.lib.errors import RefusedError, shown


def expected(what: str) -> WrapValidator:
    """Return a validator that says what a field may be, whatever is wrong with its value."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise RefusedError(f"is {shown(value)}; expected {what}") from None

    return WrapValidator(check)


def number(low: float, high: float) -> WrapValidator:
    """Return a validator of a number from `low` to `high`."""
    return _bounded("a number", low, high)


def whole_number(low: int, high: int) -> WrapValidator:
    """Return a validator of a whole number from `low` to `high`."""
    return _bounded("a whole number", low, high)


def _bounded(kind: str, low: float, high: float) -> WrapValidator:
    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        # pydantic would turn texts and truth values into numbers
        if not isinstance(value, bool) and isinstance(value, int | float):
            try:
                checked = handler(value)
                if low <= checked <= high:
                    return checked
            except ValidationError:
                pass
        limits = f"{low:g} to {high:g}" if isinstance(low, float) else f"{low} to {high}"
        raise RefusedError(f"is {shown(value)}; expected {kind} from {limits}")

    return WrapValidator(check)


def voice_name(value: Any) -> Any:
    """Take the name out of OpenAI's newer form of `voice`, {"id": "..."}."""
    return value["id"] if isinstance(value, dict) and "id" in value else value


Flag = Annotated[bool, Field(strict=True), expected("true or false")]
Text = Annotated[str | None, expected("a text")]


class RequestFields(BaseModel):
    """An object in a request: a null is the same as nothing, an unknown field is ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if isinstance(data, cls):
            return data
        if not isinstance(data, dict):
            raise RefusedError(f"is {shown(data)}; expected an object")
        return {name: value for name, value in data.items() if value is not None}
