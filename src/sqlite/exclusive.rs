//! A live database that nobody else has open, held so until its file is replaced.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::parted::{Users, users};
use super::restore::{cookie, persist};
use super::snapshot::jitter;
use super::{Control, Error, Source, beside, identify_to_open, is_wal, mode_bytes, of_writing, open_live, situation};
use crate::backup::DatabaseName;
use crate::disk::{self, Context};

/// A connection that keeps everyone else out.
pub struct Exclusive {
    /// Which.
    pub name: DatabaseName,
    connection: Connection,
    path: PathBuf,
    wal: bool,
}

impl Exclusive {
    /// Takes SQLite's exclusive lock and keeps it. In WAL mode nobody else can have the database open then; in rollback mode
    /// whoever has it open and does nothing just now isn't seen. Nothing if someone is in the way for `timeout`.
    pub fn take(source: &Source, timeout: Duration, control: &Control) -> Result<Option<Self>, Error> {
        identify_to_open(source)?;
        let opened = persist(source, timeout, control, || {
            let connection = open_live(&source.path)?;
            // Before the first read: a WAL database opened so takes the lock on the whole file, instead of a share of it
            // (sqlite.org/wal.html, section 8).
            connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE")?;
            let wal = is_wal(&connection)?;
            connection.execute_batch("ROLLBACK")?;
            Ok(Self { name: source.name.clone(), connection, path: source.path.clone(), wal })
        });
        match opened {
            Err(Error::Locked { .. }) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether the database is in WAL mode.
    pub fn is_wal(&self) -> bool {
        self.wal
    }

    /// Brings all of the WAL into the main file and empties it, durably: nothing of it is played into the file that takes its place, nor
    /// after a power cut.
    pub fn empty_wal(&self) -> Result<(), Error> {
        let failed = |error| of_writing(&self.name, error);
        if !self.wal {
            return Ok(());
        }
        let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
        let busy: bool = self.connection.query_row(sql, [], |row| row.get(0)).map_err(failed)?;
        if busy {
            return Err(Error::Locked { name: self.name.clone(), waited: Duration::ZERO });
        }
        // SQLite syncs what it brings over, not the cut.
        let wal = beside(&self.path, "-wal");
        match disk::open_regular(&wal) {
            Err(error) if error.is_missing() => Ok(()),
            file => Ok(file?.sync_all().to("sync", &wal)?),
        }
    }

    /// Bytes 18 and 19 of the header, which hold the journal mode.
    pub fn mode_bytes(&self) -> Result<[u8; 2], Error> {
        mode_bytes(&self.connection).map_err(|error| situation(&self.name, error))
    }

    /// The schema cookie.
    pub fn cookie(&self) -> Result<u32, Error> {
        cookie(&self.connection).map_err(|error| situation(&self.name, error))
    }
}

/// Who has open what SQLite can't read, so that nobody can be kept out of it. Whoever shows that he has is waited for for `timeout`.
pub fn users_of_ruined(source: &Source, timeout: Duration, control: &Control) -> Result<Users, Error> {
    let (begun, mut round) = (Instant::now(), 0);
    loop {
        control.check()?;
        match users(&source.path) {
            Users::Somebody if begun.elapsed() < timeout => std::thread::sleep(jitter(round)),
            found => return Ok(found),
        }
        round += 1;
    }
}
