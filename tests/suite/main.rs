//! What the program promises, tried from outside: real databases, real processes, real crashes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod app;
mod client;
mod harness;
mod inject;
mod restore_scene;
mod scene;
mod seasons;

mod api;
mod bad_tokens;
mod contention;
mod contract;
mod crash;
mod cross_site;
mod damage;
mod disk_full;
mod docs;
mod doctor;
mod door;
mod downloads;
mod instant;
mod large;
mod layers;
mod limits;
mod lost_catalog;
mod no_file_calls;
mod paths;
mod public_keys;
mod readers;
mod refusals;
mod restore_crash;
mod restore_faults;
mod restore_power;
mod rotation;
mod secrets;
mod serving;
mod sign_in;
mod sources;
mod suspicion;
mod together;
mod tokens;
mod turned_away;
mod waiting;
