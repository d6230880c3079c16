"""What FlexPrice's clients ask for, in the names of their requests.

Fields that are not known are refused, as they are of events: mostly they are misspelt ones.
Texts that are empty count as left out, since some clients send all fields.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from service.reader import MOST_TEXT


def _given(value: object) -> object:
    return None if value == "" else value


Text = Annotated[str | None, Field(max_length=MOST_TEXT), BeforeValidator(_given)]
Time = Annotated[str | None, Field(max_length=64), BeforeValidator(_given)]
Values = Annotated[
    dict[Annotated[str, Field(max_length=MOST_TEXT)], list[Annotated[str, Field(max_length=1024)]]],
    Field(max_length=20),
]
Window = Literal["HOUR", "3HOUR", "6HOUR", "12HOUR", "DAY", "WEEK", "MONTH"]
WindowSize = Annotated[Window | None, BeforeValidator(_given)]
BucketSize = Annotated[Literal["HOUR", "DAY"] | None, BeforeValidator(_given)]
Aggregation = Literal[
    "COUNT",
    "SUM",
    "AVG",
    "COUNT_UNIQUE",
    "LATEST",
    "SUM_WITH_MULTIPLIER",
    "MAX",
    "MIN",
    "WEIGHTED_SUM",
]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    external_customer_id: Text = None
    start_time: Time = None
    end_time: Time = None


class EventsQuery(_Asked):
    """Which stored events, and which page of them."""

    event_id: Text = None
    event_name: Text = None
    source: Text = None
    property_filters: Values = Field(default_factory=dict)
    iter_first_key: Text = None
    iter_last_key: Text = None
    offset: Annotated[int, Field(ge=0, le=10_000)] = 0
    page_size: Annotated[int, Field(ge=0, le=1000)] = 50
    sort: Literal["timestamp", "event_name"] = "timestamp"
    order: Literal["asc", "desc"] = "desc"


class _Usage(_Asked):
    customer_id: Text = None
    filters: Values = Field(default_factory=dict)
    window_size: WindowSize = None
    bucket_size: BucketSize = None
    billing_anchor: Time = None
    timezone: Text = None


class MeterUsage(_Usage):
    """Usage of one meter of the catalog."""

    meter_id: Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]


class EventUsage(_Usage):
    """Usage of the meter that counts these events in this way."""

    event_name: Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]
    aggregation_type: Aggregation
    property_name: Text = None
    multiplier: Text = None
    group_by: Annotated[list[str], Field(max_length=8)] = Field(default_factory=list)
    group_by_property: Text = None


class Analytics(_Asked):
    """Usage of one customer by meter, with what it costs."""

    feature_ids: Annotated[list[str], Field(max_length=1000)] = Field(default_factory=list)
    sources: list[str] = Field(default_factory=list)
    group_by: Annotated[list[str], Field(max_length=8)] = Field(default_factory=list)
    window_size: WindowSize = None
    property_filters: Values = Field(default_factory=dict)
    expand: list[str] = Field(default_factory=list)
    include_children: bool = False
    breakdown_bucket: bool = False


class UsageResult(BaseModel):
    """The usage of a window, which begins at `window_size`."""

    window_size: str
    value: float


class UsageAnswer(BaseModel):
    """The usage of the whole span, and of its windows."""

    event_name: str
    type: str
    value: float
    results: list[UsageResult]
