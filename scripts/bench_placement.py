#!/usr/bin/env python3
"""Placement benchmark: converthouse beside other solvers, on generated instances, in one run.

usage: bench_placement.py [--binary FILE] [--sizes small|large|all] [--only TEXT] [--seeds 1,2] [--time-factor F]
                          [--peers 0|1] [--dir FOLDER]

--only takes the instances whose line begins with that text, such as `30x1000` or `100x5000 R2 lognormal`: the whole
table takes two hours with peers.

The binary is $CONVERTHOUSE_BINARY by default (`make bench-placement` sets it). The first run makes a Python
environment with numpy and the peers in $CONVERTHOUSE_PROVISION_DIR/placement (.provision/placement).

Each solution is judged by scripts/placement/evaluate.py. The run ends with exit code 1 if one of ours breaks a rule
(unless the instance has shards that fit on no node: Zipf with exponent 1.0, see EXEMPT), gives none, says another Z
than evaluate.py, or is behind a peer. One line an instance and solver: Z, the best bound known by then, the gap to it,
wall and CPU seconds, peak memory; where the demand is for a longer time too, a second line of the default engine for
that. `hybrid, 1/6` is the default engine in a sixth of the time that `rebalancer` took. A peer whose model would be too
big is named there with its size. Peers that cannot be imported are left out with a note: `rebalancer` (Meta's
Rebalancer), `ortools` (CP-SAT), `highspy` (HiGHS as a plain ILP).
"""
import argparse, glob, json, os, shutil, subprocess, sys, tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
GENERATE = os.path.join(HERE, "placement", "generate.py")
EVALUATE = os.path.join(HERE, "placement", "evaluate.py")
PEERS = os.path.join(HERE, "placement", "peers.py")

# nodes, shards, replicas, zones, size law, seconds for converthouse, peers that have a chance
SIZES = [
    (10, 200, 2, 5, "lognormal", 5, ("rebalancer", "ortools", "highspy")),
    (30, 1000, 2, 5, "lognormal", 10, ("rebalancer", "ortools", "highspy")),
    (30, 1000, 2, 5, "zipf:0.8", 10, ("rebalancer", "ortools")),
    (100, 5000, 2, 5, "lognormal", 10, ("rebalancer", "ortools")),
    (100, 5000, 2, 5, "zipf:1.0", 10, ("rebalancer",)),
    (100, 5000, 3, 5, "lognormal", 10, ("rebalancer",)),
    (1000, 100_000, 2, 5, "lognormal", 29, ("rebalancer",)),
    (1000, 100_000, 3, 5, "lognormal", 29, ("rebalancer",)),
    (1000, 100_000, 2, 5, "zipf:0.8", 29, ("rebalancer",)),
    (5000, 1_000_000, 2, 5, "lognormal", 110, ("rebalancer",)),
]

OURS = ("hybrid", "local-search", "greedy")

# Longer limits of the default engine, by size, where demands name them: a little below what they allow.
LONGER = {(10, 200): 58, (100, 5000): 29, (1000, 100_000): 58}

# Some of their shards are bigger than any node's room, so that no placement keeps the watermark.
EXEMPT = {(100, 5000, "zipf:1.0")}

# What went wrong, a line each.
BROKEN = []


def interpreter():
    """A Python that `rebalancer` runs on (3.12 or newer), if this machine has one; else this one."""
    names = [f"python3.{minor}" for minor in range(15, 11, -1)]
    found = [sys.executable, *filter(None, map(shutil.which, names))]
    found += sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python")), reverse=True)
    for python in found:
        check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))"
        if subprocess.run([python, "-c", check], capture_output=True).returncode == 0:
            return python
    return sys.executable


