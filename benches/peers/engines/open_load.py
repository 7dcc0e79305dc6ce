"""Requests that come at their own times, and the times at which tokens came."""

import time
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    at: float  # seconds from the start
    ids: list[int]
    tokens: int  # to be produced


class OpenLoad:
    """Begins with the first look at it."""

    def __init__(self, requests):
        self.requests = [Request(**request) for request in requests]
        self.times = [[] for _ in requests]
        self.to_come = deque(enumerate(self.requests))
        self.unfinished = len(self.requests)
        self.started = time.perf_counter()

    def arrived(self):
        """(number, request) of those that came since the last look."""
        now = self.now()
        while self.to_come and self.to_come[0][1].at <= now:
            yield self.to_come.popleft()

    def wait(self):
        """For the next one to come."""
        if self.to_come:
            time.sleep(max(0.0, self.to_come[0][1].at - self.now()))

    def token(self, number):
        """A token of that request; true if it was the last one."""
        self.times[number].append(self.now())
        self.unfinished -= self.is_over(number)
        return self.is_over(number)

    def is_over(self, number):
        return len(self.times[number]) == self.requests[number].tokens

    def now(self):
        return time.perf_counter() - self.started
