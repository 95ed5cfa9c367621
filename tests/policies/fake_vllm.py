"""A stand-in for `vllm serve` on a real socket: the calls honed makes, and every way to fail that a test wants."""

import asyncio
import json
from typing import Any


class FakeVllm:
    """The calls honed makes, as vLLM 0.32 answers them; attributes are what is wrong with it."""

    def __init__(self) -> None:
        self.url = ""
        self.names: dict[str, str] = {}
        self.slots: set[int] = set()
        self.value = -1.0
        self.damaged: set[str] = set()
        self.refused: set[str] = set()
        self.asleep = self.dead = self.poisoned = self.odd = False
        self.status = 200
        self.asked = self.scored = self.scoring = self.most = self.loads = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    def forget(self) -> None:
        """What a restart does."""
        self.names, self.slots, self.asleep, self.value = {}, set(), False, -1.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            path = head.split()[1]
            size = int(head.partition("content-length: ")[2].split("\r\n")[0] or 0)
            body = json.loads(await reader.readexactly(size)) if size else {}
            if path == "/v1/completions" and body.get("stream"):
                await self.answer(body, writer)
            elif path == "/metrics" and not self.dead:
                send(writer, 200, f"# TYPE vllm:asked gauge\nvllm:asked {self.asked}\n".encode())
            else:
                status, answer = await self.call(path, body)
                send(writer, status, json.dumps(answer).encode())
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        if self.dead or self.status != 200:
            return send(writer, 500 if self.dead else self.status, error(f"inside {self.url}"))
        if body["model"] not in ("base", *self.names):
            return send(writer, 404, error("no such model"))
        if self.poisoned:
            return send(writer, 200, b"data: " + error(f"einsum in {self.url}") + b"\n\ndata: [DONE]\n\n")
        await self.go_on.wait()
        chunk = {"choices": [{"token_ids": [70, 71], "finish_reason": "stop"}]}
        return send(writer, 200, f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())

    async def call(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if self.dead:
            return 503, {}
        if path == "/v1/models":
            cards = [{"id": "base", "parent": None, "max_model_len": 2048}]
            cards += [{"id": name, "parent": "base"} for name in self.names]
            return 200, ({"data": 5} if self.odd else {"data": cards})
        if path == "/v1/completions":
            return await self.score(body)
        if path == "/v1/load_lora_adapter":
            return self.load(body["lora_name"], body["lora_path"])
        if path == "/v1/unload_lora_adapter":
            return (200 if self.names.pop(body["lora_name"], None) else 404), {}
        if path == "/collective_rpc" and body["method"] == "remove_lora":
            self.slots.discard(body["args"][0])
        if path == "/is_sleeping":
            return 200, {"is_sleeping": self.asleep}
        if path in ("/sleep?level=1", "/wake_up"):
            self.asleep = path != "/wake_up"
        return 200, {"results": [sorted(self.slots)]}

    def load(self, name: str, path: str) -> tuple[int, Any]:
        if path in self.refused:
            return 400, {"error": {"message": "does not fit"}}
        if name in self.names:
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
        self.loads += 1
        self.names[name] = path
        self.slots.add(self.loads)
        return 200, {}

    async def score(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.scored += 1
        if self.asleep or self.poisoned:
            return 500, {}
        if body["model"] not in ("base", *self.names):
            return 404, {}
        self.scoring += 1
        self.most = max(self.most, self.scoring)
        await asyncio.sleep(0.01)
        self.scoring -= 1
        path = self.names.get(body["model"])
        value = self.value if path is None else -7.0 if path in self.damaged else -2.0
        rows = [{str(token): {"logprob": value}} for token in body["prompt"]]
        return 200, {"choices": [{"prompt_logprobs": rows}]}


def error(message: str) -> bytes:
    return json.dumps({"error": {"message": message}}).encode()


def send(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode())
    writer.write(body)


class Host:
    """A process around a fake server; `restart` takes until `started`."""

    def __init__(self, server: FakeVllm) -> None:
        self.server, self.bytes, self.restarts = server, 0, 0
        self.started = asyncio.Event()
        self.started.set()

    def memory(self) -> int:
        return self.bytes

    async def restart(self, reason: str) -> None:
        self.restarts += 1
        await self.started.wait()
        self.server.forget()
