"""`/docs`: what the API offers, as one page without scripts; the OpenAPI document has every field."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import Request
from starlette.responses import HTMLResponse

from harmony.api.depends import Reader

__all__ = ["as_html", "reference"]

METHODS = ("get", "post", "put", "patch", "delete")
HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"}
STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:70em;"
    "margin:2em auto;padding:0 1em}"
    "td,th{text-align:left;padding:.3em 1em .3em 0;vertical-align:top}code{overflow-wrap:anywhere}"
)


async def reference(request: Request, _: Reader) -> HTMLResponse:
    """Every operation of the API: method, path, and what it does."""
    return HTMLResponse(as_html(request.app.openapi()), headers=HEADERS)


def as_html(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    rows = []
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                said = operations[method]
                about = f"<b>{escape(said.get('summary', ''))}</b><br>{escape(said.get('description', ''))}"
                where = f"<code>{method.upper()} {escape(path)}</code>"
                rows.append(f"<tr><th scope=row>{where}</th><td>{about}</td></tr>")
    title = escape(f"{document['info']['title']} API {document['info']['version']}")
    about = "".join(f"<p>{escape(part)}</p>" for part in document["info"]["description"].strip().split("\n\n"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f'<body><main><h1>{title}</h1>{about}<p>Every field: <a href="/api/v1/openapi.json">openapi.json</a></p>'
        f"<table><thead><tr><th scope=col>operation</th><th scope=col>what it does</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></main></body></html>"
    )
