"""The mesa operation in PyTorch, chunkwise, float32: the peer of benches/mesa.rs.

Usage: python3 chunkwise.py [--threads 2] [--steps 30] [--chunk 64]

Prints best-of-7 milliseconds, forward and forward+backward, for B=1, H=4, d in {64, 128} and
T in {512, 2048, 8192}, and the rate of a large sgemm in the same process. Chunks are solved in groups
that fit the cache, products are in place, and the backward pass is the closed form with a second
solve; autograd sees the two linear attentions alone.
"""

import argparse
import time

import torch


def fold(x, c):
    b, t, h = x.shape[:3]
    return x.transpose(1, 2).reshape(b * h, t // c, c, *x.shape[3:])


def solve(k, h, d, cum, lam, q, steps, group=16):
    """Conjugate gradients for all tokens; everything [chunks, c, ..]."""
    out = torch.empty_like(q)
    for i in range(0, q.shape[0], group):
        s = slice(i, i + group)
        ks, hs, ds, cs, ls = k[s], h[s], d[s], cum[s], lam[s]
        kt = ks.transpose(-1, -2)

        def apply(p):
            u = torch.bmm((torch.bmm(p, kt)).mul_(ds), ks)
            return u.baddbmm_(p * cs, hs).addcmul_(p, ls.expand_as(p))

        diag = cs * hs.diagonal(dim1=-2, dim2=-1).unsqueeze(1) + torch.bmm(ds, ks * ks) + ls
        x = q[s] / diag
        r = q[s] - apply(x)
        p = r.clone()
        delta = (r * r).sum(-1, keepdim=True)
        for _ in range(steps):
            u = apply(p)
            alpha = delta / (p * u).sum(-1, keepdim=True).clamp_min(1e-30)
            x.addcmul_(alpha, p)
            r.addcmul_(alpha, u, value=-1)
            new = (r * r).sum(-1, keepdim=True)
            p.mul_(new / delta.clamp_min(1e-30)).add_(r)
            delta = new
        out[s] = x
    return out


class Chunks:
    def __init__(self, k, g, beta, lam, c):
        self.k = fold(k, c)
        b = fold(g, c).cumsum(-1)
        mask = torch.ones(c, c, dtype=torch.bool).tril()
        z = (b.unsqueeze(-1) - b.unsqueeze(-2)).masked_fill(~mask, float("-inf")).exp()
        self.d = z * fold(beta, c).unsqueeze(-2)
        self.cum = b.exp().unsqueeze(-1)
        self.lam = lam

    def scan(self, x):
        add = (self.k * self.d[:, :, -1:].transpose(-1, -2)).transpose(-1, -2) @ x
        h, states = torch.zeros_like(add[:, 0]), []
        for i in range(add.shape[1]):
            states.append(h)
            h = self.cum[:, i, -1:] * h + add[:, i]
        return torch.stack(states, 1)

    def attend(self, x, keys, values, h):
        return self.cum * (x @ h) + ((x @ keys.transpose(-1, -2)) * self.d) @ values


def flat(x):
    return x.reshape(-1, *x.shape[2:])


def forward(q, k, v, g, beta, lam, c, steps):
    ch = Chunks(k, g, beta, lam, c)
    h, hv = ch.scan(ch.k), ch.scan(fold(v, c))
    qf = fold(q, c)
    lam = lam.unsqueeze(1).unsqueeze(1).expand(-1, qf.shape[1], 1, -1)
    x = solve(flat(ch.k), flat(h), flat(ch.d), flat(ch.cum), flat(lam), flat(qf), steps)
    x = x.view_as(qf)
    return ch.attend(x, ch.k, fold(v, c), hv), (x, h, hv, ch, lam)


def backward(q, k, v, g, beta, lam0, c, steps, saved, do):
    x, h, hv, ch, lam = saved
    vf = fold(v, c)
    rhs = ch.cum * (do @ hv.transpose(-1, -2)) + ((do @ vf.transpose(-1, -2)) * ch.d) @ ch.k
    e = solve(flat(ch.k), flat(h), flat(ch.d), flat(ch.cum), flat(lam), flat(rhs), steps).view_as(x)
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (k, v, g, beta)]
        again = Chunks(leaves[0], leaves[2], leaves[3], lam0, c)
        vl = fold(leaves[1], c)
        hk, hvl = again.scan(again.k), again.scan(vl)
        s = (do * again.attend(x, again.k, vl, hvl)).sum() - (
            e * again.attend(x, again.k, again.k, hk)
        ).sum()
        return (e, *torch.autograd.grad(s, leaves), -(x * e).sum((1, 2)))


def best(f, n=7):
    f()
    times = []
    for _ in range(n):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--steps", type=int, default=30)
    args.add_argument("--chunk", type=int, default=64)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    ms = best(lambda: a @ b)
    print(f"torch {torch.__version__}, {args.threads} threads, sgemm 1024: {2 * 1024**3 / ms / 1e6:.0f} GFLOP/s")
    for d in (64, 128):
        for t in (512, 2048, 8192):
            unit = lambda: torch.nn.functional.normalize(
                torch.nn.functional.silu(torch.randn(1, t, 4, d)), dim=-1
            )
            q, k, v = unit(), unit(), torch.randn(1, t, 4, d)
            g, beta = torch.full((1, t, 4), -0.01), torch.rand(1, t, 4)
            lam = torch.full((4, d), 0.25)
            with torch.no_grad():
                run = lambda: forward(q, k, v, g, beta, lam, args.chunk, args.steps)
                fwd = best(run)

                def both():
                    o, saved = run()
                    backward(q, k, v, g, beta, lam, args.chunk, args.steps, saved, torch.ones_like(o))

                print(f"d {d}, T {t}: forward {fwd:.1f} ms, forward+backward {best(both):.1f} ms")


if __name__ == "__main__":
    main()
