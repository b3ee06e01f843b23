//! The journal in a replica, seconds behind: packs of its files (`crate::journal::pack`), and until when all of it is there.
//!
//! - Its *lineage* is named by the replica's catalog, which a replication writes under its lease (`lineage`): so whatever keeps another
//!   store or another directory from writing there keeps it from this as well. While the newest catalog isn't the one that this
//!   directory wrote, nothing is sent.
//! - What is lacking is computed from a listing and from what lies here (`crate::journal::packs`). The newest seconds go on one thread
//!   (`send`), snapshots and larger steps, and what is too old, on another (`tend`).
//! - A pack is noted here before it is sent, read back, and counts only then: what was noted and not done is removed at the next look.
//! - `until` follows the packs. What it says was read before what lies here was looked at, so all up to it has been sent.
//!
//! Coming back (`site`, `fetch`): of the lineages that the catalog names the latest that reaches the instant is taken.

mod fetch;
mod here;
mod lineage;
mod listing;
mod mend;
mod send;
mod shipping;
mod site;
mod state;
mod tend;
mod unpack;
mod until;
mod verify;

pub use fetch::FetchedPoint;
pub(super) use lineage::Left;
pub use shipping::Shipping;
pub use state::JournalThere;
pub use verify::JournalVerdict;
