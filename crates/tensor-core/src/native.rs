//! The only foreign functions of the crate: the C++ shim beside it, the loader, the CUDA driver.
//!
//! Tensors cross as `C_tensor*`, which is `at::Tensor*` on the heap; `native/shim.cpp` says who owns
//! what. Everything here is `pub(crate)`; the safe public names are in [`autograd`](crate::autograd)
//! and [`runtime`](crate::runtime).
#![allow(unsafe_code, reason = "calls the C++ shim and dlopen; each block says why it is sound")]

use crate::{Error, Result};
use libc::{c_char, c_int, c_void};
use std::{
    any::Any,
    ffi::{CStr, CString},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::OnceLock,
};
use tch::Tensor;
use torch_sys::C_tensor;

type BackwardFn =
    unsafe extern "C" fn(*mut c_void, *mut *mut C_tensor, usize, *mut *mut C_tensor, usize) -> Text;
type DropFn = unsafe extern "C" fn(*mut c_void);
/// A malloc'ed C string or null.
type Text = *mut c_char;

unsafe extern "C" {
    fn tensor_core_attach(
        label: *const c_char,
        inputs: *const *const C_tensor,
        n_inputs: usize,
        outputs: *const *const C_tensor,
        n_outputs: usize,
        ctx: *mut c_void,
        backward: BackwardFn,
        drop: DropFn,
        fresh: *mut *mut C_tensor,
    ) -> Text;
    fn tensor_core_grad(
        outputs: *const *const C_tensor,
        cotangents: *const *const C_tensor,
        n_outputs: usize,
        inputs: *const *const C_tensor,
        n_inputs: usize,
        keep_graph: bool,
        create_graph: bool,
        results: *mut *mut C_tensor,
    ) -> Text;
    safe fn tensor_core_grad_enabled() -> bool;
    fn tensor_core_generator_state(cuda_index: c_int, state: *mut *mut C_tensor) -> Text;
    fn tensor_core_set_generator_state(cuda_index: c_int, state: *const C_tensor) -> Text;
    safe fn tensor_core_set_deterministic(on: bool) -> Text;
    safe fn tensor_core_deterministic() -> bool;
    safe fn tensor_core_version() -> Text;
    safe fn tensor_core_show_config() -> Text;
    safe fn tensor_core_parallel_info() -> Text;
    fn tensor_core_cuda_memory(cuda_index: c_int, reset_peak: bool, bytes: *mut i64) -> Text;
}

