//! Operations that were begun on the page. Each goes on whether or not anyone waits for it, and how it ended is remembered
//! for a while, so that the page can be left, loaded anew, or read without scripts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actix_web::web;

use super::admit::Superuser;
use super::problem::Problem;
use super::{State, locked};
use crate::backup::{Backup, BackupId, DatabaseName, ReplicaName, Subject, hex};
use crate::disk;
use crate::engine::{self, Call, Drilled, Engine, Holder, ReplicaVerification, Restored, Verification};
use crate::sqlite::Control;

/// What ends within this is told at once.
const PATIENCE: Duration = Duration::from_millis(400);
/// How many are remembered.
const REMEMBERED: usize = 64;
/// Random bytes of a number.
const RANDOM: usize = 8;

/// What is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Task {
    /// A backup is taken.
    Create,
    /// A backup is read back.
    Verify(BackupId),
    /// A backup, or what was at an instant, is put back.
    Restore(Subject),
    /// Backups are rehearsed.
    Drill,
    /// A replica is read back.
    VerifyReplica(ReplicaName),
}

impl Task {
    /// As the audit log calls it.
    fn name(&self) -> &'static str {
        match self {
            Task::Create => "create",
            Task::Verify(_) => "verify",
            Task::Restore(_) => "restore",
            Task::Drill => "drill",
            Task::VerifyReplica(_) => "verify replica",
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Done {
    /// By [`Task::Create`].
    Created(Box<Backup>),
    /// By [`Task::Verify`].
    Verified(Verification),
    /// By [`Task::Restore`].
    Restored(Restored),
    /// By [`Task::Drill`].
    Drilled(Drilled),
    /// By [`Task::VerifyReplica`].
    ReplicaVerified(ReplicaVerification),
}

/// How things stand with one.
#[derive(Clone, Debug)]
pub enum Stage {
    /// It runs; the database it is at, and 0 to 1.
    Running(Option<(DatabaseName, f64)>),
    /// It has ended.
    Ended(Result<Done, Problem>),
}

/// One of them.
pub struct Errand {
    /// By which it is asked for; nobody guesses it.
    pub number: String,
    /// What it does.
    pub task: Task,
    /// Who does it, since when.
    pub holder: Holder,
    /// How it is stopped.
    pub control: Control,
    stage: Mutex<Stage>,
}

impl Errand {
    /// How things stand.
    pub fn stage(&self) -> Stage {
        locked(&self.stage).clone()
    }

    fn reached(&self, database: &DatabaseName, share: f64) {
        if let Stage::Running(progress) = &mut *locked(&self.stage) {
            *progress = Some((database.clone(), share));
        }
    }

    /// Nothing more comes of it.
    pub fn has_ended(&self) -> bool {
        matches!(*locked(&self.stage), Stage::Ended(_))
    }
}

/// Those that are remembered, oldest first.
#[derive(Default)]
pub struct Errands(Mutex<VecDeque<Arc<Errand>>>);

impl Errands {
    /// The one of that number.
    pub fn find(&self, number: &str) -> Option<Arc<Errand>> {
        self.all().iter().find(|errand| errand.number == number).cloned()
    }

    fn add(&self, errand: &Arc<Errand>) {
        let mut all = self.all();
        while all.len() >= REMEMBERED
            && let Some(oldest) = all.iter().position(|errand| errand.has_ended())
        {
            all.remove(oldest);
        }
        all.push_back(Arc::clone(errand));
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<Arc<Errand>>> {
        locked(&self.0)
    }
}

/// Begins one, and waits a moment for it. What fails within that moment is the caller's problem; whatever takes longer is
/// found by its number.
pub async fn begin(
    state: &web::Data<State>,
    superuser: &Superuser,
    task: Task,
    act: impl FnOnce(&Engine, &Call) -> Result<Done, engine::Error> + Send + 'static,
) -> Result<Arc<Errand>, Problem> {
    let call = state.call(superuser);
    let number = hex(&disk::random::<RANDOM>().map_err(|error| Problem::internal(&error))?);
    let stage = Mutex::new(Stage::Running(None));
    let holder = Holder::new(task.name(), &call.actor.by, state.engine.clock().now());
    let errand = Arc::new(Errand { number, task, holder, control: call.control.clone(), stage });
    state.errands.add(&errand);
    let listener = Arc::downgrade(&errand);
    let control = call.control.also(move |progress| {
        if let Some(errand) = listener.upgrade() {
            errand.reached(progress.database, progress.done as f64 / progress.total.max(1) as f64);
        }
    });
    let call = Call { control, ..call };
    let (state, begun) = (state.clone(), Arc::clone(&errand));
    let running = actix_web::rt::spawn(async move {
        let ended = state.engine(move |engine| act(engine, &call)).await;
        *locked(&begun.stage) = Stage::Ended(ended);
    });
    // Whether it is done or goes on, its stage says so.
    drop(actix_web::rt::time::timeout(PATIENCE, running).await);
    match errand.stage() {
        Stage::Ended(Err(problem)) => Err(problem),
        Stage::Ended(Ok(_)) | Stage::Running(_) => Ok(errand),
    }
}
