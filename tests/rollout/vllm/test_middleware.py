"""The middleware in front of a server's routes: what passes, what is refused, and how."""

import asyncio
import hmac

import pytest

from vapo.rollout.vllm.middleware import VARIABLE, RequireToken

TOKEN = "d0f1c2"


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv(VARIABLE, TOKEN)


def ask(kind, *headers):
    """Events that a client gets, and the scopes that the application behind the middleware sees."""
    sent, seen = [], []

    async def app(scope, receive, send):
        seen.append(scope)
        await send({"type": "from the app"})

    async def receive():
        raise AssertionError("nothing is read from a client that is not trusted")

    async def send(event):
        sent.append(event)

    scope = {"type": kind} | ({} if kind == "lifespan" else {"path": "/collective_rpc", "headers": list(headers)})
    asyncio.run(RequireToken(app)(scope, receive, send))
    return sent, seen


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_who_has_the_token_passes(kind):
    sent, seen = ask(kind, (b"host", b"127.0.0.1"), (b"authorization", f"Bearer {TOKEN}".encode()))
    assert sent == [{"type": "from the app"}] and len(seen) == 1


WRONG = [None, b"", b"Bearer", b"Bearer ", b"d0f1c2", b"Basic d0f1c2", b"Bearer d0f1c2 ", b"bearer d0f1c2", b"\xff"]


@pytest.mark.parametrize("header", WRONG)
def test_who_has_not_is_answered_401_on_any_route(header):
    sent, seen = ask("http", *([] if header is None else [(b"authorization", header)]))
    start, body = sent
    assert seen == [] and start["type"] == "http.response.start" and start["status"] == 401
    assert (b"www-authenticate", b"Bearer") in start["headers"]
    assert body["type"] == "http.response.body" and VARIABLE.encode() in body["body"] and TOKEN.encode() not in body["body"]


@pytest.mark.parametrize("header", WRONG)
def test_a_websocket_without_it_is_closed_before_it_opens(header):
    sent, seen = ask("websocket", *([] if header is None else [(b"authorization", header)]))
    assert seen == [] and [(event["type"], event["code"]) for event in sent] == [("websocket.close", 1008)]


def test_an_unknown_kind_of_request_does_not_pass():
    assert ask("webtransport") == ([], [])


def test_the_servers_own_start_and_stop_need_no_token():
    assert len(ask("lifespan")[1]) == 1


def test_tokens_are_compared_in_constant_time(monkeypatch):
    compared, original = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: compared.append({one, other}) or original(one, other))
    ask("http", (b"authorization", b"Bearer guess"))
    assert compared == [{b"Bearer guess", f"Bearer {TOKEN}".encode()}]


def test_without_the_variable_nothing_is_answered(monkeypatch):
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(KeyError, match=VARIABLE):
        RequireToken(None)