/// What [`attach`] calls during a backward pass: cotangents of the outputs in, gradients of the
/// inputs out.
pub(crate) trait Backward:
    FnMut(&[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> + Send + 'static
{
}

impl<F> Backward for F where
    F: FnMut(&[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> + Send + 'static
{
}

/// Puts a node with `backward` behind detached copies of `outputs`; without a graph to record (no
/// input requires a gradient, or grad mode is off) it only detaches and drops `backward`.
pub(crate) fn attach<F: Backward>(
    label: &str,
    inputs: &[&Tensor],
    outputs: &[&Tensor],
    backward: F,
) -> Result<Vec<Tensor>> {
    const OP: &str = "custom_vjp";
    let label = CString::new(label).map_err(|_| Error::Argument {
        op: OP,
        arg: "label",
        expected: "text without a NUL character".to_owned(),
        got: format!("{label:?}"),
    })?;
    let (inputs, outputs) = (pointers(inputs), pointers(outputs));
    let mut fresh = vec![ptr::null_mut(); outputs.len()];
    let ctx = Box::into_raw(Box::new(backward)).cast::<c_void>();
    // SAFETY: the pointers are live for the call and counted by the lengths beside them; `ctx` is a
    // boxed `F`, which is `Send`, owned by the shim from here on; `call::<F>` and `free::<F>` are
    // the functions for exactly that type, and the shim never runs two of them at once.
    let text = unsafe {
        tensor_core_attach(
            label.as_ptr(),
            inputs.as_ptr(),
            inputs.len(),
            outputs.as_ptr(),
            outputs.len(),
            ctx,
            call::<F>,
            free::<F>,
            fresh.as_mut_ptr(),
        )
    };
    check(OP, text)?;
    Ok(adopt(fresh).into_iter().flatten().collect())
}

/// The C face of a backward closure: no panic and no exception leaves it.
unsafe extern "C" fn call<F: Backward>(
    ctx: *mut c_void,
    cotangents: *mut *mut C_tensor,
    n_cotangents: usize,
    gradients: *mut *mut C_tensor,
    n_gradients: usize,
) -> Text {
    // SAFETY: the shim passes arrays of these lengths and gives the handles away; `Node::apply`
    // holds the node's mutex, so nobody else uses the closure.
    let (backward, cotangents, gradients) = unsafe {
        (
            &mut *ctx.cast::<F>(),
            std::slice::from_raw_parts(cotangents, n_cotangents).to_vec(),
            std::slice::from_raw_parts_mut(gradients, n_gradients),
        )
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let found = backward(&adopt(cotangents)).map_err(|e| e.to_string())?;
        if found.len() != n_gradients {
            return Err(format!(
                "the backward closure must return {n_gradients} gradients, one for each input, got {}",
                found.len()
            ));
        }
        for (place, gradient) in gradients.iter_mut().zip(found) {
            if let Some(mut gradient) = gradient {
                *place = gradient.as_mut_ptr();
                std::mem::forget(gradient); // the shim owns the handle now
            }
        }
        Ok(())
    }));
    let message = match outcome {
        Ok(Ok(())) => return ptr::null_mut(),
        Ok(Err(message)) => message,
        Err(panic) => format!("the backward closure panicked: {}", panic_text(&*panic)),
    };
    // One line and no NUL: the first line is all that an error keeps on its way back.
    let line: Vec<&str> = message.lines().collect();
    let line = CString::new(line.join("; ").replace('\0', " ")).unwrap_or_default();
    // SAFETY: `strdup` copies a valid C string; the shim frees the copy.
    unsafe { libc::strdup(line.as_ptr()) }
}

unsafe extern "C" fn free<F: Backward>(ctx: *mut c_void) {
    // SAFETY: `ctx` came from `Box::into_raw` of a `Box<F>` in `attach`, and the shim calls this once.
    let closure = unsafe { Box::from_raw(ctx.cast::<F>()) };
    // A panic in a destructor must not cross into C++ either; there is nobody to report it to.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(closure)));
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "not a text".to_owned())
}

/// Gradients of `sum_k <cotangents[k], outputs[k]>` with respect to `inputs`.
pub(crate) fn grad(
    op: &'static str,
    outputs: &[&Tensor],
    cotangents: &[&Tensor],
    inputs: &[&Tensor],
    keep_graph: bool,
    create_graph: bool,
) -> Result<Vec<Option<Tensor>>> {
    assert_eq!(outputs.len(), cotangents.len(), "checked by the callers");
    let (outputs, cotangents, inputs) = (pointers(outputs), pointers(cotangents), pointers(inputs));
    let mut results = vec![ptr::null_mut(); inputs.len()];
    // SAFETY: the pointers are live for the call, and the lengths are those of the arrays; outputs
    // and cotangents have the same length.
    let text = unsafe {
        tensor_core_grad(
            outputs.as_ptr(),
            cotangents.as_ptr(),
            outputs.len(),
            inputs.as_ptr(),
            inputs.len(),
            keep_graph,
            create_graph,
            results.as_mut_ptr(),
        )
    };
    check(op, text)?;
    Ok(adopt(results))
}

/// Whether operations on this thread are being recorded.
pub(crate) fn grad_enabled() -> bool {
    tensor_core_grad_enabled()
}

/// State of a device's default generator as a `uint8` tensor; `None` names the CPU.
pub(crate) fn generator_state(op: &'static str, cuda: Option<usize>) -> Result<Tensor> {
    let mut state = [ptr::null_mut()];
    // SAFETY: the shim writes one handle into the array of one.
    let text = unsafe { tensor_core_generator_state(index(cuda), state.as_mut_ptr()) };
    check(op, text)?;
    adopt(state.to_vec())
        .pop()
        .flatten()
        .ok_or_else(|| Error::Torch { op, message: "the generator returned no state".to_owned() })
}

/// Puts a state from [`generator_state`] back. libtorch checks size and content.
pub(crate) fn set_generator_state(
    op: &'static str,
    cuda: Option<usize>,
    state: &Tensor,
) -> Result<()> {
    // SAFETY: the shim reads the tensor behind the pointer during the call only.
    check(op, unsafe { tensor_core_set_generator_state(index(cuda), state.as_ptr()) })
}

/// Makes libtorch use deterministic algorithms, or fail where it has none.
pub(crate) fn set_deterministic(op: &'static str, on: bool) -> Result<()> {
    check(op, tensor_core_set_deterministic(on))
}

/// Whether deterministic algorithms are asked for.
pub(crate) fn deterministic() -> bool {
    tensor_core_deterministic()
}

/// libtorch's version, such as `2.11.0`.
pub(crate) fn version() -> String {
    take(tensor_core_version()).unwrap_or_default()
}

/// libtorch's own description of how it was built.
pub(crate) fn show_config() -> String {
    take(tensor_core_show_config()).unwrap_or_default()
}

/// libtorch's own description of its thread pools.
pub(crate) fn parallel_info() -> String {
    take(tensor_core_parallel_info()).unwrap_or_default()
}

/// Bytes of the CUDA caching allocator: allocated now, at peak, reserved now, at peak.
pub(crate) fn cuda_memory(op: &'static str, cuda: usize, reset_peak: bool) -> Result<[i64; 4]> {
    let mut bytes = [0; 4];
    // SAFETY: the shim writes exactly four numbers.
    let text =
        unsafe { tensor_core_cuda_memory(index(Some(cuda)), reset_peak, bytes.as_mut_ptr()) };
    check(op, text)?;
    Ok(bytes)
}

/// Loads libtorch's CUDA library, which the linker drops because no symbol of it is named. Must come
/// before the first libtorch call that asks about CUDA: that answer is kept for the whole process.
pub(crate) fn load_cuda() -> bool {
    *CUDA.get_or_init(|| {
        // SAFETY: the name is a valid C string; the library's initialisers are libtorch's own and
        // are meant to run in a process that has loaded `libtorch_cpu`.
        let handle = unsafe {
            libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL)
        };
        !handle.is_null()
    })
}

