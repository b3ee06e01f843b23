//! Takes htmx from where npm has put it, if it is the very file that was looked at, to be embedded in the program; and finds out
//! which commit a release is built from.
#![allow(clippy::print_stdout, reason = "cargo listens there")]

use std::error::Error;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

/// As `assets/package-lock.json` brings it.
const HTMX: &str = "assets/node_modules/htmx.org/dist/htmx.min.js";
/// SHA-256 of version 2.0.11.
const EXPECTED: &str = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717";
/// How much of a commit's name is shown.
const SHORT: usize = 7;
/// Names the commit where there is no checkout: in an image, in a package.
const COMMIT: &str = "SOURCE_COMMIT";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    embed_htmx()?;
    println!("cargo:rerun-if-env-changed={COMMIT}");
    let told = std::env::var(COMMIT).ok().filter(|text| !text.is_empty());
    if let Some(commit) = told.map(short).or_else(checked_out) {
        println!("cargo:rustc-env=ATTENDANCE_BACKUP_COMMIT={commit}");
    }
    Ok(())
}

fn embed_htmx() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={HTMX}");
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

fn short(mut commit: String) -> String {
    if commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        commit.truncate(SHORT);
    }
    commit
}

/// `8ffda00`, or `8ffda00-changed` when it isn't quite that. Of releases only: else each commit would build everything anew that
/// is only tried.
fn checked_out() -> Option<String> {
    if std::env::var("PROFILE").ok()? != "release" || !Path::new(".git").exists() {
        return None;
    }
    for name in ["HEAD", "logs/HEAD"] {
        println!("cargo:rerun-if-changed={}", git(&["rev-parse", "--git-path", name])?);
    }
    for name in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={name}");
    }
    git(&["describe", "--always", "--exclude=*", &format!("--abbrev={SHORT}"), "--dirty=-changed"])
}

/// What git says, if it is there and says anything.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}
