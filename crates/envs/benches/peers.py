"""Steps per second of the Python peers, on this machine, now.

python3 -m venv venv
venv/bin/pip install "gymnasium[mujoco]==1.4.0" mujoco==4.0.0 minigrid==3.2.0 envpool==1.2.5
venv/bin/python crates/envs/benches/peers.py
"""

import sys
import time

SECONDS = 3.0


def rate(step, per_call=1):
    """Calls per second times `per_call`, after a short warm-up."""
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        step()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        for _ in range(20):
            step()
        calls += 20
    return calls * per_call / (time.perf_counter() - start)


def single(name, **options):
    import gymnasium

    env = gymnasium.make(name, **options)
    env.action_space.seed(0)
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(997)]
    if name.startswith("Ant"):
        actions = [a * 0.3 for a in actions]
    at = [0]

    def step():
        at[0] = (at[0] + 1) % len(actions)
        _, _, terminated, truncated, _ = env.step(actions[at[0]])
        if terminated or truncated:
            env.reset()

    return rate(step)


def minigrid():
    import minigrid  # noqa: F401  registers the environments

    return single("MiniGrid-Empty-8x8-v0")


def pool(name, threads, envs=64):
    import envpool
    import numpy

    env = envpool.make_gymnasium(name, num_envs=envs, num_threads=threads, seed=0)
    env.reset()
    space = env.action_space
    rng = numpy.random.default_rng(0)
    if hasattr(space, "n"):
        actions = [rng.integers(0, space.n, envs) for _ in range(97)]
    else:
        actions = [rng.uniform(-0.3, 0.3, (envs, *space.shape)) for _ in range(97)]
    at = [0]

    def step():
        at[0] = (at[0] + 1) % len(actions)
        env.step(actions[at[0]])

    return rate(step, envs)


PEERS = [
    ("minigrid MiniGrid-Empty-8x8", minigrid),
    ("gymnasium CartPole-v1", lambda: single("CartPole-v1")),
    ("gymnasium Ant-v5", lambda: single("Ant-v5")),
    ("envpool MiniGrid-Empty-8x8, 64 envs, 1 thread", lambda: pool("MiniGrid-Empty-8x8-v0", 1)),
    ("envpool MiniGrid-Empty-8x8, 64 envs, 2 threads", lambda: pool("MiniGrid-Empty-8x8-v0", 2)),
    ("envpool Ant-v5, 64 envs, 1 thread", lambda: pool("Ant-v5", 1)),
    ("envpool Ant-v5, 64 envs, 2 threads", lambda: pool("Ant-v5", 2)),
]

for name, measure in PEERS:
    try:
        print(f"{name:<50} {measure():>12,.0f} steps/s", flush=True)
    except Exception as error:  # a peer that is not installed must not hide the others
        print(f"{name:<50} not measured: {error}", file=sys.stderr, flush=True)
