//! On whose behalf an operation is carried out, and how.

use std::time::Duration;

use super::permit;
use crate::sqlite::Control;

/// On whose behalf, and from where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    /// `scheduler`, `cli`, a user.
    pub by: String,
    /// An address, or this host.
    pub from: String,
}

impl Actor {
    /// A user of the command line.
    pub fn cli() -> Self {
        let uid = rustix::process::getuid().as_raw();
        Self { by: "cli".to_owned(), from: format!("uid {uid} on {}", permit::host()) }
    }

    /// Someone who came in over HTTP.
    pub fn user(subject: &str, from: std::net::IpAddr) -> Self {
        // No subject can pass for the schedule.
        Self { by: format!("user:{subject}"), from: from.to_string() }
    }

    /// Someone who wasn't let in.
    pub fn nobody(from: std::net::IpAddr) -> Self {
        Self { by: "nobody".to_owned(), from: from.to_string() }
    }

    /// The schedule.
    pub fn scheduler() -> Self {
        Self { by: "scheduler".to_owned(), from: permit::host() }
    }
}

/// How an operation is carried out, whatever it is.
#[derive(Clone)]
pub struct Call {
    /// On whose behalf.
    pub actor: Actor,
    /// How long to wait for the directory.
    pub wait: Duration,
    /// Cancellation and progress.
    pub control: Control,
}

impl Call {
    /// Without waiting, without listeners.
    pub fn new(actor: Actor) -> Self {
        Self { actor, wait: Duration::ZERO, control: Control::default() }
    }
}
