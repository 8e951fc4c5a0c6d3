//! Reading and changing a network's activations while it runs.
//!
//! A forward pass calls its [`Tap`] at named [`Site`]s and goes on with the tensor that the tap
//! returns. Reading for statistics, steering the residual stream and collecting data for probes are
//! all taps; there is no registry and no state outside the tap that the caller passes in.

use crate::{Error, Result};
use std::{collections::BTreeMap, fmt};
use tch::Tensor;

/// Names of the sites of a transformer block, in the order in which a forward pass visits them.
pub mod site {
    /// Residual stream as it enters a block, `[batch, seq_len, d_model]`.
    pub const RESID_PRE: &str = "resid_pre";
    /// Mixed values of all heads before the output projection, `[batch, seq_len, n_heads * head_dim]`.
    pub const ATTN_HEADS: &str = "attn_heads";
    /// What attention adds to the residual stream, `[batch, seq_len, d_model]`.
    pub const ATTN_OUT: &str = "attn_out";
    /// Residual stream between attention and MLP, `[batch, seq_len, d_model]`.
    pub const RESID_MID: &str = "resid_mid";
    /// Hidden units of the MLP after activation (and gate), `[batch, seq_len, d_ff]`.
    pub const MLP_HIDDEN: &str = "mlp_hidden";
    /// What the MLP adds to the residual stream, `[batch, seq_len, d_model]`.
    pub const MLP_OUT: &str = "mlp_out";
    /// Residual stream as it leaves a block, `[batch, seq_len, d_model]`.
    pub const RESID_POST: &str = "resid_post";
    /// Output of the final normalisation; its layer is the number of blocks.
    pub const FINAL_NORM: &str = "final_norm";
}

/// A named point in a forward pass.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site<'a> {
    /// Index of the block, from 0.
    pub layer: usize,
    /// One of the names in [`site`], or a name that the network documents.
    pub name: &'a str,
}

impl fmt::Display for Site<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.layer, self.name)
    }
}

/// Something that looks at activations, and may change them.
pub trait Tap {
    /// Sees the activation `x` at `site` and returns what the network goes on with: `x` itself to
    /// read, something else of the same sizes, kind and device to intervene. Anything else makes
    /// the forward pass fail with [`Error::Shape`] or [`Error::Kind`].
    fn visit(&mut self, site: Site<'_>, x: Tensor) -> Tensor;

    /// Whether visits have any effect. [`NoTap`] answers no, which removes the calls altogether.
    fn active(&self) -> bool {
        true
    }
}

/// Passes `x` through `tap` and checks that what comes back fits. Networks call this at each site.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Kind`] naming the site when the tap returned other sizes or
/// another element type, [`Error::Argument`] for another device.
pub fn pass<T: Tap + ?Sized>(tap: &mut T, site: Site<'_>, x: Tensor) -> Result<Tensor> {
    if !tap.active() {
        return Ok(x);
    }
    let (size, kind, device) = (x.size(), x.kind(), x.device());
    let y = tap.visit(site, x);
    let arg = || format!("tap at {site}");
    if y.size() != size {
        let expected = format!("{size:?}");
        return Err(Error::Shape { op: "Tap::visit", arg: arg(), expected, got: y.size() });
    }
    if y.kind() != kind {
        let expected = format!("{kind:?}");
        return Err(Error::Kind { op: "Tap::visit", arg: arg(), expected, got: y.kind() });
    }
    if y.device() != device {
        let (expected, got) = (format!("on {device:?}"), format!("{:?}", y.device()));
        return Err(Error::Argument { op: "Tap::visit", arg: "returned tensor", expected, got });
    }
    Ok(y)
}

/// Reads nothing, changes nothing, costs nothing.
#[derive(Copy, Clone, Debug, Default)]
pub struct NoTap;

impl Tap for NoTap {
    #[inline]
    fn visit(&mut self, _: Site<'_>, x: Tensor) -> Tensor {
        x
    }

    #[inline]
    fn active(&self) -> bool {
        false
    }
}

/// One after the other: the second sees what the first returned.
impl<A: Tap, B: Tap> Tap for (A, B) {
    fn visit(&mut self, site: Site<'_>, x: Tensor) -> Tensor {
        let x = if self.0.active() { self.0.visit(site, x) } else { x };
        if self.1.active() { self.1.visit(site, x) } else { x }
    }