def environment():
    """Goes on in a Python environment of its own, with numpy and what peers can be had."""
    if os.environ.get("PLACEMENT_BENCH") == "inside":
        return
    root = os.environ.get("CONVERTHOUSE_PROVISION_DIR") or os.path.join(HERE, "..", ".provision")
    place = os.path.abspath(os.path.join(root, "placement"))
    python = os.path.join(place, "bin", "python")
    if not os.path.exists(python):
        subprocess.run([interpreter(), "-m", "venv", place], check=True)
    if subprocess.run([python, "-c", "import numpy"], capture_output=True).returncode != 0:
        subprocess.run([python, "-m", "pip", "install", "-q", "numpy"], check=True)
        for peer in ("ortools", "highspy", "rebalancer"):
            subprocess.run([python, "-m", "pip", "install", "-q", peer], capture_output=True)
    os.environ["PLACEMENT_BENCH"] = "inside"
    os.execv(python, [python, os.path.abspath(__file__), *sys.argv[1:]])


def measured(command, limit):
    """Runs a command: its output, wall and CPU seconds, peak megabytes; None if it fails or overruns."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        timer = threading.Timer(limit, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        wall = time.monotonic() - start
        out.seek(0), err.seek(0)
        text, complaint = out.read(), err.read()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == -9:
        return None, f"overran {limit:.0f} s"
    if process.returncode != 0:
        lines = (complaint or text).strip().splitlines() or ["no reason given"]
        return None, lines[-1][:100]
    return (text, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), None


def judge(instance, solution):
    command = [sys.executable, EVALUATE, instance, solution]
    text = subprocess.run(command, capture_output=True, text=True, check=True)
    return {key: float(value) for key, value in (pair.split("=") for pair in text.stdout.split())}


def show(name, solver, verdict, bound, run, note=""):
    if verdict is None:
        print(f"{name:<28} {solver:<12} {'-':>8} {'-':>8} {'-':>7}  {note}", flush=True)
        return
    _, wall, cpu, megabytes = run
    # The bound is for placements that break no rule.
    gap = f"{(verdict['Z'] / bound - 1) * 100:6.2f}%" if bound and verdict["broken"] == 0 else "      -"
    broken = "" if verdict["broken"] == 0 else f"  BROKEN {verdict['broken']:.0f}"
    print(f"{name:<28} {solver:<12} {verdict['Z']:8.5f} {bound:8.5f} {gap} {wall:7.1f} {cpu:7.1f} {megabytes:7.0f}"
          f"  Dr={verdict['Dr']:.4f} Dl={verdict['Dl']:.4f} Db={verdict['Db']:.4f} M={verdict['M']:.4f}{broken}",
          flush=True)


def ours(binary, engine, seconds, name, instance, bound, label=None, exempt=False):
    """Runs one of our engines and prints its line; answers the best bound known now."""
    solution = instance + ".solution"
    limits = ["--time-limit", f"{seconds:.3f}", "--seed", "1"]
    command = [binary, "placement", "solve", instance, "--engine", engine, *limits, "--out", solution, "--json"]
    run, note = measured(command, seconds * 4 + 60)
    if run is None:
        show(name, label or engine, None, bound, None, note)
        BROKEN.append(f"{name} {label or engine}: no answer: {note}")
        return bound, None
    told = json.loads(run[0])
    bound = max(bound, told["bound"])
    verdict = judge(instance, solution)
    show(name, label or engine, verdict, bound, run)
    if verdict["broken"] and not exempt:
        BROKEN.append(f"{name} {label or engine}: {verdict['broken']:.0f} broken")
    if not verdict["broken"] and abs(verdict["Z"] - told["after"]["z"]) > 1e-4:
        BROKEN.append(f"{name} {label or engine}: says Z={told['after']['z']:.5f}, and is judged {verdict['Z']:.5f}")
    return bound, verdict


def ahead(name, engine, ours, peer, theirs):
    """Notes where a peer is better than one of ours: with fewer broken rules, or as few and less Z."""
    if ours and theirs and (theirs["broken"], theirs["Z"]) < (ours["broken"], ours["Z"]):
        BROKEN.append(f"{name} {engine}: behind {peer}, {ours['Z']:.5f} and {theirs['Z']:.5f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.environ.get("CONVERTHOUSE_BINARY", "target/release/converthouse"))
    parser.add_argument("--sizes", choices=["small", "large", "all"], default="all")
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--time-factor", type=float, default=1.0)
    parser.add_argument("--peers", type=int, default=1)
    parser.add_argument("--dir", default=None)
    options = parser.parse_args()
    folder = options.dir or tempfile.mkdtemp(prefix="placement-")
    os.makedirs(folder, exist_ok=True)
    available = set()
    for peer in ("rebalancer", "ortools", "highspy") if options.peers else ():
        found = subprocess.run([sys.executable, PEERS, peer, "--check"], capture_output=True, text=True)
        if found.returncode == 0:
            available.add(peer)
        else:
            reason = (found.stderr.strip().splitlines() or ["cannot be imported"])[-1]
            print(f"note: {peer} is left out: {reason}")
    print(f"{'instance':<28} {'solver':<12} {'Z':>8} {'bound':>8} {'gap':>7} {'wall s':>7} {'cpu s':>7} {'MB':>7}")
    wanted = [size for size in SIZES if options.sizes == "all" or (options.sizes == "small") == (size[0] <= 100)]
    for nodes, shards, replicas, zones, law, seconds, peers in wanted:
        seconds *= options.time_factor
        # The biggest instance once: it takes minutes with every engine.
        for seed in options.seeds.split(",")[: 1 if nodes > 1000 else None]:
            name = f"{nodes}x{shards} R{replicas} {law} #{seed}"
            if not name.startswith(options.only):
                continue
            instance = os.path.join(folder, f"{nodes}-{shards}-{replicas}-{law.replace(':', '')}-{seed}.txt")
            solution = instance + ".solution"
            shape = map(str, (nodes, shards, replicas, zones, seed, instance, "1.0", law))
            subprocess.run([sys.executable, GENERATE, *shape], check=True)
            bound, best = 0.0, None
            exempt = (nodes, shards, law) in EXEMPT
            for engine in ("hybrid", "milp", "local-search", "greedy") if nodes * shards <= 2500 else OURS:
                bound, found = ours(options.binary, engine, seconds, name, instance, bound, exempt=exempt)
                best = found if engine == "hybrid" else best
            longer = LONGER.get((nodes, shards), 0) * options.time_factor
            if longer > seconds:
                for engine in ("hybrid", "milp") if nodes * shards <= 2500 else ("hybrid",):
                    label = f"{engine}, {longer:.0f} s"
                    bound, _ = ours(options.binary, engine, longer, name, instance, bound, label, exempt)
            for peer in sorted(available.difference(peers)):
                show(name, peer, None, bound, None, f"not run: a model of over {nodes * shards:,} binaries")
            for peer in filter(available.__contains__, peers):
                command = [sys.executable, PEERS, peer, instance, solution, str(max(60.0, 6 * seconds))]
                # What takes many times as long as it may is out of the comparison, and is not waited for.
                run, note = measured(command, max(60.0, 6 * seconds) * (4 if nodes <= 1000 else 1.5))
                verdict = judge(instance, solution) if run else None
                show(name, peer, verdict, bound, run, note)
                ahead(name, "hybrid", best, peer, verdict)
                if run and peer == "rebalancer":
                    # The default engine once more, in a sixth of the time that the peer took, all of the process.
                    sixth = max(run[1] / 6 * 0.95 - 0.1, 0.2)
                    label = "hybrid, 1/6"
                    _, found = ours(options.binary, "hybrid", sixth, name, instance, bound, label, exempt)
                    ahead(name, label, found, peer, verdict)
    for line in BROKEN:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if BROKEN else 0


if __name__ == "__main__":
    environment()
    sys.exit(main())
