//! The one error type of the crate: every variant names the operation and the numbers.

use std::path::PathBuf;

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, grouped by kind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor has the wrong sizes. `expected` uses the dimension names of the operation's docs.
    #[error("{op}: `{arg}` must be {expected}, got {got:?}")]
    Shape {
        /// Operation that was asked for.
        op: &'static str,
        /// Name of the argument.
        arg: String,
        /// Sizes wanted, by name or number.
        expected: String,
        /// Sizes found.
        got: Vec<i64>,
    },
    /// A tensor has the wrong element type.
    #[error("{op}: `{arg}` must be of kind {expected}, got {got:?}")]
    Kind {
        /// Operation that was asked for.
        op: &'static str,
        /// Name of the argument.
        arg: String,
        /// Kinds wanted.
        expected: String,
        /// Kind found.
        got: tch::Kind,
    },
    /// A value is NaN or infinite where the operation needs finite numbers.
    #[error("{op}: `{what}` is not finite (at step {step})")]
    NonFinite {
        /// Operation that was asked for.
        op: &'static str,
        /// What was found to be NaN or infinite.
        what: String,
        /// Step counter of the caller, 0 when there is none.
        step: u64,
    },
    /// An argument that is not a tensor lies outside its domain.
    #[error("{op}: `{arg}` must be {expected}, got {got}")]
    Argument {
        /// Operation that was asked for.
        op: &'static str,
        /// Name of the argument.
        arg: &'static str,
        /// Domain.
        expected: String,
        /// Value found, as text.
        got: String,
    },
    /// A config field is invalid.
    #[error("config field `{field}`: {why}")]
    Config {
        /// Path of the field.
        field: &'static str,
        /// What is wrong and what would be right.
        why: String,
    },
    /// No parameter or optimiser entry of that name or id.
    #[error("{op}: no parameter `{name}`")]
    UnknownParam {
        /// Operation that was asked for.
        op: &'static str,
        /// Name or id that was looked up.
        name: String,
    },
    /// A parameter of that name exists already.
    #[error("{op}: parameter `{name}` exists already")]
    DuplicateParam {
        /// Operation that was asked for.
        op: &'static str,
        /// Name that is taken.
        name: String,
    },
    /// A resize plan does not fit the store or the optimiser; nothing was changed.
    #[error("resize plan, parameter `{param}`: {why}; nothing was changed")]
    Plan {
        /// Parameter name, or its id when it has no name in the store.
        param: String,
        /// What does not fit.
        why: String,
    },
    /// A file is unreadable, corrupt or of another version.
    #[error("{}: field `{field}`: expected {expected}, found {found}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Field within it.
        field: String,
        /// What the format demands.
        expected: String,
        /// What was there.
        found: String,
    },
    /// A checkpoint lacks a tensor that the store or its own list asks for.
    #[error("{}: no tensor `{name}`", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A checkpoint holds a tensor that nothing asks for.
    #[error("{}: unexpected tensor `{name}`", path.display())]
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// An operating system call on a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A derivative disagrees with central differences.
    #[error(
        "{op}: derivative of order {order} with respect to input {input} at {index:?} is {analytic:e}, \
         central differences give {numeric:e}: {excess:.3} times the tolerance"
    )]
    Gradient {
        /// Operation that was asked for.
        op: &'static str,
        /// 1 for the gradient, 2 for the gradient of a projection of the gradient.
        order: u8,
        /// Which input.
        input: usize,
        /// Element of that input where the disagreement is largest.
        index: Vec<i64>,
        /// Derivative from automatic differentiation.
        analytic: f64,
        /// Derivative from central differences.
        numeric: f64,
        /// Disagreement in units of the tolerance; above 1 here.
        excess: f64,
    },
    /// libtorch refused a call. Only the first line of its message is kept.
    #[error("{op}: {message}")]
    Torch {
        /// Operation that was asked for.
        op: &'static str,
        /// First line of libtorch's message.
        message: String,
    },
}

impl Error {
    /// Wraps libtorch's error, dropping the C++ backtrace.
    pub fn torch(op: &'static str, source: &tch::TchError) -> Self {
        let text = source.to_string();
        Self::Torch { op, message: text.lines().next().unwrap_or_default().to_owned() }
    }

    /// Wraps an operating system error on `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

/// Turns a `tch` result into ours, naming the operation.
pub trait TorchContext<T> {
    /// Names the operation that was asked for.
    ///
    /// # Errors
    /// [`Error::Torch`] with the first line of libtorch's message.
    fn op(self, op: &'static str) -> Result<T>;
}

impl<T> TorchContext<T> for std::result::Result<T, tch::TchError> {
    fn op(self, op: &'static str) -> Result<T> {
        self.map_err(|e| Error::torch(op, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn libtorch_messages_keep_their_first_line_only() {
        let a = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        let error = a.f_matmul(&a).op("scores").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("scores: "), "{text}");
        assert!(text.contains("2x3"), "{text}");
        assert!(!text.contains('\n'), "the C++ backtrace came along: {text}");
    }

    #[test]
    fn errors_can_cross_threads() {
        fn sendable<T: Send + Sync + 'static>() {}
        sendable::<Error>();
    }

    #[test]
    fn a_file_error_names_file_and_field() {
        let error = Error::File {
            path: "run/state.json".into(),
            field: "version".to_owned(),
            expected: "1".to_owned(),
            found: "7".to_owned(),
        };
        assert_eq!(error.to_string(), "run/state.json: field `version`: expected 1, found 7");
        let missing = std::fs::read("no/such/file").unwrap_err();
        assert!(Error::io("no/such/file", missing).to_string().starts_with("no/such/file: "));
    }
}
