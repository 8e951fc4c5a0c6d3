//! Makes the loader find libtorch under cargo, so that `cargo run`, `test` and `bench` need no
//! variable set. The symlink lies in `OUT_DIR`, the only place whose link-search folders cargo puts
//! on the library path of the programs that it starts.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let lib = PathBuf::from(
        env::var_os("DEP_TCH_LIBTORCH_LIB").ok_or("torch-sys reported no library folder")?,
    );
    let root = lib.parent().ok_or("the libtorch library folder has no parent")?;
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo set no OUT_DIR")?);

    // Link the root, not `lib`: libtorch's own run path climbs to its sibling folder `nvidia`.
    let link = out_dir.join("libtorch");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(root, &link)?;
    println!("cargo::rustc-link-search=native={}", link.join("lib").display());
    Ok(())
}
