"""A trial program needs no library: one JSON request on stdin, JSON lines to a file."""
import json, os, random, sys

if "--describe" in sys.argv:
    print(json.dumps({"python": sys.version.split()[0]}))
    sys.exit()

request = json.load(sys.stdin)
cell, steps = request["cell"], int(request["budget"]["amount"])
rng = random.Random(request["seeds"]["init"])
n, condition = cell["dimensions"], cell["condition"]
scale = [condition ** (i / max(n - 1, 1)) for i in range(n)]
x, v = [rng.uniform(-1, 1) for _ in range(n)], [0.0] * n
momentum = 0.9 if cell["method"] == "momentum" else 0.0

with open(os.environ["EXP_EVENTS"], "a", buffering=1) as events:
    log = lambda **event: print(json.dumps(event), file=events)
    for step in range(steps):
        loss = sum(0.5 * c * xi * xi for c, xi in zip(scale, x))
        log(t="point", name="train_loss", step=step, budget=float(step), value=loss)
        for i in range(n):
            slope = 0.5 * condition * x[i] if cell["method"] == "scaled" else scale[i] * x[i]
            v[i] = momentum * v[i] - slope / condition
            x[i] += v[i]
    log(t="metric", name="train_loss", split="train", value=loss)
    if "test" in request["splits"]:
        log(t="metric", name="test_loss", split="test", value=loss)
    log(t="done", budget_used=float(steps))
