//! Consistent backups of live SQLite databases, taken beside a running app.
//!
//! Who may import whom, from the ground up (a test reads the `use` lines and holds it):
//!
//! - `backup`, `disk`, `clock`, the ground: nothing of ours.
//! - `remote`: `disk`. `codec`: the ground. `notify`: `backup`. `config`: `backup`, `codec`, `remote`, `notify`. `telemetry`: `config`.
//!   `token`: `config`, `clock`. `session`: `token` and the ground.
//! - `sqlite`, `catalog`, `store`, `audit`: `backup`, `disk`, `clock`; not each other.
//! - `journal`: `sqlite` and the ground.
//! - `engine`: all of these but `telemetry`; the only one that performs operations.
//! - `scheduler`, `replicator`, `recorder`, `notifier`: `engine` and below. `http`: `engine`, `session` and below.
//! - `app`: the composition root; `demo` and `cli` stand on it and on `engine`.

pub mod app;
pub mod audit;
pub mod backup;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod demo;
pub mod disk;
pub mod engine;
pub mod http;
pub mod journal;
pub mod notifier;
pub mod notify;
pub mod recorder;
pub mod remote;
pub mod replicator;
pub mod scheduler;
pub mod session;
pub mod sqlite;
pub mod store;
pub mod telemetry;
pub mod token;
