"""Who may ask: whoever has the token, from a place that a foreign web page cannot speak from.

A page of another site that has a name resolve to this machine (DNS rebinding) sends its own name as Host; one that
sends its requests from a browser says so in Origin. Probes carry neither secrets nor a token, and pass.
"""

import hmac
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from gateway.problems import Handler, Unacceptable
from gateway.routes import route_of


def access(token: str, hosts: Collection[str] = ()) -> Middleware:
    """Lets a request pass that has the bearer `token` and a Host of this machine or among `hosts` (names, no ports)."""
    if not token:
        raise ValueError("the gateway needs a token: without one anybody on this machine could give orders")
    secret, known = token.encode(), frozenset(host.lower() for host in hosts)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = route_of(request)
        if route is None or route.scope != "open":
            _check_host(request, known)
            _check_origin(request)
            _check_token(request, secret)
        return await handler(request)

    return check


def _check_host(request: web.Request, known: frozenset[str]) -> None:
    named = request.headers.getall("Host", [])
    name = _name(named[0]) if len(named) == 1 else None
    if name is None or not (name == "localhost" or name in known or _is_loopback(name)):
        shown = ", ".join(named)[:100] or "none"
        raise Unacceptable(
            403, "host_not_allowed", f"Host is {shown!a}: ask for localhost, or for a host name that is configured here"
        )


def _check_origin(request: web.Request) -> None:
    origins = request.headers.getall("Origin", [])
    if origins and [_netloc(origin) for origin in origins] != [request.headers["Host"].lower()]:
        shown = ", ".join(origins)[:100]
        raise Unacceptable(403, "origin_not_allowed", f"Origin is {shown!a}: pages of other sites may not ask here")


def _check_token(request: web.Request, secret: bytes) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), secret)
    if scheme.lower() != "bearer" or not right:
        raise Unacceptable(
            401,
            "unauthorized",
            "send the header 'Authorization: Bearer <token>'; `cairn up` keeps the token in up.json of its data"
            " directory",
            headers={"WWW-Authenticate": 'Bearer realm="cairn"'},
        )


def _name(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for one that is no number
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and "@" not in host else None


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
