//! Takes htmx from where npm has put it, if it is the very file that was looked at, to be embedded in the program.
#![allow(clippy::print_stdout, reason = "cargo listens there")]

use std::error::Error;
use std::path::Path;

use sha2::{Digest, Sha256};

/// As `assets/package-lock.json` brings it.
const HTMX: &str = "assets/node_modules/htmx.org/dist/htmx.min.js";
/// SHA-256 of version 2.0.11.
const EXPECTED: &str = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={HTMX}");
    println!("cargo:rerun-if-changed=build.rs");
    let text =
        std::fs::read(HTMX).map_err(|error| format!("{HTMX}: {error}; `scripts/setup build` brings it by npm"))?;
    let found: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    if found != EXPECTED {
        return Err(format!(
            "{HTMX} has the SHA-256 {found} instead of {EXPECTED}; `scripts/setup build` brings the right one"
        )
        .into());
    }
    let target = Path::new(&std::env::var("OUT_DIR")?).join("htmx.min.js");
    Ok(std::fs::write(target, text)?)
}
