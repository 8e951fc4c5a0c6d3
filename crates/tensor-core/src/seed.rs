//! Seeds: one root number, a tree of names, independent streams at its leaves.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Display;

/// A node in a tree of random streams.
///
/// The key of a child is SHA-256 over the parent's key and the child's name, so a stream depends on
/// its path alone: asking for more numbers in one place never shifts those of another.
///
/// ```
/// use tensor_core::SeedTree;
/// let run = SeedTree::new(42);
/// let worker_3 = run.child("envs").child(3);
/// assert_eq!(worker_3.torch_seed(), SeedTree::new(42).child("envs").child(3).torch_seed());
/// assert_ne!(worker_3.torch_seed(), run.child("envs").child(4).torch_seed());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedTree {
    key: [u8; 32],
}

impl SeedTree {
    /// Root of the tree for `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            key: Sha256::new()
                .chain_update(b"seed-tree/v1")
                .chain_update(seed.to_le_bytes())
                .finalize()
                .into(),
        }
    }

    /// The node called `name` (a word or a number) below this one.
    #[must_use]
    pub fn child(&self, name: impl Display) -> Self {
        let hash = Sha256::new().chain_update(self.key).chain_update(name.to_string());
        Self { key: hash.finalize().into() }
    }

    /// A fresh generator at the start of this node's stream.
    pub fn rng(&self) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.key)
    }

    /// The node as a seed for libtorch, in `0..2^63`.
    pub fn torch_seed(&self) -> i64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.key[..8]);
        (u64::from_le_bytes(bytes) >> 1) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn children_differ_from_parent_and_from_each_other() {
        let root = SeedTree::new(7);
        let seeds = [
            root.torch_seed(),
            root.child("a").torch_seed(),
            root.child("b").torch_seed(),
            root.child("a").child("b").torch_seed(),
        ];
        for (i, a) in seeds.iter().enumerate() {
            assert!(*a >= 0);
            assert!(seeds[i + 1..].iter().all(|b| b != a));
        }
    }

    /// A changed derivation would silently change every published result. The numbers come from an
    /// independent SHA-256 and `ChaCha8`.
    #[test]
    fn the_derivation_is_frozen() {
        let leaf = SeedTree::new(42).child("envs").child(3);
        assert_eq!(leaf.torch_seed(), 767_758_824_981_584_389);
        assert_eq!(leaf.rng().next_u64(), 9_213_182_223_913_950_734);
    }

    #[test]
    fn a_node_survives_serialisation() {
        let node = SeedTree::new(3).child("a");
        let text = serde_json::to_string(&node).unwrap();
        assert_eq!(serde_json::from_str::<SeedTree>(&text).unwrap(), node);
    }

    #[test]
    fn a_generator_starts_afresh_each_time() {
        let node = SeedTree::new(1).child("data");
        assert_eq!(node.rng().next_u64(), node.rng().next_u64());
    }
}
