//! Pre-norm transformer block.

use super::{CausalSelfAttention, Dropout, KvCache, Mlp, Mode, Norm};
use crate::{
    Result, Tap,
    tap::{Site, pass, site},
};
use tch::Tensor;

/// ```text
/// resid_mid  = resid_pre + attn(attn_norm(resid_pre))
/// resid_post = resid_mid + mlp(mlp_norm(resid_mid))
/// ```
///
/// Dropout, when configured, acts on what attention and MLP add. Made by
/// [`Decoder::new`](super::Decoder::new); the parts are public, so that a network may be taken apart,
/// stacked and grown.
#[derive(Clone, Debug)]
pub struct TransformerBlock {
    /// Before attention.
    pub attn_norm: Norm,
    /// Attention.
    pub attn: CausalSelfAttention,
    /// Before the MLP.
    pub mlp_norm: Norm,
    /// MLP.
    pub mlp: Mlp,
    /// On both branches.
    pub dropout: Dropout,
}

impl TransformerBlock {
    /// Passes the residual stream `x: [batch, seq_len, d_model]` through the block as its `layer`-th,
    /// which is the index that `tap` sees.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) or [`Error::Kind`](crate::Error::Kind) when `x`, or
    /// what `tap` returns, does not fit.
    pub fn forward<T: Tap + ?Sized>(
        &self,
        x: &Tensor,
        layer: usize,
        mode: Mode,
        tap: &mut T,
    ) -> Result<Tensor> {
        self.check("TransformerBlock::forward", x, &KvCache::default())?;
        Ok(self.run(x.shallow_clone(), &KvCache::default(), layer, mode, tap)?.0)
    }

    /// Checks `x` against the block and its cache, and that the parts, which may have grown, agree.
    pub(super) fn check(&self, op: &'static str, x: &Tensor, cache: &KvCache) -> Result<()> {
        self.attn.check(op, x, cache)?;
        self.mlp.check(op, x.size()[2])
    }

    /// The pass without checks of `x`.
    pub(super) fn run<T: Tap + ?Sized>(
        &self,
        x: Tensor,
        cache: &KvCache,
        layer: usize,
        mode: Mode,
        tap: &mut T,
    ) -> Result<(Tensor, KvCache)> {
        let mut at = |name, x| pass(tap, Site { layer, name }, x);
        let resid_pre = at(site::RESID_PRE, x)?;
        let normed = self.attn_norm.forward(&resid_pre)?;
        let (attn, cache) = self.attn.run(&normed, cache, layer, tap)?;
        let mut at = |name, x| pass(tap, Site { layer, name }, x);
        let attn = at(site::ATTN_OUT, self.dropout.forward(attn, mode))?;
        let resid_mid = at(site::RESID_MID, resid_pre + attn)?;
        let normed = self.mlp_norm.forward(&resid_mid)?;
        let mlp = self.mlp.run(&normed, layer, tap)?;
        let mut at = |name, x| pass(tap, Site { layer, name }, x);
        let mlp = at(site::MLP_OUT, self.dropout.forward(mlp, mode))?;
        let resid_post = at(site::RESID_POST, resid_mid + mlp)?;
        Ok((resid_post, cache))
    }
}
