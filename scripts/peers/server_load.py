"""The load of the engine's `load` example (`clients`), put on llama.cpp's server: the same lengths, two requests for
each client, one after the other, greedy, token by token.

    llama-server -m MODEL -t 2 -np 16 -c 16384 --port 8099 &
    python scripts/peers/server_load.py http://127.0.0.1:8099 32
"""

import http.client
import json
import math
import sys
import threading
import time
from urllib.parse import urlparse

MASK = (1 << 64) - 1


class Random:
    """SplitMix64, and what the example draws from it."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (z ^ (z >> 31)) % n

    def uniform(self):
        return (self.below(1 << 52) + 0.5) / (1 << 52)

    def log_normal(self, median, sigma):
        radius = math.sqrt(-2 * math.log(self.uniform()))
        return median * math.exp(sigma * radius * math.cos(math.tau * self.uniform()))


def lengths(count):
    random = Random(7)
    draw = lambda median, sigma, most: int(min(max(random.log_normal(median, sigma), 4), most))
    return [(draw(40, 1.1, 400), draw(80, 0.8, 300)) for _ in range(count)]


def ask(host, prompt, count, times):
    connection = http.client.HTTPConnection(host, timeout=600)
    body = {"prompt": prompt, "n_predict": count, "temperature": 0, "ignore_eos": True, "stream": True, "cache_prompt": False}
    connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
    own = []
    for line in connection.getresponse():
        if line.startswith(b"data: ") and not json.loads(line[6:]).get("stop"):
            own.append(time.monotonic())
    times.append(own)


def main():
    host, clients = urlparse(sys.argv[1]).netloc, int(sys.argv[2])
    random, waiting, lock, times = Random(1), lengths(2 * clients), threading.Lock(), []

    def client():
        while True:
            with lock:
                if not waiting:
                    return
                prompt, count = waiting.pop(0)
                ids = [1000 + random.below(100000) for _ in range(prompt)]
            ask(host, ids, count, times)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.monotonic()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    seconds = time.monotonic() - started
    delays = sorted(b - a for own in times for a, b in zip(own, own[1:]))
    total = sum(map(len, times))
    p50, p99 = (delays[len(delays) * p // 100] * 1e3 for p in (50, 99))
    print(
        f"{clients} clients, {len(times)} requests: {total / seconds:.1f} output tokens/s, {seconds:.1f} s; "
        f"between tokens p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    )


if __name__ == "__main__":
    main()
