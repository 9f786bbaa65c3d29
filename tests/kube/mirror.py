"""A local copy of one resource, by list and watch over plain HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp

Json = dict[str, Any]
Key = tuple[str, str]


def key_of(obj: Json) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


class Mirror:
    """Objects of a resource kept current; `on_change(old, new)` is called for each change."""

    def __init__(
        self, session: aiohttp.ClientSession, path: str, on_change: Callable[[Json | None, Json | None], None]
    ) -> None:
        self._session = session
        self._path = path
        self._on_change = on_change
        self.objects: dict[Key, Json] = {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Lists and watches until cancelled; a broken connection is a reason to begin again."""
        while True:
            try:
                version = await self._list()
                self.synced.set()
                while version:
                    version = await self._watch(version)
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.05)

    def put(self, obj: Json) -> None:
        """Takes a version of an object in, unless a newer one is there."""
        key = key_of(obj)
        old = self.objects.get(key)
        if old is not None and int(old["metadata"]["resourceVersion"]) >= int(obj["metadata"]["resourceVersion"]):
            return
        self.objects[key] = obj
        self._on_change(old, obj)

    def drop(self, key: Key) -> None:
        old = self.objects.pop(key, None)
        if old is not None:
            self._on_change(old, None)

    async def _list(self) -> str:
        async with self._session.get(self._path) as answer:
            answer.raise_for_status()
            listed = await answer.json()
        present = {key_of(obj) for obj in listed["items"]}
        for key in [key for key in self.objects if key not in present]:
            self.drop(key)
        for obj in listed["items"]:
            self.put(obj)
        version: str = listed["metadata"]["resourceVersion"]
        return version

    async def _watch(self, version: str) -> str:
        """Follows one stream to its end; returns where to go on, "" if a new list is needed."""
        query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": "300"}
        endless = aiohttp.ClientTimeout(total=None)
        async with self._session.get(self._path, params=query, timeout=endless) as answer:
            if answer.status == 410:
                return ""
            answer.raise_for_status()
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for text in lines:
                    event = json.loads(text)
                    if event["type"] == "ERROR":
                        return ""
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._take(event["type"], event["object"])
        return version

    def _take(self, kind: str, obj: Json) -> None:
        if kind == "DELETED":
            known = self.objects.get(key_of(obj))
            if known is not None and known["metadata"]["uid"] == obj["metadata"]["uid"]:
                self.drop(key_of(obj))
        elif kind in ("ADDED", "MODIFIED"):
            self.put(obj)
