//! Border to `native/optim.cpp`: libtorch's fused optimiser kernels.
#![expect(unsafe_code, reason = "foreign functions; see the SAFETY comments")]

use crate::{Error, Result};
use std::ffi::{CStr, c_char, c_int};
use tch::Tensor;

/// `at::Tensor` behind a pointer; never looked into on this side.
#[repr(C)]
struct RawTensor {
    _opaque: [u8; 0],
}

type RawList = *const *mut RawTensor;

unsafe extern "C" {
    fn tensor_core_advance(
        steps: RawList,
        n: usize,
        found_inf: *const RawTensor,
        err: *mut *mut c_char,
    ) -> c_int;
    fn tensor_core_fused_adamw(
        params: RawList,
        grads: RawList,
        exp_avgs: RawList,
        exp_avg_sqs: RawList,
        steps: RawList,
        n: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        found_inf: *const RawTensor,
        err: *mut *mut c_char,
    ) -> c_int;
    fn tensor_core_fused_sgd(
        params: RawList,
        grads: RawList,
        buffers: RawList,
        n: usize,
        lr: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: bool,
        found_inf: *const RawTensor,
        err: *mut *mut c_char,
    ) -> c_int;
}

/// Tensors for one kernel call, with the pointers that it takes.
#[derive(Default)]
pub(crate) struct List {
    tensors: Vec<Tensor>,
}

impl List {
    pub(crate) fn push(&mut self, tensor: Tensor) {
        self.tensors.push(tensor);
    }

    pub(crate) fn len(&self) -> usize {
        self.tensors.len()
    }

    fn raw(&self) -> Vec<*mut RawTensor> {
        self.tensors.iter().map(|t| t.as_ptr().cast_mut().cast()).collect()
    }
}

fn raw(tensor: Option<&Tensor>) -> *const RawTensor {
    tensor.map_or(std::ptr::null(), |t| t.as_ptr().cast())
}

fn finish(op: &'static str, rc: c_int, err: *mut c_char) -> Result<()> {
    if rc == 0 {
        return Ok(());
    }
    let mut message = "unknown error".to_owned();
    if !err.is_null() {
        // SAFETY: the shim sets `err` to a string from `strdup` and passes its ownership.
        unsafe {
            message = CStr::from_ptr(err).to_string_lossy().into_owned();
            libc::free(err.cast());
        }
    }
    Err(Error::Torch { op, message: message.lines().next().unwrap_or_default().to_owned() })
}

/// Adds 1 to each step count, or 0 where `found_inf` is set.
pub(crate) fn advance(op: &'static str, steps: &List, found_inf: Option<&Tensor>) -> Result<()> {
    let mut err = std::ptr::null_mut();
    // SAFETY: each pointer is a live tensor borrowed by `steps` or `found_inf` for the call; the
    // shim reads `len` of them and catches every exception.
    let rc = unsafe {
        tensor_core_advance(steps.raw().as_ptr(), steps.len(), raw(found_inf), &raw mut err)
    };
    finish(op, rc, err)
}

/// The tensors of one fused `AdamW` call; position `i` of each list belongs to one (part of a)
/// parameter. All are contiguous and of one kind and size within a position.
#[derive(Default)]
pub(crate) struct AdamWLists {
    pub(crate) params: List,
    pub(crate) grads: List,
    pub(crate) exp_avgs: List,
    pub(crate) exp_avg_sqs: List,
    pub(crate) steps: List,
}

/// Coefficients of one fused `AdamW` call.
#[derive(Copy, Clone)]
pub(crate) struct AdamWArgs {
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) weight_decay: f64,
    pub(crate) eps: f64,
}

pub(crate) fn adamw(
    op: &'static str,
    lists: &AdamWLists,
    args: AdamWArgs,
    found_inf: Option<&Tensor>,
) -> Result<()> {
    let n = lists.params.len();
    if n == 0 {
        return Ok(());
    }
    debug_assert!(
        [&lists.grads, &lists.exp_avgs, &lists.exp_avg_sqs, &lists.steps]
            .iter()
            .all(|l| l.len() == n)
    );
    let mut err = std::ptr::null_mut();
    // SAFETY: the five lists have `n` live tensors each, borrowed for the call; the shim catches
    // every exception.
    let rc = unsafe {
        tensor_core_fused_adamw(
            lists.params.raw().as_ptr(),
            lists.grads.raw().as_ptr(),
            lists.exp_avgs.raw().as_ptr(),
            lists.exp_avg_sqs.raw().as_ptr(),
            lists.steps.raw().as_ptr(),
            n,
            args.lr,
            args.beta1,
            args.beta2,
            args.weight_decay,
            args.eps,
            raw(found_inf),
            &raw mut err,
        )
    };
    finish(op, rc, err)
}

/// The tensors of one fused SGD call; `buffers` is empty without momentum.
#[derive(Default)]
pub(crate) struct SgdLists {
    pub(crate) params: List,
    pub(crate) grads: List,
    pub(crate) buffers: List,
}

/// Coefficients of one fused SGD call.
#[derive(Copy, Clone)]
pub(crate) struct SgdArgs {
    pub(crate) lr: f64,
    pub(crate) momentum: f64,
    pub(crate) weight_decay: f64,
    pub(crate) nesterov: bool,
}

pub(crate) fn sgd(
    op: &'static str,
    lists: &SgdLists,
    args: SgdArgs,
    found_inf: Option<&Tensor>,
) -> Result<()> {
    let n = lists.params.len();
    if n == 0 {
        return Ok(());
    }
    let buffers = lists.buffers.raw();
    debug_assert!(lists.grads.len() == n && (buffers.is_empty() || buffers.len() == n));
    let mut err = std::ptr::null_mut();
    // SAFETY: the lists have `n` live tensors each (or `buffers` is null), borrowed for the call; the
    // shim catches every exception.
    let rc = unsafe {
        tensor_core_fused_sgd(
            lists.params.raw().as_ptr(),
            lists.grads.raw().as_ptr(),
            if buffers.is_empty() { std::ptr::null() } else { buffers.as_ptr() },
            n,
            args.lr,
            args.momentum,
            args.weight_decay,
            args.nesterov,
            raw(found_inf),
            &raw mut err,
        )
    };
    finish(op, rc, err)
}
