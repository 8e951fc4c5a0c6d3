//! What a mesa operation is given and what it returns; the one place where inputs are checked.

use tch::{Device, Kind, Tensor};
use tensor_core::{Error, Result, check_shape};

/// Running statistics of one layer: all that it remembers of the past.
#[derive(Debug)]
pub struct MesaState {
    /// Key statistics `H`, `[batch, n_heads, head_dim, head_dim]`, symmetric.
    pub h_kk: Tensor,
    /// Key-value statistics, `[batch, n_heads, head_dim, value_dim]`: the transpose of the paper's `G`.
    pub g_kv: Tensor,
}

impl MesaState {
    /// The empty past.
    pub fn zeros(
        [batch, n_heads, head_dim, value_dim]: [i64; 4],
        kind: Kind,
        device: Device,
    ) -> Self {
        let zeros = |d| Tensor::zeros([batch, n_heads, head_dim, d], (kind, device));
        Self { h_kk: zeros(head_dim), g_kv: zeros(value_dim) }
    }

    pub(crate) fn map(&self, mut f: impl FnMut(&Tensor) -> Tensor) -> Self {
        Self { h_kk: f(&self.h_kk), g_kv: f(&self.g_kv) }
    }
}

impl Clone for MesaState {
    /// Handles that share storage.
    fn clone(&self) -> Self {
        self.map(Tensor::shallow_clone)
    }
}

/// Inputs of a mesa operation over whole sequences.
///
/// float32 and float64 are computed as they are; half precision is computed in float32.
#[derive(Clone, Copy, Debug)]
pub struct MesaInputs<'a> {
    /// Queries `[batch, seq_len, n_heads, head_dim]`.
    pub q: &'a Tensor,
    /// Keys, sized as the queries.
    pub k: &'a Tensor,
    /// Values `[batch, seq_len, n_heads, value_dim]`.
    pub v: &'a Tensor,
    /// Natural logarithm of the forget gate's magnitude, `[batch, seq_len, n_heads]`, `<= 0`;
    /// `-inf`, or anything below -800, forgets all.
    pub g: &'a Tensor,
    /// Input gate `[batch, seq_len, n_heads]`, `>= 0`.
    pub beta: &'a Tensor,
    /// Diagonal of the regulariser `Lambda`, `[n_heads, head_dim]`, `> 0`.
    pub ridge: &'a Tensor,
    /// Sign of the forget gate, `+1` or `-1`, `[batch, seq_len, n_heads]`; all positive when absent.
    /// With negative gates `H` need not be semi-definite: the ridge must make up for it. Takes no
    /// gradient.
    pub sign: Option<&'a Tensor>,
    /// Statistics before the first token; empty when absent. With `cu_seqlens`, one row for each
    /// sequence.
    pub initial: Option<&'a MesaState>,
    /// Ends of packed sequences, `[0, end of the first, .., seq_len]`; `batch` must be 1 then.
    pub cu_seqlens: Option<&'a [i64]>,
    /// First iterate of the solve, sized as the queries, in place of the solver's start. Takes no
    /// gradient.
    pub warm: Option<&'a Tensor>,
}

impl<'a> MesaInputs<'a> {
    /// Inputs of sequences that start from nothing.
    pub fn new(
        [q, k, v]: [&'a Tensor; 3],
        g: &'a Tensor,
        beta: &'a Tensor,
        ridge: &'a Tensor,
    ) -> Self {
        Self { q, k, v, g, beta, ridge, sign: None, initial: None, cu_seqlens: None, warm: None }
    }

    /// The same after a past.
    #[must_use]
    pub fn after(self, past: &'a MesaState) -> Self {
        Self { initial: Some(past), ..self }
    }
}

/// How hard the solves were.
#[derive(Debug)]
pub struct SolveStats {
    /// Steps of each token, `[batch, seq_len, n_heads]`, `Int64`; 0 for exact solves.
    pub steps: Tensor,
    /// `|q - (H_t + Lambda) x|` of each token as the iteration knows it; 0 for exact solves.
    pub residual: Tensor,
}

/// Result of a mesa operation.
#[derive(Debug)]
pub struct MesaOutput {
    /// Outputs `o_t`, `[batch, seq_len, n_heads, value_dim]`.
    pub o: Tensor,
    /// Statistics after the last token (of each packed sequence).
    pub state: MesaState,
    /// Solutions `(H_t + Lambda)^-1 q_t`, sized as the queries. No gradient flows through them in
    /// the implicit form.
    pub q_star: Tensor,
    /// How hard the solves were.
    pub stats: SolveStats,
}

/// Inputs after checks: one element type, all states there, no packing.
pub(crate) struct Problem {
    pub(crate) q: Tensor,
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
    pub(crate) g: Tensor,
    pub(crate) beta: Tensor,
    pub(crate) ridge: Tensor,
    pub(crate) sign: Option<Tensor>,
    pub(crate) warm: Option<Tensor>,
    pub(crate) initial: MesaState,
}

impl Clone for Problem {
    fn clone(&self) -> Self {
        self.map(Tensor::shallow_clone)
    }
}

impl Problem {
    pub(crate) fn map(&self, mut f: impl FnMut(&Tensor) -> Tensor) -> Self {
        Self {
            q: f(&self.q),
            k: f(&self.k),
            v: f(&self.v),
            g: f(&self.g),
            beta: f(&self.beta),
            ridge: f(&self.ridge),
            sign: self.sign.as_ref().map(&mut f),
            warm: self.warm.as_ref().map(&mut f),
            initial: self.initial.map(f),
        }
    }

