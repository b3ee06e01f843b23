//! What the program promises, tried from outside: real databases, real processes, real crashes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod crash;
mod harness;
mod inject;
mod scene;
mod seasons;

mod instant;
