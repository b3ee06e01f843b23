//! Two minutes of `scripts/soak`: an app that commits 200 times a second, and what comes back of any instant of it.

use crate::harness::{PROGRAM, python3, thoroughness};

#[test]
fn whatever_instant_of_a_busy_app_is_restored_is_row_by_row_what_the_app_did() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = python3();
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/soak")).args(["--busy", "--size", "5", "--every", "20"]);
    command.args(["--seconds", &(120 * thoroughness()).to_string(), "--binary", PROGRAM]).arg("--dir").arg(dir.path());
    let output = command.output().unwrap();
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{said}");
    println!("{told}");
    assert!(told.matches("rows equal").count() >= 4, "{told}");
}