    /// `[batch, seq_len, n_heads, head_dim, value_dim]`.
    pub(crate) fn sizes(&self) -> [i64; 5] {
        let (q, v) = (self.q.size(), self.v.size());
        [q[0], q[1], q[2], q[3], v[3]]
    }

    /// Tokens `from..from + len` of batch row `row` (all rows when absent), with that row's state.
    pub(crate) fn part(&self, from: i64, len: i64, state_row: i64) -> Self {
        let cut = |x: &Tensor| x.narrow(1, from, len);
        Self {
            q: cut(&self.q),
            k: cut(&self.k),
            v: cut(&self.v),
            g: cut(&self.g),
            beta: cut(&self.beta),
            ridge: self.ridge.shallow_clone(),
            sign: self.sign.as_ref().map(cut),
            warm: self.warm.as_ref().map(cut),
            initial: self.initial.map(|s| s.narrow(0, state_row, 1)),
        }
    }
}

const OP: &str = "mesa";

/// Largest number of elements of one state tensor over the batch; beyond it sizes are a mistake.
const MAX_STATE: i64 = 1 << 34;

/// Checks `inputs` and converts them to one element type.
pub(crate) fn check(inputs: &MesaInputs<'_>) -> Result<Problem> {
    let MesaInputs { q, k, v, g, beta, ridge, .. } = *inputs;
    check_shape!(OP, q, [?batch, ?seq_len, ?n_heads, ?head_dim]);
    check_shape!(OP, k, [batch, seq_len, n_heads, head_dim]);
    check_shape!(OP, v, [batch, seq_len, n_heads, ?value_dim]);
    check_shape!(OP, g, [batch, seq_len, n_heads]);
    check_shape!(OP, beta, [batch, seq_len, n_heads]);
    check_shape!(OP, ridge, [n_heads, head_dim]);
    for (arg, x, least) in [("q", q, batch.min(n_heads).min(head_dim)), ("v", v, value_dim)] {
        if least < 1 {
            let expected = "[batch >= 1, seq_len, n_heads >= 1, head size >= 1]".to_owned();
            return Err(Error::Shape { op: OP, arg: arg.to_owned(), expected, got: x.size() });
        }
    }
    let n_states = match inputs.cu_seqlens {
        None => batch,
        Some(ends) => check_ends(ends, batch, seq_len)?,
    };
    let elements = [n_states, n_heads, head_dim, head_dim.max(value_dim)]
        .iter()
        .try_fold(1_i64, |n, d| n.checked_mul(*d));
    if elements.is_none_or(|n| n > MAX_STATE) {
        let expected = format!("of at most {MAX_STATE} elements of state");
        return Err(Error::Shape { op: OP, arg: "q".to_owned(), expected, got: q.size() });
    }
    if let Some(sign) = inputs.sign {
        check_shape!(OP, sign, [batch, seq_len, n_heads]);
    }
    if let Some(warm) = inputs.warm {
        check_shape!(OP, warm, [batch, seq_len, n_heads, head_dim]);
    }
    if let Some(MesaState { h_kk, g_kv }) = inputs.initial {
        check_shape!(OP, h_kk, [n_states, n_heads, head_dim, head_dim]);
        check_shape!(OP, g_kv, [n_states, n_heads, head_dim, value_dim]);
    }
    let named = [("q", q), ("k", k), ("v", v), ("g", g), ("beta", beta), ("ridge", ridge)];
    let state = inputs.initial.map(|s| [("initial.h_kk", &s.h_kk), ("initial.g_kv", &s.g_kv)]);
    let extra = [("warm", inputs.warm), ("sign", inputs.sign)];
    let all: Vec<(&'static str, &Tensor)> = named
        .into_iter()
        .chain(state.into_iter().flatten())
        .chain(extra.into_iter().filter_map(|(name, x)| x.map(|x| (name, x))))
        .collect();
    for (arg, x) in &all {
        let float = matches!(x.kind(), Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
        if !float {
            let expected = "a floating-point kind".to_owned();
            return Err(Error::Kind { op: OP, arg: (*arg).to_owned(), expected, got: x.kind() });
        }
        if x.device() != q.device() {
            let (expected, got) =
                (format!("on {:?}, as q", q.device()), format!("{:?}", x.device()));
            return Err(Error::Argument { op: OP, arg, expected, got });
        }
    }
    check_values(&all)?;
    let kind =
        if all.iter().any(|(_, x)| x.kind() == Kind::Double) { Kind::Double } else { Kind::Float };
    let to = |x: &Tensor| x.to_kind(kind);
    let initial = inputs.initial.map_or_else(
        || MesaState::zeros([n_states, n_heads, head_dim, value_dim], kind, q.device()),
        |s| s.map(to),
    );
    Ok(Problem {
        q: to(q),
        k: to(k),
        v: to(v),
        g: to(g),
        beta: to(beta),
        ridge: to(ridge),
        sign: inputs.sign.map(|x| to(&x.detach())),
        warm: inputs.warm.map(|x| to(&x.detach())),
        initial,
    })
}

/// Checks the ends of packed sequences and returns how many there are.
fn check_ends(ends: &[i64], batch: i64, seq_len: i64) -> Result<i64> {
    let bad = |expected: String, got: String| {
        Err(Error::Argument { op: OP, arg: "cu_seqlens", expected, got })
    };
    if batch != 1 {
        return bad("absent unless batch = 1".to_owned(), format!("batch = {batch}"));
    }
    let (Some(first), Some(last)) = (ends.first(), ends.last()) else {
        return bad("[0, .., seq_len]".to_owned(), "an empty list".to_owned());
    };
    if ends.len() < 2 || *first != 0 || *last != seq_len {
        let expected = format!("to start at 0 and to end at seq_len = {seq_len}");
        return bad(expected, format!("{} numbers from {first} to {last}", ends.len()));
    }
    if let Some([a, b, ..]) = ends.windows(2).find(|w| w[0] > w[1]) {
        return bad("ascending".to_owned(), format!("{a} before {b}"));
    }
    Ok(ends.len() as i64 - 1)
}

/// Checks the domain of every value with one wait for the device.
fn check_values(all: &[(&'static str, &Tensor)]) -> Result<()> {
    let _guard = tch::no_grad_guard();
    let good: Vec<Tensor> = all
        .iter()
        .map(|(arg, x)| match *arg {
            "g" => x.le(0.0).all(), // false for NaN, true for -inf
            "beta" => x.ge(0.0).logical_and(&x.isfinite()).all(),
            "ridge" => x.gt(0.0).logical_and(&x.isfinite()).all(),
            "sign" => x.abs().eq(1.0).all(),
            _ => x.isfinite().all(),
        })
        .collect();
    if Tensor::stack(&good, 0).all().int64_value(&[]) != 0 {
        return Ok(());
    }
    let at = good.iter().position(|ok| ok.int64_value(&[]) == 0).unwrap_or_default();
    let (arg, x) = all[at];
    let finite = x.isnan().any().int64_value(&[]) == 0;
    let expected = match arg {
        "g" => "<= 0: the logarithm of a gate in [0, 1]",
        "beta" => ">= 0 and finite",
        "ridge" => "> 0 and finite",
        "sign" => "+1 or -1",
        _ => return Err(Error::NonFinite { op: OP, what: arg.to_owned(), step: 0 }),
    };
    if !finite {
        return Err(Error::NonFinite { op: OP, what: arg.to_owned(), step: 0 });
    }
    let extreme = if arg == "g" { x.max() } else { x.min() };
    let got = extreme.double_value(&[]).to_string();
    Err(Error::Argument { op: OP, arg, expected: expected.to_owned(), got })
}
