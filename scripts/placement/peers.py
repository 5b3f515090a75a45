#!/usr/bin/env python3
"""Other solvers on an instance file: peers.py rebalancer|ortools|highspy INSTANCE SOLUTION SECONDS

`peers.py NAME --check` only says whether the package can be imported. The models are the plain ones that a user of
the package would write: binaries for replica-on-node and leader-on-node, worst deviations and moved bytes minimised.
"""
import sys


def load(path):
    text = open(path).read().split()
    n, s, r, _ = map(int, text[:4])
    watermark = float(text[4])
    nodes = [tuple(map(int, text[5 + 3 * i:8 + 3 * i])) for i in range(n)]
    at = 5 + 3 * n
    rows = [list(map(int, text[at + i * (r + 1):at + (i + 1) * (r + 1)])) for i in range(s)]
    return n, s, r, watermark, nodes, [row[0] for row in rows], [row[1:] for row in rows]


def write(path, placed):
    with open(path, "w") as out:
        for row in placed:
            out.write(" ".join(map(str, row)) + "\n")


def ortools(instance, solution, seconds):
    from ortools.sat.python import cp_model
    n, s, r, watermark, nodes, size, present = load(instance)
    model = cp_model.CpModel()
    active = [i for i in range(n) if not nodes[i][2]]
    x = {(j, i): model.new_bool_var("") for j in range(s) for i in active}
    lead = {(j, i): model.new_bool_var("") for j in range(s) for i in active}
    zones = sorted({nodes[i][0] for i in active})
    for j in range(s):
        model.add(sum(x[j, i] for i in active) == r)
        model.add(sum(lead[j, i] for i in active) == 1)
        for zone in zones:
            model.add(sum(x[j, i] for i in active if nodes[i][0] == zone) <= 1)
        for i in active:
            model.add_implication(lead[j, i], x[j, i])
            model.add_hint(x[j, i], int(i in present[j]))
            model.add_hint(lead[j, i], int(i == present[j][0]))
    total, scale = sum(size) * r, 1_000_000
    capacity = sum(nodes[i][1] for i in active)
    terms = []
    for weight, load_of, fair_of in (
        ("r", lambda i: sum(x[j, i] for j in range(s)), lambda i: r * s / len(active)),
        ("l", lambda i: sum(lead[j, i] for j in range(s)), lambda i: s / len(active)),
        ("b", lambda i: sum(size[j] * x[j, i] for j in range(s)), lambda i: total * nodes[i][1] / capacity),
    ):
        worst = model.new_int_var(0, 10 * scale, weight)
        for i in active:
            fair = fair_of(i)
            unit = max(1, round(fair / 1000)) if weight == "b" else 1
            step = round(scale * unit / fair)
            amount = load_of(i)
            if weight == "b":
                model.add(amount * scale <= round(fair) * scale + worst * round(fair))
                model.add(amount * scale >= round(fair) * scale - worst * round(fair))
            else:
                model.add(amount * step - scale <= worst)
                model.add(scale - amount * step <= worst)
        terms.append(worst)
    for i in active:
        model.add(sum(size[j] * x[j, i] for j in range(s)) <= int(watermark * nodes[i][1]))
    moved = sum(round(scale * size[j] / total) * x[j, i] for j in range(s) for i in active if i not in present[j])
    changed = sum(round(0.05 * scale / s) * (1 - lead[j, present[j][0]]) for j in range(s) if present[j][0] in active)
    model.minimize(sum(terms) + moved + changed)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 2
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise SystemExit("no solution found in time")
    placed = []
    for j in range(s):
        first = next(i for i in active if solver.value(lead[j, i]))
        placed.append([first] + [i for i in active if solver.value(x[j, i]) and i != first])
    write(solution, placed)


def highspy(instance, solution, seconds):
    import highspy as package
    n, s, r, watermark, nodes, size, present = load(instance)
    highs = package.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("time_limit", seconds)
    active = [i for i in range(n) if not nodes[i][2]]
    total, capacity = sum(size) * r, sum(nodes[i][1] for i in active)
    x, lead = {}, {}
    for j in range(s):
        for i in active:
            cost = 0.0 if i in present[j] else size[j] / total
            x[j, i] = highs.addVariable(0, 1, cost, type=package.HighsVarType.kInteger)
            cost = 0.0 if i == present[j][0] else 0.05 / s
            lead[j, i] = highs.addVariable(0, 1, cost, type=package.HighsVarType.kInteger)
    dr, dl, db = (highs.addVariable(0, highs.inf, 1.0) for _ in range(3))
    zones = sorted({nodes[i][0] for i in active})
    for j in range(s):
        highs.addConstr(sum(x[j, i] for i in active) == r)
        highs.addConstr(sum(lead[j, i] for i in active) == 1)
        for zone in zones:
            highs.addConstr(sum(x[j, i] for i in active if nodes[i][0] == zone) <= 1)
        for i in active:
            highs.addConstr(lead[j, i] <= x[j, i])
    for i in active:
        share = total * nodes[i][1] / capacity
        for load_, fair, worst in (
            (sum(x[j, i] for j in range(s)) * (len(active) / (r * s)), 1.0, dr),
            (sum(lead[j, i] for j in range(s)) * (len(active) / s), 1.0, dl),
            (sum(x[j, i] * (size[j] / share) for j in range(s)), 1.0, db),
        ):
            highs.addConstr(load_ - worst <= fair)
            highs.addConstr(load_ + worst >= fair)
        highs.addConstr(sum(x[j, i] * (size[j] / share) for j in range(s)) <= watermark * nodes[i][1] / share)
    highs.minimize()
    values = list(highs.getSolution().col_value)
    if not values or max(values) < 0.5:
        raise SystemExit("no solution found in time")
    placed = []
    for j in range(s):
        first = next(i for i in active if values[lead[j, i].index] > 0.5)
        placed.append([first] + [i for i in active if values[x[j, i].index] > 0.5 and i != first])
    write(solution, placed)


