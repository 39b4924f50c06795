"""What the Vertex AI stand-in does with a request, whichever way it came in; made to cost little CPU a call."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import random
import sys
import time
import types
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from pipeline.local.pictures.pixels import look
from pipeline.local.pictures.seen import Seen
from pipeline.local.vertex import refusals, replies
from pipeline.local.vertex.calls import GONE, Call, Calls
from pipeline.local.vertex.faults import ANSWER_FAULTS, CALL_FAULTS, Quota, Settings
from pipeline.local.vertex.refusals import Refused
from pipeline.local.vertex.request import MAX_FILE_BYTES, Asked, Image, Reader, object_path

_TOKEN_PREFIX: Final = "stand-in"  # noqa: S105 - it says what the tokens are
_KEPT_IMAGES: Final = 50_000
_KEPT_REPLIES: Final = 4096
_FOREVER_SECS: Final = 1e9


def load_messages() -> tuple[Any, Any]:
    """The plain protobuf classes of request and response.

    The client package imports all of Vertex AI's services, which takes seconds; only two of its modules are needed, so
    in a process that has not imported it yet its `__init__` files are passed over. For the stand-in's own process only.
    """
    name = "google.cloud.aiplatform_v1"
    if name not in sys.modules:
        import google.cloud

        root = next(path for path in map(Path, google.cloud.__path__) if (path / "aiplatform_v1").is_dir())
        for module, folder in ((name, root / "aiplatform_v1"), (f"{name}.types", root / "aiplatform_v1" / "types")):
            package = types.ModuleType(module)
            package.__path__ = [str(folder)]
            sys.modules[module] = package
    from google.cloud.aiplatform_v1.types import prediction_service

    return prediction_service.GenerateContentRequest.pb(), prediction_service.GenerateContentResponse.pb()


class StandIn:
    """What the stand-in does with a request, whichever way it came in.

    Args:
        bucket_root: Folder with a folder for each bucket, in which `gs://bucket/object` is the file `object`.
        settings: To begin with.
    """

    def __init__(self, bucket_root: Path, settings: Settings) -> None:
        self.request_class, self.response_class = load_messages()
        self.calls = Calls()
        self.last_request: Any = None
        self._root = bucket_root
        self._reader = Reader()
        self._eyes = ThreadPoolExecutor(1, thread_name_prefix="pixels")
        self._seen: dict[tuple[Any, ...], Seen] = {}
        self._fixed: dict[tuple[Any, ...], tuple[bytes, int, str]] = {}
        self._paused: tuple[str, float] = ("", 0.0)
        self._token_epoch = 0
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Takes other settings; quotas, the dice and the kept answers start anew."""
        self.settings = settings
        now = time.monotonic()
        burst = settings.burst_secs
        self._requests = Quota(settings.requests_per_sec, burst, now) if settings.requests_per_sec else None
        self._tokens = Quota(settings.tokens_per_min / 60, burst, now) if settings.tokens_per_min else None
        self._rng = random.Random(20261123)
        self._fixed.clear()

    def pause(self, kind: str, secs: float) -> None:
        """Answers every call with the error `kind` for so many seconds."""
        self._paused = (kind, time.monotonic() + secs)

    def issue_token(self) -> tuple[str, float]:
        """A new access token and its lifetime in seconds."""
        lifetime = self.settings.token_lifetime_secs
        return f"{_TOKEN_PREFIX}.{self._token_epoch}.{time.time() + lifetime:.3f}", lifetime

    def revoke_tokens(self) -> None:
        """Refuses all tokens issued so far."""
        self._token_epoch += 1

    async def generate(self, raw: Any, headers: Mapping[str, str], peer: str, *, routed: bool = True) -> bytes:
        """A serialised GenerateContentResponse for a request, serialised or as a message.

        Raises:
            Refused: The error to answer with.
            ConnectionAbortedError: The connection is to be closed without an answer.
        """
        call = self.calls.begin(peer)
        status = "UNKNOWN"  # what gRPC makes of a bug in here
        try:
            answer = await self._answer(raw, headers, call, routed)
            status = "OK"
            return answer
        except Refused as refused:
            status = refused.status
            raise
        except (asyncio.CancelledError, ConnectionAbortedError):
            status = GONE
            raise
        finally:
            self.calls.end(call, status, keep=self.settings.keep_log)

    async def _answer(self, raw: Any, headers: Mapping[str, str], call: Call, routed: bool) -> bytes:
        settings = self.settings
        if settings.check_tokens:
            self._check_token(headers)
        request = self._parse(raw)
        self.last_request = request
        asked = self._reader.read(request, headers, settings, routed=routed)
        self.calls.models[asked.model_name] += 1
        self.calls.traffic_types[asked.traffic_type] += 1
        if "x-goog-user-project" in headers:
            self.calls.user_projects[headers["x-goog-user-project"]] += 1
        uris = [image.uri for image in asked.images if image.uri]
        turns = self.calls.name(call, uris)
        self._check_run(asked, call, uris)
        faults = self._faults(asked, uris, turns)
        await self._strike(faults, asked, call)
        latency = settings.latency(self._rng)
        if settings.answers == "fixed" and not any(faults):
            if latency:
                await asyncio.sleep(latency)
            return self._fixed_reply(asked, call)
        started = time.monotonic()
        seen = [Seen(kind="other")] * len(asked.images)
        if settings.answers == "pixels":
            seen = [await self._see(image) for image in asked.images]
            for image in asked.examples:
                await self._see(image)
        left = latency - (time.monotonic() - started)
        if left > 0:
            await asyncio.sleep(left)
        reply = replies.response(self.response_class, asked, seen, settings=settings, faults=faults, number=call.number)
        return self._sent(reply, call)

    def _parse(self, raw: Any) -> Any:
        if not isinstance(raw, bytes):
            return raw
        from google.protobuf.message import DecodeError

        try:
            return self.request_class.FromString(raw)
        except DecodeError as error:
            raise Refused("INTERNAL", "Failed to parse the request: it is no GenerateContentRequest.") from error

    def _check_token(self, headers: Mapping[str, str]) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not token or scheme.lower() != "bearer":
            raise refusals.no_credentials()
        prefix, _, rest = token.partition(".")
        epoch, _, expires_at = rest.partition(".")
        with contextlib.suppress(ValueError):
            if prefix == _TOKEN_PREFIX and int(epoch) == self._token_epoch and float(expires_at) > time.time():
                return
        raise refusals.token_expired()

    def _check_run(self, asked: Asked, call: Call, uris: Sequence[str]) -> None:
        """What strikes any call, whatever it asks: run faults, a pause, the quotas."""
        settings, now = self.settings, time.monotonic()
        if settings.run_fault and call.number >= settings.run_fault_from_call:
            raise self._refusal(settings.run_fault, asked, uris)
        kind, until = self._paused
        if now < until:
            raise self._refusal(kind, asked, uris)
        if self._requests and not self._requests.take(1, now):
            raise refusals.exhausted(settings.retry_info_secs)
        if self._tokens and not self._tokens.take(asked.prompt_tokens + asked.config.thoughts_tokens + 64, now):
            raise refusals.exhausted(settings.retry_info_secs)

    def _faults(self, asked: Asked, uris: Sequence[str], turns: Sequence[int]) -> list[str | None]:
        """For each image its fault; one that strikes by chance is the first image's."""
        faults: list[str | None] = [None] * len(asked.images)
        if self.settings.faults:
            places = [place for place, image in enumerate(asked.images) if image.uri]
            for place, uri, turn in zip(places, uris, turns, strict=True):
                faults[place] = next((each.kind for each in self.settings.faults if each.hits(uri, turn)), None)
        chance = self.settings.at_random(self._rng)
        if chance and not any(faults):
            faults[:1] = [chance]
        return faults

    async def _strike(self, faults: Sequence[str | None], asked: Asked, call: Call) -> None:
        """Counts the faults of a call and does those that are no answer."""
        for place, fault in enumerate(faults):
            if not fault:
                continue
            word, _, value = fault.partition(":")
            self.calls.faults[word] += 1
            if word in ANSWER_FAULTS:
                continue
            if word not in CALL_FAULTS:
                raise self._refusal(fault, asked, [asked.images[place].uri] if asked.images else [])
            if word == "reset":
                raise ConnectionAbortedError(call.peer)
            await asyncio.sleep(float(value) if value else _FOREVER_SECS)

    def _refusal(self, kind: str, asked: Asked, uris: Sequence[str]) -> Refused:
        retry = self.settings.retry_info_secs
        uri = uris[0] if uris else ""
        return refusals.by_kind(kind, model=asked.model, project=asked.project, uri=uri, retry_delay_secs=retry)

    async def _see(self, image: Image) -> Seen:
        """What an image shows; looked at once.

        Raises:
            Refused: It is not there, too large, or no image.
        """
        key: tuple[Any, ...]
        path = None
        if image.uri:
            bucket, name = object_path(image.uri) or ("", "")
            path = self._root / bucket / name
            inside = ".." not in path.parts and "\0" not in name
            try:
                found = path.stat() if inside else None
            except OSError:
                found = None
            if found is None or not path.is_file():
                raise refusals.image_not_found(image.uri)
            if found.st_size > MAX_FILE_BYTES:
                raise refusals.invalid(f"{image.uri} has {found.st_size} bytes; the maximum is {MAX_FILE_BYTES}.")
            key = (image.uri, found.st_mtime_ns, found.st_size)
        else:
            key = (hashlib.blake2b(image.data, digest_size=16).digest(),)
        seen = self._seen.get(key)
        if seen is None:
            data = path.read_bytes() if path else image.data
            try:
                seen = await asyncio.get_running_loop().run_in_executor(self._eyes, look, data)
            except ValueError as error:
                raise refusals.image_invalid() from error
            if len(self._seen) >= _KEPT_IMAGES:
                self._seen.clear()
            self._seen[key] = seen
        return seen

    def _fixed_reply(self, asked: Asked, call: Call) -> bytes:
        """The same answer for all images, serialised once for each form that requests have."""
        captions = tuple(image.caption for image in asked.images) if len(asked.images) > 1 else ()
        config = asked.config
        key = (asked.model_name, config.raw, asked.text_tokens, asked.image_tokens, captions, asked.traffic_type)
        kept = self._fixed.get(key)
        if kept is None:
            plain = dataclasses.replace(self.settings, noise=0.0)
            seen = [Seen(kind="other")] * len(asked.images)
            reply = replies.response(
                self.response_class, asked, seen, settings=plain, faults=[None] * len(seen), number=0
            )
            if len(self._fixed) >= _KEPT_REPLIES:
                self._fixed.clear()
            kept = (reply.SerializeToString(), reply.usage_metadata.candidates_token_count, _finish(reply))
            self._fixed[key] = kept
        raw, output_tokens, call.finish = kept
        self.calls.count_tokens(call, prompt=asked.prompt_tokens, output=output_tokens, thoughts=config.thoughts_tokens)
        return raw

    def _sent(self, reply: Any, call: Call) -> bytes:
        usage = reply.usage_metadata
        self.calls.count_tokens(
            call,
            prompt=usage.prompt_token_count,
            output=usage.candidates_token_count,
            thoughts=usage.thoughts_token_count,
        )
        call.finish = _finish(reply)
        raw: bytes = reply.SerializeToString()
        return raw


def _finish(reply: Any) -> str:
    """Finish reason or BLOCKED_ and block reason by name; empty where there is neither."""
    if reply.prompt_feedback.block_reason:
        message, field, prefix = reply.prompt_feedback, "block_reason", "BLOCKED_"
    elif reply.candidates:
        message, field, prefix = reply.candidates[0], "finish_reason", ""
    else:
        return ""
    number = getattr(message, field)
    value = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number.get(number)
    return f"{prefix}{value.name if value else number}"
