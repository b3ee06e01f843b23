//! Copies elsewhere. A replica is a reader of the backup directory: it takes no `.lock`, delays nothing here, and what it lacks is
//! computed from what is here and what is there (`backup::replica::plan`), so that nothing is lost with a process that ends. But after
//! a change of writers it sees to it, under `.lock`, that the numbers here go on above those there (`adopt`).
//!
//! The order of a replication (`sync`), of one replica, by one process at a time:
//!
//! 1. The replica's catalog is read. It has to be of this store, and the one that this directory wrote there last.
//! 2. The lease is taken: for its time no other directory writes there.
//! 3. The intent is recorded, if there is anything to do.
//! 4. What no catalog names is removed, as far as its key is one of ours: what was cut short before, here or elsewhere. It comes
//!    first, for it may be what there is no room for.
//! 5. Backup by backup, the newest first (the oldest, where each is sent as what has changed since the one before): its objects are
//!    sent, and read back from there to their last byte; then a new catalog names it. Nothing is named before. Where the store is
//!    full, what would go if nothing more came goes at once, in the order of step 6, and the rest waits for the next try.
//!    Where what is here changes meanwhile, what is still to be done is planned anew after the backup that is being sent.
//! 6. A catalog that no longer names what goes, and has the ids of what was promoted; then the objects of what went are removed, and
//!    their folders, where these stay and nothing is in them. What
//!    others stand on stays named, until one of them is sent again so that it can go (`collapse`), in the order of step 5.
//! 7. The lease is given back, the outcome recorded.
//!
//! Cut short anywhere, the newest whole catalog there is true: each object that it names was there before it, and is removed only
//! after a later one is there that doesn't name it. So is the one before it, which stays: what is superseded goes when neither of the
//! two names it any more, for which the newest is written once more.

mod adopt;
mod arriving;
mod carry;
mod collapse;
mod done;
mod fetch;
mod journal;
mod merge;
mod passing;
mod rebuild;
mod rebuilders;
mod report;
mod segment;
mod send;
mod site;
mod squeeze;
mod state;
mod sweep;
mod sync;
mod verify;
mod writable;

use serde_json::{Map, Value};

use super::{Engine, Error};
use crate::backup::{BackupId, ReplicaName};
use crate::remote::{self, Pace, Place, Remote};
use crate::sqlite::Control;

pub use done::{NotSent, Replicated};
pub use fetch::{Brought, Holding, Pulled, Which};
pub use journal::{FetchedPoint, JournalThere, JournalVerdict, Shipping};
pub use report::{LastError, ReplicaStatus};
pub use verify::{BackupVerdict, ReplicaVerification};

pub(super) use fetch::PULL;
pub(super) use report::warnings;
pub(super) use sync::REPLICATE;

/// A replica that is configured, or any place by its URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Elsewhere {
    /// By its name.
    Name(ReplicaName),
    /// By its URL; its credentials are those of the replica `FROM`.
    Url(String),
}

impl std::str::FromStr for Elsewhere {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.contains("://") {
            true => Ok(Elsewhere::Url(text.to_owned())),
            false => text
                .parse()
                .map(Elsewhere::Name)
                .map_err(|error| format!("{error}; or give a URL such as s3://bucket/prefix")),
        }
    }
}

/// Instead of a name in the variables of what `--from URL` shows.
const FROM: &str = "FROM";

/// A place with what it is called.
#[derive(Clone)]
struct Target {
    label: String,
    /// As its variables have it.
    name: String,
    place: Place,
    pace: Pace,
}

impl Engine {
    fn target(&self, from: &Elsewhere) -> Result<Target, Error> {
        match from {
            Elsewhere::Name(name) => {
                let replica = self.config.replicas.get(name).ok_or_else(|| self.unknown(name))?;
                let (label, name) = (format!("`{name}`"), name.as_str().to_uppercase());
                Ok(Target { label, name, place: replica.place.clone(), pace: replica.pace.clone() })
            }
            Elsewhere::Url(url) => {
                let from = &self.config.elsewhere;
                let place = Place::parse(url, from.credentials.clone()).map_err(|problem| Error::BadPlace {
                    problem: format!("the URL of the replica: {}", problem.replace("<NAME>", FROM)),
                })?;
                Ok(Target { label: place.url().to_owned(), name: FROM.to_owned(), place, pace: from.pace.clone() })
            }
        }
    }

    fn unknown(&self, name: &ReplicaName) -> Error {
        Error::ReplicaUnknown {
            name: name.to_string(),
            known: self.config.replicas.keys().map(ToString::to_string).collect(),
        }
    }
}

impl Target {
    fn failed(&self, error: remote::Error) -> Error {
        match error {
            remote::Error::Cancelled => crate::sqlite::Error::Cancelled.into(),
            error => Error::Replica { at: self.label.clone(), name: self.name.clone(), error },
        }
    }

    fn remote(&self, control: &Control) -> Result<Remote, Error> {
        let control = control.clone();
        let remote = Remote::open(&self.place, &self.pace).map_err(|error| self.failed(error))?;
        Ok(remote.cancelled_by(move || control.is_cancelled()))
    }
}

fn ids(ids: &[BackupId]) -> Value {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().into()
}

fn details<const N: usize>(of: [(&str, Value); N]) -> Map<String, Value> {
    of.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests;