def rebalancer(instance, solution, seconds):
    """Meta's Rebalancer by local search: replicas are objects, nodes are containers."""
    import rebalancer as package  # needs Python 3.12 or newer
    n, s, r, watermark, nodes, size, present = load(instance)
    solver = package.ProblemSolver("placement", "bench")
    solver.set_object_name("replica").set_container_name("node").set_log_level("ERROR")
    held = {f"n{i}": [] for i in range(n)}
    for j in range(s):
        for k, i in enumerate(present[j]):
            held[f"n{i}"].append(f"{j}.{k}")
    solver.set_assignment(held)
    total = sum(size) * r
    active = [i for i in range(n) if not nodes[i][2]]
    capacity = sum(nodes[i][1] for i in active)
    replicas = [(j, k) for j in range(s) for k in range(r)]
    solver.add_object_dimension("bytes", {f"{j}.{k}": size[j] / total for j, k in replicas})
    solver.add_object_dimension("count", {f"{j}.{k}": 1 / (r * s) for j, k in replicas})
    solver.add_object_dimension("lead", {f"{j}.{k}": 1 / s if k == 0 else 0.0 for j, k in replicas})
    solver.add_container_dimension("bytes", {f"n{i}": nodes[i][1] / capacity for i in range(n)})
    for even in ("count", "lead"):
        solver.add_container_dimension(even, {f"n{i}": 1 / len(active) for i in range(n)})
    solver.add_partition("shard", {f"s{j}": [f"{j}.{k}" for k in range(r)] for j in range(s)})
    solver.add_scope("zone", {f"n{i}": f"z{nodes[i][0]}" for i in range(n)})
    absolute, worst = 0, 2  # its enums: the binding takes their numbers
    spread = {"name": "spread", "scope": "zone", "partitionName": "shard",
              "limit": {"type": absolute, "globalLimit": 1.0}}
    solver.add_constraint({"groupCountSpec": spread})
    room = {f"n{i}": watermark * nodes[i][1] / total for i in range(n)}
    full = {"name": "room", "scope": "node", "dimension": "bytes",
            "limit": {"type": absolute, "globalLimit": 1.0, "scopeItemLimits": room}}
    solver.add_constraint({"capacitySpec": full})
    drained = [f"n{i}" for i in range(n) if nodes[i][2]]
    if drained:
        solver.add_constraint({"toFreeSpec": {"name": "drain", "containers": drained}})
        solver.add_constraint({"nonAcceptingSpec": {"name": "closed", "scope": "node", "items": drained}})
    for dimension in ("count", "lead", "bytes"):
        balance = {"name": dimension, "scope": "node", "dimension": dimension, "formula": worst,
                   "filter": {"itemsBlacklist": drained}}
        solver.add_goal({"balanceSpec": balance}, 1.0)
    movement = {"name": "moves", "scope": "node", "dimension": "bytes", "doNotNormalize": True, "magicScaling": False}
    solver.add_goal({"minimizeMovementSpec": movement}, 0.1)
    moves = [{"singleMoveTypeSpec": {}}, {"swapMoveTypeSpec": {}}]
    solver.add_solver({"localSearchSolverSpec": {"solveTime": int(seconds), "moveTypeList": moves}})
    found = solver.solve()["assignment"]
    where = {name: int(node[1:]) for name, node in found.items()}
    write(solution, [[where[f"{j}.{k}"] for k in range(r)] for j in range(s)])


if __name__ == "__main__":
    names = {"ortools": ortools, "highspy": highspy, "rebalancer": rebalancer}
    if len(sys.argv) == 3 and sys.argv[2] == "--check":
        __import__(sys.argv[1])
    elif len(sys.argv) == 5 and sys.argv[1] in names:
        names[sys.argv[1]](sys.argv[2], sys.argv[3], float(sys.argv[4]))
    else:
        raise SystemExit(__doc__)
