//! In which precision matrix products run.
//!
//! Parameters, gradients and optimiser state stay in the store's element type (float32, or float64
//! for gradient checks). [`Compute::Bf16`] casts only the *operands* of matrix products,
//! convolutions and attention to bfloat16 and casts the result back; normalisation, softmax, losses
//! and the residual stream stay in the store's type. The casts are recorded operations, so a
//! gradient comes back to the master weight in the master's type.
//!
//! libtorch's autocast does nothing on the CPU, hence the explicit casts. How they are kept few: a
//! weight is cast once for each forward pass (the backward pass reuses that copy), an activation
//! once for all the layers that read it, and what flows from one product straight into the next
//! (query, key and value into attention, attention into its output projection, the hidden units of
//! an MLP) stays in bfloat16 all the way.

use serde::{Deserialize, Serialize};
use std::fmt;
use tch::{Kind, Tensor};

/// Precision of matrix products, convolutions and attention.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// Operands in the element type of the parameters: float32, or float64 in a float64 store.
    #[default]
    F32,
    /// Operands in bfloat16, everything else as before. Pays on a GPU with bfloat16 units and on a
    /// CPU with AMX; on other CPUs it is slower than [`Compute::F32`] (see [`CpuSupport`]).
    Bf16,
}

impl Compute {
    /// `x` as an operand of a matrix product: cast to bfloat16 under [`Compute::Bf16`] when it is a
    /// floating-point tensor, else the same tensor.
    pub fn operand(self, x: &Tensor) -> Tensor {
        match self {
            Self::Bf16 if is_float(x.kind()) => x.to_kind(Kind::BFloat16),
            _ => x.shallow_clone(),
        }
    }

    /// `x` back in `kind`, the element type of the surrounding computation; no copy when it has it.
    pub fn result(self, x: Tensor, kind: Kind) -> Tensor {
        if x.kind() == kind { x } else { x.to_kind(kind) }
    }
}

pub(crate) fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::Float | Kind::Double | Kind::BFloat16)
}

/// Instruction sets of this CPU that decide whether [`Compute::Bf16`] pays.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "one flag for each instruction set, no states")]
pub struct CpuSupport {
    /// 256-bit vectors.
    pub avx2: bool,
    /// 512-bit vectors.
    pub avx512: bool,
    /// Vector dot products of bfloat16 pairs.
    pub avx512_bf16: bool,
    /// Tile matrix products of bfloat16: where [`Compute::Bf16`] is several times faster.
    pub amx_bf16: bool,
}

impl CpuSupport {
    /// Asks the operating system. Where it cannot tell (no `/proc/cpuinfo`), all fields are false.
    pub fn detect() -> Self {
        std::fs::read_to_string("/proc/cpuinfo").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(cpuinfo: &str) -> Self {
        let flags = cpuinfo
            .lines()
            .find(|line| line.starts_with("flags") || line.starts_with("Features"))
            .unwrap_or_default();
        let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
        Self {
            avx2: has("avx2"),
            avx512: has("avx512f"),
            avx512_bf16: has("avx512_bf16"),
            amx_bf16: has("amx_bf16") && has("amx_tile"),
        }
    }

    /// The precision that is expected to be fastest on this CPU. A suggestion only: nothing in the
    /// crate applies it by itself.
    pub fn fastest(self) -> Compute {
        if self.amx_bf16 { Compute::Bf16 } else { Compute::F32 }
    }
}

impl fmt::Display for CpuSupport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |has| if has { "yes" } else { "no" };
        write!(
            f,
            "avx2 {}, avx512 {}, avx512-bf16 {}, amx-bf16 {}",
            yes(self.avx2),
            yes(self.avx512),
            yes(self.avx512_bf16),
            yes(self.amx_bf16)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn integers_are_never_cast() {
        let ids = Tensor::from_slice(&[1_i64, 2]);
        assert_eq!(Compute::Bf16.operand(&ids).kind(), Kind::Int64);
        let x = Tensor::ones([2], (Kind::Double, Device::Cpu));
        assert_eq!(Compute::Bf16.operand(&x).kind(), Kind::BFloat16);
        assert_eq!(Compute::F32.operand(&x).kind(), Kind::Double);
    }

    #[test]
    fn the_gradient_comes_back_in_the_kind_of_the_master() {
        let x = Tensor::ones([2, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let y = Compute::Bf16.operand(&x);
        y.matmul(&y).sum(Kind::Float).backward();
        assert_eq!(x.grad().kind(), Kind::Float);
    }

    #[test]
    fn flags_are_matched_as_whole_words() {
        let cpu = CpuSupport::parse("processor : 0\nflags : fpu avx2 avx512fp16 amx_bf16\n");
        assert_eq!(cpu, CpuSupport { avx2: true, ..CpuSupport::default() });
        let cpu = CpuSupport::parse("flags : avx512f avx512_bf16 amx_tile amx_bf16");
        assert!(cpu.avx512 && cpu.avx512_bf16 && cpu.amx_bf16 && !cpu.avx2);
        assert_eq!(cpu.fastest(), Compute::Bf16);
        assert_eq!(CpuSupport::parse(""), CpuSupport::default());
    }
}
