"""`Metrics`: what /metrics says, in Prometheus' text format.

Names that gateways read (`vllm:num_requests_running`) stand beside ours. No adapter, tenant or prompt is
a label: their number has no bound.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of request durations, in seconds."""

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
"""Methods that are labels: a client can send any word."""


class Metrics:
    """Counts of requests by method and status, their durations, and tokens. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0
        self._tokens: Counter[str] = Counter()

    def count_request(self, method: str, status: int, seconds: float) -> None:
        """Count a request that is done; `status` is 0 if its client left before an answer."""
        with self._lock:
            self._requests[method if method in METHODS else "OTHER", status] += 1
            self._seconds += seconds
            for bound in BUCKETS:
                self._buckets[bound] += seconds <= bound

    def count_tokens(self, prompt: int, completion: int) -> None:
        """Count the tokens of an answer."""
        with self._lock:
            self._tokens["prompt"] += prompt
            self._tokens["completion"] += completion

    def snapshot(self) -> dict[str, Any]:
        """The counts as plain values: answered, failed and refused requests, seconds, and tokens."""
        with self._lock:
            statuses = Counter[str]()
            for (_, status), count in self._requests.items():
                statuses[f"{status // 100}xx"] += count
            total = sum(self._requests.values())
            buckets = [(bound, self._buckets[bound]) for bound in BUCKETS]
            return {
                "requests": total,
                "statuses": dict(sorted(statuses.items())),
                "seconds": self._seconds,
                "buckets": buckets,
                "tokens": dict(self._tokens),
            }

    def lines(self, active: int, limit: int) -> Iterator[str]:
        """Every metric with its type, in Prometheus' text format."""
        with self._lock:
            requests, buckets = dict(self._requests), dict(self._buckets)
            seconds, tokens = self._seconds, dict(self._tokens)
        yield "# TYPE ouroboros_requests_total counter"
        for (method, status), count in sorted(requests.items()):
            yield f'ouroboros_requests_total{{method="{method}",status="{status}"}} {count}'
        total = sum(requests.values())
        yield "# TYPE ouroboros_request_seconds histogram"
        for bound in BUCKETS:
            yield f'ouroboros_request_seconds_bucket{{le="{bound}"}} {buckets.get(bound, 0)}'
        yield f'ouroboros_request_seconds_bucket{{le="+Inf"}} {total}'
        yield f"ouroboros_request_seconds_sum {seconds}"
        yield f"ouroboros_request_seconds_count {total}"
        yield "# TYPE ouroboros_tokens_total counter"
        for kind in ("prompt", "completion"):
            yield f'ouroboros_tokens_total{{kind="{kind}"}} {tokens.get(kind, 0)}'
        yield "# TYPE ouroboros_answers_active gauge"
        yield f"ouroboros_answers_active {active}"
        yield "# TYPE ouroboros_answers_limit gauge"
        yield f"ouroboros_answers_limit {limit}"
        yield "# TYPE vllm:num_requests_running gauge"
        yield f"vllm:num_requests_running {active}"
