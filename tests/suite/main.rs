//! What the program promises, tried from outside: real databases, real processes, real crashes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod app;
mod harness;

mod damage;
mod instant;
mod large;
mod layers;
mod lost_catalog;
mod no_file_calls;
mod refusals;
mod secrets;
mod sources;
mod suspicion;
mod waiting;
