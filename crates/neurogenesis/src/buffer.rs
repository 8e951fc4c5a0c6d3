//! The most recent training inputs, on which activations are measured (section 7).

use crate::{Error, Result};
use tensor_core::Tensor;

/// First in, first out; newest first. Holds inputs only: activations are computed anew with the
/// weights of the moment.
#[derive(Debug)]
pub struct Fifo {
    capacity: i64,
    rows: Option<Tensor>,
}

impl Fifo {
    /// An empty buffer for `capacity` samples.
    pub fn new(capacity: i64) -> Self {
        Self { capacity, rows: None }
    }

    /// Adds a batch `[batch, ..]` in front and drops the oldest samples beyond the capacity.
    ///
    /// # Errors
    /// [`Error::Shape`] for an empty batch or samples of other sizes than those in the buffer.
    pub fn push(&mut self, x: &Tensor) -> Result<()> {
        const OP: &str = "Fifo::push";
        let _guard = tch::no_grad_guard();
        let size = x.size();
        if size.len() < 2 || size.contains(&0) {
            return Err(Error::shape(OP, "x", "[batch >= 1, ..]", x));
        }
        let x = x.detach();
        let x = x.narrow(0, 0, size[0].min(self.capacity));
        let rows = match &self.rows {
            None => x.copy(),
            Some(old) => {
                let have = old.size();
                if have[1..] != size[1..] || old.kind() != x.kind() {
                    let expected = format!("[batch, {:?}] of kind {:?}", &have[1..], old.kind());
                    return Err(Error::shape(OP, "x", expected, &x));
                }
                let room = (self.capacity - x.size()[0]).min(have[0]);
                Tensor::cat(&[x, old.narrow(0, 0, room)], 0)
            }
        };
        self.rows = Some(rows);
        Ok(())
    }

    /// The samples, newest batch first; `None` before the first push.
    pub fn samples(&self) -> Option<&Tensor> {
        self.rows.as_ref()
    }

    /// How many samples there are.
    pub fn len(&self) -> i64 {
        self.rows.as_ref().map_or(0, |r| r.size()[0])
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_first_and_bounded() {
        let rows = |v: &[f64]| Tensor::from_slice(v).reshape([-1, 1]);
        let mut b = Fifo::new(3);
        assert!(b.is_empty() && b.push(&rows(&[])).is_err());
        b.push(&rows(&[1.0, 2.0])).unwrap();
        b.push(&rows(&[3.0, 4.0])).unwrap();
        let got = Vec::<f64>::try_from(&b.samples().unwrap().reshape([-1])).unwrap();
        assert_eq!(got, [3.0, 4.0, 1.0]);
        b.push(&rows(&[5.0, 6.0, 7.0, 8.0])).unwrap();
        assert_eq!(b.len(), 3);
        assert!(b.push(&rows(&[1.0, 2.0]).reshape([1, 2])).is_err());
    }
}
