//! Compiles the C++ shim and makes the loader find libtorch under cargo, so that `cargo run`, `test`
//! and `bench` need no variable set. The symlink lies in `OUT_DIR`, the only place whose link-search
//! folders cargo puts on the library path of the programs that it starts.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=native/shim.cpp");
    println!("cargo::rerun-if-changed=native/optim.cpp");
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

    compile_shim(root)
}

fn compile_shim(root: &Path) -> Result<(), Box<dyn Error>> {
    let include = match env::var_os("LIBTORCH_INCLUDE") {
        Some(other) => PathBuf::from(other).join("include"),
        None => root.join("include"),
    };
    if !include.join("ATen/Context.h").is_file() {
        let text = format!(
            "no libtorch headers in {}: run `cargo xtask setup`, or point LIBTORCH at a libtorch",
            include.display()
        );
        return Err(text.into());
    }
    println!("cargo::rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    // `-isystem` keeps the warnings of libtorch's headers out of ours.
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .debug(false)
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .file("native/shim.cpp")
        .file("native/optim.cpp");
    build.try_compile("tensor_core_shim")?;
    Ok(())
}
