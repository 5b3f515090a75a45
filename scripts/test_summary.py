#!/usr/bin/env python3
"""Runs the project's checks and tests, and says at the end what ran.

    scripts/test_summary.py all|unit|real|lint [FILTER]

One group after the other, each by a cargo command that is shown and can be repeated by hand; all groups run even if
an earlier one fails, so that one run shows all that is wrong. Ends with the failing tests' names and, as the last
line, `N passed, N failed, N skipped`. Exits 0 only if nothing failed.

A test is "against real servers" if it is in the test binary `real` or `proof` (tests/real/, tests/proof/), and not
among the few there that start none (SERVERLESS). Those binaries start servers, so few of their tests run at once:
REAL_TEST_THREADS (2). No group may take longer than TEST_GROUP_MINUTES (45): it is ended then, and counts as failed. A
process that a group leaves behind is ended, and counts as a failure too.

It does not set up anything: `make test` does, by scripts/provision.sh.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REAL = ("real", "proof")
# Their tests that start no server: what is installed, and what is read or computed.
SERVERLESS = (
    "provisioned::",
    "support::",
    "dashboards::alerts_fire_in_their_situation_and_only_then",
    "dashboards::dashboard_alerts_and_documents_name_the_metrics_that_exist",
    "metadata_faults::the_embedded_store_survives_kill_9_at_any_moment",
    "stalls::a_link_carries_keeps_silent_and_cuts",
    "stalls::who_waits_for_an_answer_over_a_link_is_told_that_the_server_was_killed",
)
# Against the current ClickHouse's engine, chDB in a process of its own with an HTTP front: no server, and said so.
ENGINE = "clickhouse_current::"
# Virtual time is computed, and placement is: their tests are optimised, at the cost of one more build of this package;
# the simulator's sweep over more seeds than by hand.
OPTIMISED = ("simulation", "placement")
OPTIMISED_ENV = ["env", "CARGO_PROFILE_DEV_OPT_LEVEL=1", "CONVERTHOUSE_SWEEP_SEEDS=1000"]
TEST_LINE = re.compile(r"^test (?P<name>.+?)(?: - should panic)? \.\.\. (?P<outcome>ok|FAILED|ignored)\b")
# What a test prints that lacks something (tests/real/support): it passes by doing nothing; in CI it fails.
SKIPPED_LINE = re.compile(r"SKIPPED: (?P<name>\S+): (?P<why>.*)")
RESULT_LINE = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")


@dataclass
class Group:
    """One command and what became of it."""

    name: str
    command: list[str]
    is_test: bool
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    serverless: int = 0
    on_engine: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)

    @property
    def real(self) -> bool:
        return self.name in REAL


def test_targets() -> list[str]:
    """The integration tests of this package, `real` and `proof` last: they take longest and need the most."""
    found = subprocess.run(
        ["cargo", "metadata", "--format-version=1", "--no-deps", "--locked"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )
    targets = json.loads(found.stdout)["packages"][0]["targets"]
    names = sorted(target["name"] for target in targets if "test" in target["kind"])
    return sorted(names, key=lambda name: name in REAL)


def plan(what: str, name_filter: str | None) -> list[Group]:
    """The groups of one run, in order."""
    lint = [
        Group("fmt", ["cargo", "fmt", "--check"], is_test=False),
        Group("clippy", ["cargo", "clippy", "--locked", "--all-targets", "--", "-D", "warnings"], is_test=False),
    ]
    if what == "lint":
        return lint
    filters = [name_filter] if name_filter else []

    def cargo_test(*selection: str, threads: str | None = None) -> list[str]:
        command = ["cargo", "test", "--locked", "--no-fail-fast", *selection, *filters]
        return command + (["--", f"--test-threads={threads}"] if threads else [])

    unit = [Group("lib and bin", cargo_test("--lib", "--bins"), is_test=True)]
    real = []
    for target in test_targets():
        if target in REAL:
            threads = os.environ.get("REAL_TEST_THREADS", "2")
            real.append(Group(target, cargo_test("--test", target, threads=threads), is_test=True))
        elif target in OPTIMISED:
            unit.append(Group(target, OPTIMISED_ENV + cargo_test("--test", target), is_test=True))
        else:
            unit.append(Group(target, cargo_test("--test", target), is_test=True))
    if not filters:
        unit.append(Group("builds", ["scripts/compare_builds.sh"], is_test=False))
    doc = [Group("doc", cargo_test("--doc"), is_test=True)]
    return {"all": lint + unit + doc + real, "unit": unit + doc, "real": real}[what]


def left_behind(session: int) -> list[int]:
    """Processes that still belong to a session whose leader has ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def left_behind_for_good(session: int) -> list[int]:
    """The same, after giving what is just ending a moment for it."""
    deadline = time.monotonic() + 5
    while (found := left_behind(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def end_all(processes: list[int]) -> list[str]:
    """Ends processes by force; returns what they were."""
    ended = []
    for process in processes:
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            os.kill(process, signal.SIGKILL)
            ended.append(command.strip()[:120] or str(process))
        except OSError:
            continue
    return ended


def read_output(group: Group, lines) -> None:
    """Passes the output on and counts."""
    results_seen = False
    for raw in lines:
        line = raw.rstrip("\n")
        print(line, flush=True)
        if lacks := SKIPPED_LINE.search(line):
            group.lacking[lacks["name"]] = lacks["why"]
        if test := TEST_LINE.match(line):
            if test["outcome"] == "FAILED":
                group.failures.append(test["name"])
            if test["outcome"] != "ignored" and test["name"].startswith(SERVERLESS):
                group.serverless += 1
            elif test["outcome"] != "ignored" and test["name"].startswith(ENGINE):
                group.on_engine += 1
        elif result := RESULT_LINE.match(line):
            results_seen = True
            group.passed += int(result[1])
            group.failed += int(result[2])
            group.skipped += int(result[3])
    did_nothing = len(group.lacking.keys() - set(group.failures))
    group.passed -= did_nothing
    group.skipped += did_nothing
    if group.is_test and not results_seen:
        group.failures.append("(did not get as far as running tests)")


def run(group: Group, filtered: bool) -> None:
    """Runs one group to its end, or to its deadline."""
    print(f"\n=== {group.name}: {' '.join(group.command)}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(
        group.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )
    reader = threading.Thread(target=read_output, args=(group, process.stdout), daemon=True)
    reader.start()
    minutes = float(os.environ.get("TEST_GROUP_MINUTES", "45"))
    try:
        status = process.wait(timeout=minutes * 60)
    except subprocess.TimeoutExpired:
        status = None
        group.failures.append(f"(not done after {minutes:g} minutes, ended)")
        process.kill()
        process.wait()
    except KeyboardInterrupt:
        end_all(left_behind(process.pid))
        raise
    remains = end_all(left_behind_for_good(process.pid))
    reader.join(timeout=10)
    if status is not None and group.is_test:
        group.failures += [f"(left running: {command})" for command in remains]
    group.seconds = time.monotonic() - started
    if not group.is_test:
        group.failed = int(status != 0)
        if status:
            group.failures.append("(see its output above)")
    else:
        # A group that broke off, or left something running, failed even if no test of it says so.
        if group.real and status == 0 and not group.passed + group.skipped and not filtered:
            group.failures.append("(no test ran)")
        extra = [failure for failure in group.failures if failure.startswith("(")]
        group.failed += len(extra)
        if status and not group.failed:
            group.failed = 1
            group.failures.append(f"(ended with status {status})")


def summarise(groups: list[Group], seconds: float) -> int:
    """Prints the summary; returns the exit status."""
    print("\n=== summary")
    print(f"{'':<20}{'passed':>8}{'failed':>8}{'skipped':>8}{'seconds':>9}")
    for group in groups:
        if group.is_test:
            counts = f"{group.passed:>8}{group.failed:>8}{group.skipped:>8}"
        else:
            counts = f"{'failed' if group.failed else 'ok':>8}{'':>16}"
        print(f"{group.name:<20}{counts}{group.seconds:>9.0f}")
    for group in groups:
        for name, why in group.lacking.items():
            print(f"SKIPPED {group.name}: {name}: {why}")
        for failure in group.failures:
            print(f"FAILED {group.name}: {failure}")
    tests = [group for group in groups if group.is_test]
    ran = sum(group.passed + group.failed for group in tests)
    real = [group for group in tests if group.real]
    on_engine = sum(group.on_engine for group in real)
    on_real = sum(group.passed + group.failed - group.serverless for group in real) - on_engine
    checks = [group.name for group in groups if not group.is_test]
    failed = sum(group.failed for group in groups)
    print(f"{ran} tests ran, {on_real} of them against real servers, {on_engine} more against chDB; "
          f"checks: {', '.join(checks) or 'none'}; {seconds / 60:.1f} minutes")
    print(f"{sum(group.passed for group in tests)} passed, {failed} failed, "
          f"{sum(group.skipped for group in tests)} skipped")
    return 1 if failed else 0


def main() -> int:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in ("all", "unit", "real", "lint") or len(arguments) > 2:
        print(__doc__, file=sys.stderr)
        return 2
    started = time.monotonic()
    groups = plan(arguments[0], arguments[1] if len(arguments) > 1 else None)
    done = []
    try:
        for group in groups:
            done.append(group)
            run(group, filtered=len(arguments) > 1)
    except KeyboardInterrupt:
        done[-1].failures.append("(interrupted)")
        done[-1].failed += 1
    return summarise(done, time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
