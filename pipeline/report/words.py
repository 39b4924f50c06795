"""How the page writes numbers, times and links, and what it says of a failure. Pure."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pipeline.console import duration
from pipeline.rows import Reason

_WEB = re.compile(r"https?://[A-Za-z0-9.\[\]-]+(?::\d+)?(?:[/?#][^\s\x00-\x1f\x7f]*)?", re.IGNORECASE)
_OBJECT = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])/(.+)")
_IMAGE_PAGE = "https://storage.cloud.google.com"  # asks the reader's browser to sign in
_UNKNOWN = "–"

ADVICE: Mapping[str, str] = {
    Reason.MISSING_KEY: "Fill the key column, or name another with --key_column.",
    Reason.MISSING_URI: "Fill the URI column, or name another with --uri_column.",
    Reason.MALFORMED_URI: "Write URIs as gs://BUCKET/OBJECT.",
    Reason.UNSUPPORTED_IMAGE_TYPE: "Leave these rows out with --where; images are .jpg, .png, .webp, .heic or .heif.",
    Reason.IMAGE_NOT_FOUND: "The object is gone or was never there: take a newer snapshot of the table.",
    Reason.IMAGE_DENIED: "Grant roles/storage.objectViewer on the bucket, then --retry_failed=all.",
    Reason.INVALID_REQUEST: "The service refuses this image: look whether it opens at all.",
    Reason.IMAGE_UNAVAILABLE: "Cloud Storage did not hand the image out: run the same command again.",
    Reason.IMAGE_EMPTY: "The object has no bytes: upload it again, then --retry_failed=all.",
    Reason.IMAGE_CORRUPT: "The image is damaged or cut off: upload it again, then --retry_failed=all.",
    Reason.IMAGE_TOO_LARGE: "Store a smaller image, or leave the row out with --where.",
    Reason.NOT_AN_IMAGE: "The object is no JPEG, PNG, WebP, HEIC or HEIF, whatever its name says.",
    Reason.UNDECODABLE_TYPE: "HEIC and HEIF are sent as they are: leave --crop_to_bbox out, or store a JPEG.",
    Reason.UNUSABLE_BBOX: "Mend the box, leave the row out with --where, or ask without --crop_to_bbox.",
    Reason.BLOCKED: "The model will not answer about this image; asking again does not help.",
    Reason.MAX_TOKENS: "Raise --max_output_tokens, or ask for less.",
    Reason.EMPTY_ANSWER: "Run the same command again.",
    Reason.INVALID_ANSWER: "Look at the text: a label may be missing in the task.",
    Reason.UNAVAILABLE: "Run the same command again.",
    Reason.TIMED_OUT: "Run the same command again; raise --request_timeout_secs if it stays.",
    Reason.RATE_LIMITED: "The quota is too small: run again at another time, or cap --requests_per_minute.",
    Reason.ROW_REJECTED: "BigQuery refused the answer; the detail says why.",
}


def count(value: Any) -> str:
    """A whole number with separators."""
    return _UNKNOWN if value is None else f"{round(value):,}"


def counted(value: int, what: str) -> str:
    """`1 attempt`, `2 attempts`."""
    return f"{value:,} {what}" + ("" if value == 1 else "s")


def plain(value: float | None) -> str:
    """A number, with three digits that say something where it is no whole one."""
    if value is None:
        return _UNKNOWN
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.3g}"


def usd(value: float | None) -> str:
    """Dollars: cents where they matter, and no fewer than two digits that say something."""
    if value is None:
        return _UNKNOWN
    if value == 0 or abs(value) >= 1:
        return f"${value:,.2f}"
    return (
        f"${value:.4f}"
        if abs(value) >= 0.001
        else f"${value:.2g}"
        if abs(value) >= 1e-4
        else f"${value:.7f}".rstrip("0")
    )


def millis(value: float | None) -> str:
    """Milliseconds, or seconds where they are many."""
    if value is None:
        return _UNKNOWN
    return f"{value:,.0f} ms" if value < 1000 else f"{value / 1000:,.1f} s"


def secs(value: float) -> str:
    """Seconds of a latency."""
    return millis(value * 1000)


def time(value: float | None) -> str:
    """How long something took, in seconds."""
    return _UNKNOWN if value is None else duration(value)


def rate(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.1f}"


def percent(value: float | None) -> str:
    """A share as per cent; what is not 0 or 1 does not look like it."""
    if value is None:
        return _UNKNOWN
    if 0 < value < 0.001:
        return "<0.1 %"
    if 0.999 < value < 1:
        return ">99.9 %"
    return f"{100 * value:.1f} %" if 0 < value < 1 else f"{100 * value:.0f} %"


def moment(value: datetime.datetime) -> str:
    return f"{value.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def interval(found: Mapping[str, Any]) -> str:
    """A share with its interval."""
    return f"{percent(found['value'])} ({bounds(found)})"


def bounds(found: Mapping[str, Any]) -> str:
    """The interval of a share."""
    low, high = found.get("low"), found.get("high")
    return "no interval" if low is None or high is None else f"{percent(low)} to {percent(high)}"


def plain_bounds(found: Mapping[str, Any]) -> str:
    """The interval of a number."""
    low, high = found.get("low"), found.get("high")
    return "no interval" if low is None or high is None else f"{plain(low)} to {plain(high)}"


def share(found: Mapping[str, Any] | None) -> str:
    """A share without its interval, for narrow tables."""
    return _UNKNOWN if found is None else percent(found["value"])


def tone(state: str) -> str:
    """The colour of a run's state."""
    return {"finished": "good", "halted": "bad", "cancelled": "warn"}.get(state, "")


def advice(reason: str) -> str:
    """What to do about a reason of failure; nothing is known of one that a newer version wrote."""
    return ADVICE.get(reason, "")


def web_url(text: Any) -> str | None:
    """The text if it is an http(s) address, else None: no other scheme may become a link."""
    return text if isinstance(text, str) and _WEB.fullmatch(text) else None


def image_url(text: Any) -> str | None:
    """Where a person with access sees the object of a gs:// URI; None for any other text."""
    found = _OBJECT.fullmatch(text) if isinstance(text, str) else None
    return f"{_IMAGE_PAGE}/{found[1]}/{quote(found[2], safe='/')}" if found else None


def value_text(value: Any) -> str | None:
    """What an answer says to one question, as one line; None for null or nothing."""
    if value is None or value == []:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return plain(value)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