    fn active(&self) -> bool {
        self.0.active() || self.1.active()
    }
}

impl<T: Tap + ?Sized> Tap for &mut T {
    fn visit(&mut self, site: Site<'_>, x: Tensor) -> Tensor {
        (**self).visit(site, x)
    }

    fn active(&self) -> bool {
        (**self).active()
    }
}

/// A closure as a tap.
///
/// ```
/// use tensor_core::tap::{FnTap, Tap, site};
/// let mut silence_first_block = FnTap(|at: tensor_core::tap::Site<'_>, x: tensor_core::Tensor| {
///     if at.layer == 0 && at.name == site::MLP_OUT { x.zeros_like() } else { x }
/// });
/// assert!(silence_first_block.active());
/// ```
pub struct FnTap<F>(pub F);

impl<F: FnMut(Site<'_>, Tensor) -> Tensor> Tap for FnTap<F> {
    fn visit(&mut self, site: Site<'_>, x: Tensor) -> Tensor {
        (self.0)(site, x)
    }
}

impl<F> fmt::Debug for FnTap<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnTap")
    }
}

/// Keeps what it sees, detached from the graph. The network's output stays bit-equal.
///
/// The tensors share storage with the network's own: do not edit them in place.
///
/// ```
/// use tensor_core::tap::{Record, site};
/// let streams = Record::of(&[site::RESID_POST]).in_layers(&[0, 3]);
/// assert!(streams.get(0, site::RESID_POST).is_none()); // nothing seen yet
/// ```
#[derive(Debug, Default)]
pub struct Record {
    names: Option<Vec<String>>,
    layers: Option<Vec<usize>>,
    seen: BTreeMap<(usize, String), Vec<Tensor>>,
}

impl Record {
    /// Keeps every site.
    pub fn all() -> Self {
        Self::default()
    }

    /// Keeps the named sites of every layer.
    pub fn of(names: &[&str]) -> Self {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Self { names: Some(names), ..Self::default() }
    }

    /// Restricts to these layers.
    #[must_use]
    pub fn in_layers(mut self, layers: &[usize]) -> Self {
        self.layers = Some(layers.to_vec());
        self
    }

    /// What the last visit of a site saw, `None` when it was not visited or not asked for.
    pub fn get(&self, layer: usize, name: &str) -> Option<&Tensor> {
        self.visits(layer, name).last()
    }

