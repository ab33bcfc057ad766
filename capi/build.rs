//! Names the shared library in itself, so that a program finds it by that name and not by a path of the build.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        // The library has threads of its own, so that it stays loaded whatever `dlclose` says.
        Ok("linux" | "android") => {
            println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libedge_run_capi.so");
            println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
        }
        Ok("macos" | "ios") => {
            println!("cargo::rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libedge_run_capi.dylib");
        }
        _ => (),
    }
}
