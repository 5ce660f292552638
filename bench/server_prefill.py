#!/usr/bin/env python3
"""What one slot's prefill costs the others: bench/server_prefill.py [options]

Starts `llama serve`, stock and with mixed heads in turn, lets all slots but one decode at a depth, and then sends the last one a long prompt. Prints the
tokens/s of the decoding slots together, before and while it is processed. A `--json` row has

    heads                     full (stock) or duo
    kv                        the cache type
    slots, depth, prompt      decoding slots, tokens in each before it decodes, tokens of the long prompt
    before, during, after     tokens/s of the decoding slots together; during: from the long prompt's sending to its first token
    share                     during / before
    longestGap                seconds between two tokens of one slot, at most, during
    prefillSeconds, prefill   the long prompt's time, and its tokens/s

Python 3's standard library is all it needs, and a model; `build/bench-make-model FILE` makes one of random weights, with gates beside it:

    build/bench-make-model /tmp/model.gguf && bench/server_prefill.py -m /tmp/model.gguf --depth 32768 --prompt 32768 --kv f16,q4_0
    build/bench-make-model --shape smollm2 /tmp/small.gguf && bench/server_prefill.py -m /tmp/small.gguf --depth 1024 --prompt 2048 -ub 512

Prompts are random tokens, and an answer of a random model is as good as any.
"""

