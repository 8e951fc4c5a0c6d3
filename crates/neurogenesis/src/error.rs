//! The one error type of the crate.

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. After any of these the network and its optimiser are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor has the wrong sizes.
    #[error("{op}: `{arg}` must be {expected}, got {got:?}")]
    Shape {
        /// Operation that was asked for.
        op: &'static str,
        /// Name of the argument.
        arg: &'static str,
        /// Sizes wanted, by name or number.
        expected: String,
        /// Sizes found.
        got: Vec<i64>,
    },
    /// A value is NaN or infinite.
    #[error("{op}: `{what}` is not finite")]
    NonFinite {
        /// Operation that was asked for.
        op: &'static str,
        /// What was found to be NaN or infinite.
        what: String,
    },
    /// An argument lies outside its domain.
    #[error("{op}: `{arg}` must be {expected}, got {got}")]
    Argument {
        /// Operation that was asked for.
        op: &'static str,
        /// Name of the argument.
        arg: &'static str,
        /// Domain.
        expected: String,
        /// Value found.
        got: String,
    },
    /// A config field is invalid, alone or together with the network.
    #[error("config field `{field}`: {why}")]
    Config {
        /// The field.
        field: &'static str,
        /// What is wrong and what would be right.
        why: String,
    },
    /// A layer of the network cannot do what was asked of it.
    #[error("layer `{layer}`: {why}")]
    Layer {
        /// Name of the layer's site.
        layer: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// Error of the tensor layer below.
    #[error(transparent)]
    Core(#[from] tensor_core::Error),
}

impl Error {
    /// An [`Error::Shape`].
    pub(crate) fn shape(
        op: &'static str,
        arg: &'static str,
        expected: impl Into<String>,
        x: &tensor_core::Tensor,
    ) -> Self {
        Self::Shape { op, arg, expected: expected.into(), got: x.size() }
    }
}