static CUDA: OnceLock<bool> = OnceLock::new();

/// Whether [`load_cuda`] has run and found the library.
pub(crate) fn cuda_loaded() -> bool {
    CUDA.get() == Some(&true)
}

/// Names of the GPUs that the CUDA driver shows to this process, in its order; empty without one.
pub(crate) fn cuda_device_names() -> Vec<String> {
    type Init = unsafe extern "C" fn(flags: u32) -> c_int;
    type Count = unsafe extern "C" fn(count: *mut c_int) -> c_int;
    type Get = unsafe extern "C" fn(device: *mut c_int, ordinal: c_int) -> c_int;
    type Name = unsafe extern "C" fn(name: *mut c_char, len: c_int, device: c_int) -> c_int;
    // SAFETY: these are the stable C entry points of the CUDA driver with the signatures of its
    // manual; each is used only when it was found, and buffers are as long as the call is told.
    unsafe {
        let driver = libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW);
        if driver.is_null() {
            return Vec::new();
        }
        let symbol = |name: &CStr| libc::dlsym(driver, name.as_ptr());
        let (init, count) = (symbol(c"cuInit"), symbol(c"cuDeviceGetCount"));
        let (get, name) = (symbol(c"cuDeviceGet"), symbol(c"cuDeviceGetName"));
        if [init, count, get, name].iter().any(|s| s.is_null()) {
            return Vec::new();
        }
        let init = std::mem::transmute::<*mut c_void, Init>(init);
        let count = std::mem::transmute::<*mut c_void, Count>(count);
        let get = std::mem::transmute::<*mut c_void, Get>(get);
        let name = std::mem::transmute::<*mut c_void, Name>(name);
        let mut n = 0;
        if init(0) != 0 || count(&raw mut n) != 0 {
            return Vec::new();
        }
        let mut names = Vec::new();
        for ordinal in 0..n {
            let (mut device, mut text) = (0, [0; 128]);
            if get(&raw mut device, ordinal) == 0 && name(text.as_mut_ptr(), 127, device) == 0 {
                names.push(CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned());
            }
        }
        names
    }
}

fn index(cuda: Option<usize>) -> c_int {
    // Torch's device indices are 8 bits wide; an absurd one becomes 127, which no machine has.
    cuda.map_or(-1, |i| c_int::from(i8::try_from(i).unwrap_or(i8::MAX)))
}

fn pointers(tensors: &[&Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|t| t.as_ptr()).collect()
}

/// Takes ownership of handles from the shim; null stands for "none".
fn adopt(handles: Vec<*mut C_tensor>) -> Vec<Option<Tensor>> {
    handles
        .into_iter()
        // SAFETY: each handle is a fresh heap `at::Tensor` that nobody else owns.
        .map(|h| if h.is_null() { None } else { Some(unsafe { Tensor::from_ptr(h) }) })
        .collect()
}

fn take(text: Text) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the shim returns malloc'ed C strings and gives them away.
    unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast());
        Some(owned)
    }
}

fn check(op: &'static str, text: Text) -> Result<()> {
    take(text).map_or(Ok(()), |message| {
        let message = message.lines().next().unwrap_or_default().to_owned();
        Err(Error::Torch { op, message })
    })
}