import argparse
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def parser(description, model):
    """What every benchmark of llama serve is told."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("-m", "--model", required=True, help=model)
    p.add_argument("--llama", default=os.path.join(ROOT, "build/bin/llama"), help="llama.cpp's tool (build/bin/llama)")
    p.add_argument("--heads", default="full,duo", help="full: without --duo-* flags; duo: with them (full,duo)")
    p.add_argument("--gates", default="auto", help="of --duo-gates (auto)")
    p.add_argument("--sparsity", default="0.5", help="of --duo-sparsity (0.5)")
    p.add_argument("--kv", default="f16,q4_0", help="cache types (f16,q4_0)")
    p.add_argument("--wait", type=float, default=1800, help="seconds after which a run that does not get on ends (1800)")
    p.add_argument("-ub", "--ubatch", type=int, default=512)
    p.add_argument("-t", "--threads", type=int, default=min(8, os.cpu_count() or 1))
    p.add_argument("--json", action="store_true", help="rows as JSON on stdout instead of a table")
    p.add_argument("flags", nargs="*", help="after --: other flags of llama serve")
    return p


def flags_of(options, heads, kv):
    """Those of a cache type, and of mixed heads."""
    duo = ["--duo-gates", options.gates, "--duo-sparsity", options.sparsity] if heads == "duo" else []
    return ["-ctk", kv, "-ctv", kv] + duo


def parse():
    p = parser("Tokens/s of decoding slots while another slot processes a prompt.", "a GGUF with a vocabulary of at least 1,000 tokens")
    p.add_argument("--slots", type=int, default=8, help="all of them, the prefilling one included (8)")
    p.add_argument("--depth", type=int, default=4096, help="tokens of each decoding slot's prompt (4096)")
    p.add_argument("--prompt", type=int, default=4096, help="tokens of the long prompt (4096)")
    p.add_argument("--seconds", type=float, default=10, help="how long decoding is measured before and after (10)")
    return p.parse_args()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """One llama serve; its log is shown where it ends too early."""

    def __init__(self, options, flags):
        self.port = free_port()
        self.log = tempfile.TemporaryFile()
        command = [options.llama, "serve", "-m", options.model, "--host", "127.0.0.1", "--port", str(self.port), "-fa", "on", "-ngl", "99", "-fit", "off",
                   "-ub", str(options.ubatch), "-t", str(options.threads), "--cache-ram", "0"] + flags + options.flags
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)

    def wait(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.check()
            try:
                c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                c.request("GET", "/health")
                if c.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit("llama serve was not ready in %g s:\n%s" % (seconds, self.tail()))

    def check(self):
        if self.process.poll() is not None:
            raise SystemExit("llama serve ended with %d:\n%s" % (self.process.returncode, self.tail()))

    def tail(self):
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - 4000))
        return self.log.read().decode(errors="replace")

    def stop(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Stream(threading.Thread):
    """One streamed completion; when each token came."""

    def __init__(self, port, slot, prompt, n_predict):
        super().__init__(daemon=True)
        self.port, self.times, self.error = port, [], None
        self.body = {"prompt": prompt, "n_predict": n_predict, "id_slot": slot, "stream": True, "ignore_eos": True, "temperature": 0,
                     "cache_prompt": False, "return_tokens": True}

    def run(self):
        try:
            c = http.client.HTTPConnection("127.0.0.1", self.port)
            c.request("POST", "/completion", json.dumps(self.body), {"content-type": "application/json"})
            response = c.getresponse()
            if response.status != 200:
                raise OSError("status %d: %s" % (response.status, response.read()[:500]))
            for line in response:
                if not line.startswith(b"data: "):
                    continue
                moment = time.monotonic()
                event = json.loads(line[6:])
                if "error" in event:
                    raise OSError(str(event["error"]))
                self.times += [moment] * len(event.get("tokens", []))
                if event.get("stop"):
                    return
        except (OSError, ValueError, http.client.HTTPException) as e:
            self.error = e


def rate(streams, begin, end):
    return sum(begin < t <= end for s in streams for t in s.times) / (end - begin)


def longest_gap(streams, begin, end):
    gaps = [0.0]
    for s in streams:
        moments = [begin] + [t for t in s.times if begin < t <= end] + [end]
        gaps += [b - a for a, b in zip(moments, moments[1:])]
    return max(gaps)


def measure(options, heads, kv):
    rng = random.Random(1)
    tokens = lambda n: [300 + rng.randrange(600) for _ in range(n)]
    n_predict = 1 << 20
    # room for what is decoded meanwhile
    per_slot = max(options.depth, options.prompt) + 16384
    server = Server(options, ["-np", str(options.slots), "-c", str(per_slot * options.slots)] + flags_of(options, heads, kv))
    try:
        server.wait(options.wait)
        streams = [Stream(server.port, slot, tokens(options.depth), n_predict) for slot in range(options.slots - 1)]
        for s in streams:
            s.start()
        last = Stream(server.port, options.slots - 1, tokens(options.prompt), 1)

        def until(done, what):
            end = time.monotonic() + options.wait
            while not done():
                server.check()
                for s in streams + [last]:
                    if s.error or (s is not last and not s.is_alive()):
                        raise SystemExit("%s, %s: a stream ended while waiting for %s: %s" % (heads, kv, what, s.error))
                if time.monotonic() > end:
                    raise SystemExit("%s, %s: no %s in %g s:\n%s" % (heads, kv, what, options.wait, server.tail()))
                time.sleep(0.01)

        until(lambda: all(len(s.times) > 2 for s in streams), "decoding in all slots")
        begin = time.monotonic()
        time.sleep(options.seconds)
        sent = time.monotonic()
        last.start()
        until(lambda: last.times, "the long prompt's first token")
        done = last.times[0]
        time.sleep(options.seconds)
        before, during, after = rate(streams, begin, sent), rate(streams, sent, done), rate(streams, done, time.monotonic())
        return {
            "heads": heads, "kv": kv, "slots": len(streams), "depth": options.depth, "prompt": options.prompt, "ubatch": options.ubatch,
            "before": round(before, 2), "during": round(during, 2), "after": round(after, 2), "share": round(during / before, 3) if before else None,
            "longestGap": round(longest_gap(streams, sent, done), 3), "prefillSeconds": round(done - sent, 3), "prefill": round(options.prompt / (done - sent), 1),
        }
    finally:
        server.stop()


def main():
    options = parse()
    rows = []
    columns = ["heads", "kv", "slots", "depth", "prompt", "before", "during", "after", "share", "longestGap", "prefillSeconds", "prefill"]
    if not options.json:
        print("  ".join("%14s" % c for c in columns))
    for kv in options.kv.split(","):
        for heads in options.heads.split(","):
            row = measure(options, heads, kv)
            rows.append(row)
            if options.json:
                print(json.dumps(row), file=sys.stderr, flush=True)
            else:
                print("  ".join("%14s" % row[c] for c in columns), flush=True)
    if options.json:
        print(json.dumps({"model": os.path.basename(options.model), "load": os.getloadavg()[0], "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
