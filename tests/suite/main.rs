//! What the program promises, tried from outside: real databases, real processes, real crashes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod contention;
mod crash;
mod disk_full;
mod harness;
mod inject;
mod scene;
mod seasons;

mod docs;
mod instant;
mod rotation;
mod serving;
