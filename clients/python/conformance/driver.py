"""The driver of the conformance kit: test/conformance/README.md is its contract."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage

import meshnode
from meshnode.wire import cluster_pb2 as pb

Op = dict[str, Any]
CODES = {code.value[0]: code for code in grpc.StatusCode}


ROWS = [bytes((i * 31 + add) & 255 for i in range(256)) for add in range(256)]


def fill(size: int, seed: int) -> bytes:
    rows = b"".join(ROWS[(row * 7 + seed) & 255] for row in range((size + 255) // 256))
    return rows[:size]


def payload_of(op: Op) -> bytes:
    if "fill" in op:
        return fill(op["fill"]["size"], op["fill"]["seed"])
    return base64.b64decode(op.get("data", ""))


def tell_payload(payload: bytes) -> Op:
    told: Op = {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    if len(payload) <= 4096:
        told["data"] = base64.b64encode(payload).decode()
    return told


def headers_of(pairs: list[list[str]] | None) -> list[tuple[str, str | bytes]]:
    return [(key, base64.b64decode(value) if key.endswith("-bin") else value) for key, value in pairs or []]


def tell_headers(headers: meshnode.Metadata) -> list[list[str]]:
    return [[key, value if isinstance(value, str) else base64.b64encode(value).decode()] for key, value in headers]


def tell_error(e: meshnode.MeshError) -> Op:
    return {
        "verdict": e.verdict.value,
        "reason": e.reason,
        "code": e.code.value[0],
        "message": e.message,
        "details": [{"type_url": d.type_url, "value": base64.b64encode(d.value).decode()} for d in e.details],
        "headers": tell_headers(e.headers),
        "trailers": tell_headers(e.trailers),
    }


def options_of(op: Op) -> meshnode.Options:
    scale = {"heartbeat_interval_ms": "heartbeat_interval", "connect_timeout_ms": "connect_timeout", "backoff_min_ms": "backoff_min", "backoff_max_ms": "backoff_max"}
    known: Op = {to: op[key] / 1000 for key, to in scale.items() if op.get(key)}
    known |= {key: op[key] for key in ("process", "max_batch_bytes", "max_message_bytes", "max_unfinished_bytes", "max_calls") if op.get(key)}
    return meshnode.Options(**known)


def seconds(op: Op) -> float | None:
    return op["timeout_ms"] / 1000 if op.get("timeout_ms") else None


class Driver:
    def __init__(self) -> None:
        self.links: dict[str, meshnode.Link] = {}
        self.calls: dict[int, meshnode.Call] = {}
        self.serves: dict[str, meshnode.Serve] = {}
        self.requests: dict[int, asyncio.Future[Op]] = {}
        self.last_request = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def say(self, line: Op) -> None:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    def begin(self, op: Op) -> None:
        """Begins an op, in the order of the lines, and does not wait for it."""
        method: Callable[[Op], Any] | None = getattr(self, "op_" + op["op"], None)
        if method is None:
            self.say({"id": op["id"], "ok": False, "error": {"verdict": "", "message": f"no op {op['op']!r}"}})
            return
        try:
            work = method(op)
        except Exception as e:
            logging.exception("op %s", op["op"])
            self.say({"id": op["id"], "ok": False, "error": {"verdict": "", "message": repr(e)}})
            return
        if asyncio.iscoroutine(work):
            task = asyncio.create_task(self.finish(op, work))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            self.say({"id": op["id"], "ok": True} | work)

    async def finish(self, op: Op, work: Any) -> None:
        try:
            self.say({"id": op["id"], "ok": True} | (await work))
        except meshnode.MeshError as e:
            self.say({"id": op["id"], "ok": False, "error": tell_error(e)})
        except Exception as e:
            logging.exception("op %s", op["op"])
            self.say({"id": op["id"], "ok": False, "error": {"verdict": "", "message": repr(e)}})

    def op_info(self, op: Op) -> Op:
        return {"language": "python", "helper": "meshnode " + meshnode.__version__, "grpc": "grpcio " + grpc.__version__, "features": ["link", "serve", "recode", "json"]}

    def op_link(self, op: Op) -> Op:
        self.links[op["link"]] = meshnode.Link(op["address"], op["node"], options_of(op))
        return {}

    async def op_call(self, op: Op) -> Op:
        link = self.links[op["link"]]
        call = link.start(op["target"], op["method"], payload_of(op), timeout=seconds(op), headers=headers_of(op.get("headers")), trace_tag=op.get("trace_tag", ""), wait_up=op.get("wait_up", False))
        self.calls[op["id"]] = call
        try:
            reply = await call
        finally:
            del self.calls[op["id"]]
        return tell_payload(reply.payload) | {"headers": tell_headers(reply.headers), "trailers": tell_headers(reply.trailers)}

    async def op_push(self, op: Op) -> Op:
        link = self.links[op["link"]]
        await link.push(op["target"], op["method"], payload_of(op), headers=headers_of(op.get("headers")), trace_tag=op.get("trace_tag", ""))
        return {}

    async def op_query(self, op: Op) -> Op:
        return {"handle": f"{await self.links[op['link']].query(op['name'], timeout=seconds(op)):016x}"}

    async def op_cancel(self, op: Op) -> Op:
        call = self.calls.get(op["call"])
        if call is not None:
            call.cancel()
        return {}

    async def op_close(self, op: Op) -> Op:
        if "serve" in op:
            await self.serves[op["serve"]].close(seconds(op) or 10)
            return {}
        await self.links[op["link"]].close(seconds(op) or 10)
        return {}

    def op_serve(self, op: Op) -> Op:
        self.serves[op["serve"]] = meshnode.Serve(op["address"], options_of(op))
        return {}

    async def op_register(self, op: Op) -> Op:
        async def handler(request: meshnode.Request) -> meshnode.Reply:
            return await self.handle(op["serve"], request)

        return {"handle": f"{await self.serves[op['serve']].register(op['name'], handler, shared=op.get('shared', False)):016x}"}

    async def op_unregister(self, op: Op) -> Op:
        await self.serves[op["serve"]].unregister(op["name"])
        return {}

    def op_answer(self, op: Op) -> Op:
        waiting = self.requests.pop(op["request"], None)
        if waiting is not None and not waiting.done():
            waiting.set_result(op)
        return {}

    async def handle(self, serve: str, request: meshnode.Request) -> meshnode.Reply:
        """The handler of every name: says the event and waits for its answer."""
        self.last_request += 1
        number = self.last_request
        waiting: asyncio.Future[Op] = asyncio.get_running_loop().create_future()
        self.requests[number] = waiting
        event: Op = {"event": "request", "serve": serve, "request": number, "name": request.name, "method": request.method, "push": request.push}
        event |= {"headers": tell_headers(request.headers), "trace_tag": request.trace_tag} | tell_payload(request.payload)
        if (left := request.time_left()) is not None:
            event["time_left_ms"] = left * 1000
        self.say(event)
        try:
            answer = await waiting
        except asyncio.CancelledError:
            self.say({"event": "cancelled", "serve": serve, "request": number})
            raise
        finally:
            self.requests.pop(number, None)
        headers, trailers = headers_of(answer.get("headers")), headers_of(answer.get("trailers"))
        if "panic" in answer:
            raise RuntimeError(answer["panic"])
        if "error" in answer:
            e = answer["error"]
            details = [AnyMessage(type_url=d["type_url"], value=base64.b64decode(d["value"])) for d in e.get("details", [])]
            raise meshnode.StatusError(CODES[e["code"]], e["message"], details=details, headers=headers, trailers=trailers)
        return meshnode.Reply(payload_of(answer), headers, trailers)

    def op_recode(self, op: Op) -> Op:
        message = {"Frame": pb.Frame, "LinkRequest": pb.LinkRequest, "LinkResponse": pb.LinkResponse}[op["message"]]()
        message.ParseFromString(base64.b64decode(op["data"]))
        return {"data": base64.b64encode(message.SerializeToString()).decode(), "json": json_format.MessageToDict(message)}


async def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=256 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    driver = Driver()
    while line := await reader.readline():
        driver.begin(json.loads(line))
    os._exit(0)  # at once, whatever is open


asyncio.run(main())