    /// What each visit of a site saw, oldest first (one for each forward pass or decoding step).
    pub fn visits(&self, layer: usize, name: &str) -> &[Tensor] {
        self.seen.get(&(layer, name.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// All sites seen with their visits, by layer and then name.
    pub fn iter(&self) -> impl Iterator<Item = (Site<'_>, &[Tensor])> {
        self.seen.iter().map(|((layer, name), xs)| (Site { layer: *layer, name }, xs.as_slice()))
    }

    /// Forgets what was seen, keeps what is asked for.
    pub fn clear(&mut self) {
        self.seen.clear();
    }
}

impl Tap for Record {
    fn visit(&mut self, site: Site<'_>, x: Tensor) -> Tensor {
        let name_fits =
            self.names.as_ref().is_none_or(|names| names.iter().any(|name| name == site.name));
        let layer_fits = self.layers.as_ref().is_none_or(|layers| layers.contains(&site.layer));
        if name_fits && layer_fits {
            let key = (site.layer, site.name.to_owned());
            self.seen.entry(key).or_default().push(x.detach());
        }
        x
    }
}

#[derive(Debug)]
enum Edit {
    Add(Tensor),
    Replace(Tensor),
}

/// Adds to activations or replaces them, at given sites. Gradients flow into the given tensors.
///
/// A tensor given may be anything that broadcasts to the activation's sizes, such as `[d_model]` for
/// a steering direction or `[seq_len, 1]` for a mask over time. Several edits of one site apply in
/// the order given.
///
/// ```
/// use tensor_core::{Device, Kind, Tensor, tap::{Intervene, Site, Tap, site}};
/// let direction = Tensor::from_slice(&[1_f32, -1.0]);
/// let mut steer = Intervene::new().add(2, site::RESID_POST, &direction);
/// let x = Tensor::zeros([1, 3, 2], (Kind::Float, Device::Cpu));
/// let y = steer.visit(Site { layer: 2, name: site::RESID_POST }, x);
/// assert_eq!(y.sum(Kind::Float).double_value(&[]), 0.0);
/// assert_eq!(y.double_value(&[0, 2, 0]), 1.0);
/// ```
#[derive(Debug, Default)]
pub struct Intervene {
    edits: Vec<(usize, String, Edit)>,
}

impl Intervene {
    /// Changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `delta` to the activation at a site.
    #[must_use]
    pub fn add(mut self, layer: usize, name: &str, delta: &Tensor) -> Self {
        self.edits.push((layer, name.to_owned(), Edit::Add(delta.shallow_clone())));
        self
    }

    /// Puts `value` in the place of the activation at a site.
    #[must_use]
    pub fn replace(mut self, layer: usize, name: &str, value: &Tensor) -> Self {
        self.edits.push((layer, name.to_owned(), Edit::Replace(value.shallow_clone())));
        self
    }
}

impl Tap for Intervene {
    fn visit(&mut self, site: Site<'_>, x: Tensor) -> Tensor {
        self.edits.iter().filter(|(layer, name, _)| *layer == site.layer && name == site.name).fold(
            x,
            |x, (_, _, edit)| match edit {
                // A tensor that does not fit is handed on as it is: `pass` reports its sizes.
                Edit::Add(delta) => x.f_add(delta).unwrap_or_else(|_| delta.shallow_clone()),
                Edit::Replace(value) => {
                    value.f_expand_as(&x).unwrap_or_else(|_| value.shallow_clone())
                }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    const AT: Site<'static> = Site { layer: 1, name: site::RESID_MID };

    fn ones() -> Tensor {
        Tensor::ones([1, 2, 3], (Kind::Float, Device::Cpu))
    }

    #[test]
    fn record_keeps_only_what_is_asked_for() {
        let mut tap = Record::of(&[site::RESID_MID]).in_layers(&[1]);
        let x = ones().set_requires_grad(true);
        let y = tap.visit(AT, x.shallow_clone());
        assert!(y.requires_grad());
        let _ = tap.visit(Site { layer: 0, ..AT }, ones());
        let _ = tap.visit(Site { name: site::MLP_OUT, ..AT }, ones());
        assert_eq!(tap.iter().count(), 1);
        assert!(!tap.get(1, site::RESID_MID).unwrap().requires_grad());
        let _ = tap.visit(AT, ones() * 2.0);
        assert_eq!(tap.visits(1, site::RESID_MID).len(), 2);
        assert!((tap.get(1, site::RESID_MID).unwrap().double_value(&[0, 0, 0]) - 2.0).abs() < 1e-9);
        tap.clear();
        assert!(tap.get(1, site::RESID_MID).is_none());
    }

    #[test]
    fn edits_apply_in_order_and_a_pair_of_taps_composes() {
        let two = Tensor::from(2_f32);
        let edit = Intervene::new().replace(1, site::RESID_MID, &two).add(1, site::RESID_MID, &two);
        let mut both = (edit, Record::all());
        let y = pass(&mut both, AT, ones()).unwrap();
        assert!((y.double_value(&[0, 1, 2]) - 4.0).abs() < 1e-9);
        assert_eq!(both.1.get(1, site::RESID_MID).unwrap(), &y);
    }

    #[test]
    fn a_tensor_that_does_not_fit_is_an_error_that_names_the_site() {
        for bad in [
            Tensor::ones([7], (Kind::Float, Device::Cpu)),
            Tensor::ones([4, 2, 2, 3], (Kind::Float, Device::Cpu)),
        ] {
            for mut tap in [
                Intervene::new().add(1, site::RESID_MID, &bad),
                Intervene::new().replace(1, site::RESID_MID, &bad),
            ] {
                let message = pass(&mut tap, AT, ones()).unwrap_err().to_string();
                assert!(message.contains("tap at 1.resid_mid"), "{message}");
            }
        }
        let bad = Tensor::ones([3], (Kind::Double, Device::Cpu));
        let mut tap = Intervene::new().replace(1, site::RESID_MID, &bad);
        assert!(matches!(pass(&mut tap, AT, ones()), Err(Error::Kind { .. })));
    }

    #[test]
    fn no_tap_is_inactive_alone_and_in_pairs() {
        assert!(!NoTap.active());
        assert!(!(NoTap, NoTap).active());
        assert!((NoTap, Record::all()).active());
        let mut dynamic: Box<dyn Tap> = Box::new(Record::all());
        assert!(pass(&mut *dynamic, AT, ones()).is_ok());
    }
}
