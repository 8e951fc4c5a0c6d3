//! Finding and loading the library, and the functions that are taken from it.

use super::{MUJOCO_LIB, VERSION};
use crate::error::{Error, Result};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// File name of the library in the `PyPI` package `mujoco-core`.
const FILE: &str = "libmujoco.so.4.0.0";

/// A pointer to one of the library's own structures.
pub(super) type Opaque = *mut c_void;

/// The functions that are used; the library stays loaded as long as they are there.
pub(crate) struct Library {
    pub(super) parse_xml: unsafe extern "C" fn(*const c_char, Opaque, *mut c_char, c_int) -> Opaque,
    pub(super) compile: unsafe extern "C" fn(Opaque, Opaque) -> Opaque,
    pub(super) spec_error: unsafe extern "C" fn(Opaque) -> *const c_char,
    pub(super) delete_spec: unsafe extern "C" fn(Opaque),
    pub(super) delete_model: unsafe extern "C" fn(Opaque),
    pub(super) make_data: unsafe extern "C" fn(Opaque) -> Opaque,
    pub(super) delete_data: unsafe extern "C" fn(Opaque),
    pub(super) reset_data: unsafe extern "C" fn(Opaque, Opaque),
    pub(super) forward: unsafe extern "C" fn(Opaque, Opaque),
    pub(super) step: unsafe extern "C" fn(Opaque, Opaque),
    pub(super) rne_post: unsafe extern "C" fn(Opaque, Opaque),
    pub(super) state_size: unsafe extern "C" fn(Opaque, c_int) -> c_int,
    pub(super) get_state: unsafe extern "C" fn(Opaque, Opaque, *mut f64, c_int),
    pub(super) set_state: unsafe extern "C" fn(Opaque, Opaque, *const f64, c_int),
    _handle: libloading::Library,
}

/// Without a handler `MuJoCo` writes warnings into a file in the current folder.
unsafe extern "C" fn on_warning(message: *const c_char) {
    // SAFETY: MuJoCo passes a NUL-terminated string that lives during the call.
    let text = unsafe { CStr::from_ptr(message) };
    tracing::warn!("MuJoCo: {}", text.to_string_lossy());
}

impl Library {
    /// The library of [`super::find`], loaded once.
    pub(crate) fn find() -> Result<Arc<Self>> {
        static LOADED: OnceLock<Arc<Library>> = OnceLock::new();
        if let Some(library) = LOADED.get() {
            return Ok(library.clone());
        }
        let named = std::env::var_os(MUJOCO_LIB).filter(|v| !v.is_empty());
        let library = Arc::new(Self::load(&named.map_or_else(|| FILE.into(), PathBuf::from))?);
        Ok(LOADED.get_or_init(|| library).clone())
    }

    /// Loads a library file.
    pub(crate) fn load(path: &std::path::Path) -> Result<Self> {
        let missing = |found: String| Error::Mujoco {
            what: "load the library",
            expected: format!(
                "version 4.0.0; `cargo xtask setup --mujoco` installs it, or {MUJOCO_LIB} names its file"
            ),
            found,
        };
        // SAFETY: loading runs the initialisers of the file that the user named or that the
        // system's loader finds under MuJoCo's own name.
        let handle =
            unsafe { libloading::Library::new(path) }.map_err(|e| missing(e.to_string()))?;
        // SAFETY: `int mj_version(void)` in all releases.
        let version = unsafe {
            let version: libloading::Symbol<'_, unsafe extern "C" fn() -> c_int> =
                handle.get(b"mj_version\0").map_err(|e| missing(e.to_string()))?;
            version()
        };
        if version != VERSION {
            return Err(missing(format!("mj_version() = {version} in {}", path.display())));
        }
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the version was checked, and the types are those of its `mujoco.h`;
                // the handle is kept in the same structure.
                *unsafe { handle.get(concat!($name, "\0").as_bytes()) }
                    .map_err(|e| missing(e.to_string()))?
            };
        }
        let warning: *mut Option<unsafe extern "C" fn(*const c_char)> = symbol!("mju_user_warning");
        // SAFETY: the library's own variable for a handler, of this type. Writes from two threads
        // are kept apart by `OnceLock` or store the same value before any model exists.
        unsafe { *warning = Some(on_warning) };
        Ok(Self {
            parse_xml: symbol!("mj_parseXMLString"),
            compile: symbol!("mj_compile"),
            spec_error: symbol!("mjs_getError"),
            delete_spec: symbol!("mj_deleteSpec"),
            delete_model: symbol!("mj_deleteModel"),
            make_data: symbol!("mj_makeData"),
            delete_data: symbol!("mj_deleteData"),
            reset_data: symbol!("mj_resetData"),
            forward: symbol!("mj_forward"),
            step: symbol!("mj_step"),
            rne_post: symbol!("mj_rnePostConstraint"),
            state_size: symbol!("mj_stateSize"),
            get_state: symbol!("mj_getState"),
            set_state: symbol!("mj_setState"),
            _handle: handle,
        })
    }
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_missing_or_foreign_library_is_named() {
        let message = |path: &str| Library::load(Path::new(path)).unwrap_err().to_string();
        let missing = message("no/such/libmujoco.so");
        assert!(missing.contains("setup --mujoco") && missing.contains("no/such"), "{missing}");
        let foreign = message("libc.so.6");
        assert!(foreign.contains("mj_version"), "{foreign}");
    }
}
