"""Processes that measure, driven by JSON lines."""

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPLY_SECONDS = 600  # far over any case; only a hung engine takes this long
CLOSE_SECONDS = 10


class EngineFailure(Exception):
    """An engine that can't go on, and why."""


def prepare(name, work):
    """Makes the checkpoint, or converts it for the peer of this name."""
    log = log_path(work, f"prepare {name}")
    command = [sys.executable, HERE / "worker.py", "prepare", name, "--work", work]
    with log.open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise EngineFailure(f"conversion: {last_line(log)} (see {log.name})")


def start_peer(peer, work, threads):
    command = [sys.executable, HERE / "worker.py", "serve", peer.name]
    command += ["--work", work, "--threads", str(threads)]
    return Engine(peer.name, command, log_path(work, peer.name), threads)


def start_ours(binary, width, work, threads):
    command = [binary, "bench", "--model", work / "checkpoint", "--dtype", width]
    command += ["--threads", str(threads), "--repl"]
    return Engine(f"gpt2 {width}", command, log_path(work, f"gpt2 {width}"), threads)


def start_load(width, work, threads, arguments):
    """The load generator, which starts our server."""
    command = ["cargo", "bench", "--quiet", "--bench", "load", "--", "--repl"]
    command += ["--mode", "open", "--model", work.resolve() / "checkpoint"]
    command += ["--dtype", width, "--threads", str(threads), *arguments]
    name = f"gpt2 {width} through HTTP"
    return Engine(name, command, log_path(work, name), threads)


def log_path(work, name):
    folder = work / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (name.replace(" ", "-").lower() + ".log")


def last_line(log):
    """The line that says what went wrong: for both engines and Python, the last."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    # After its own error, clap advises on usage.
    errors = [line for line in lines if line.startswith("error:")]
    return next(reversed(errors or [line for line in lines if line]), "no message")


class Engine:
    """A loaded model that waits for its turn."""

    def __init__(self, name, command, log, threads):
        self.name, self.log = name, log
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log.open("wb"),
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                encoding="utf-8",
            )
        except OSError as error:
            raise EngineFailure(f"start: {error}") from error
        self.lines = queue.SimpleQueue()
        threading.Thread(target=self.read, daemon=True).start()
        self.ready = self.reply()

    def read(self):
        """Passes lines on from a thread, since a pipe has no read with a limit."""
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def ask(self, command):
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it ended: reply() says why
        return self.reply()

    def reply(self):
        try:
            line = self.lines.get(timeout=REPLY_SECONDS)
        except queue.Empty:
            self.close()
            raise EngineFailure(f"no answer in {REPLY_SECONDS} s") from None
        if line is None:
            raise EngineFailure(f"ended: {last_line(self.log)} (see {self.log.name})")
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            self.close()
            raise EngineFailure(f"answered no JSON: {line.strip()!r}") from None

    def peak_memory(self):
        """Peak resident bytes, where the system tells them."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return None
        lines = dict(line.split(":", 1) for line in status.splitlines())
        return int(lines["VmHWM"].split()[0]) << 10 if "VmHWM" in lines else None

    def close(self):
        """Ends the process: asks first, by closing its input."""
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
