//! When the journal knows what the databases held: until when (`journal/alive`), and when not (`journal/timeline.json`).
//!
//! `alive` is written over in place after each look at the databases, also where nothing had changed, and costs one small write
//! that nobody waits for. After a power cut it may be older than the journal, never newer than what is durable of it.
//! A gap is recorded, durably, before `alive` goes beyond it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Error, FOLDER};
use crate::backup::timestamp;
use crate::disk::{self, Context};

const ALIVE: &str = "alive";
const GAPS: &str = "timeline.json";
const VERSION: u32 = 1;
/// Larger ones are none of ours.
const MAX_BYTES: u64 = 8 << 20;
/// More gaps than these are not remembered: the oldest becomes one with the next.
pub(super) const MAX_GAPS: usize = 10_000;
/// Whoever has restored something leaves it there: the journal begins anew with what there is now.
const RESTORED: &str = "restored";

/// A time of which it isn't known what the databases held, its ends apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// The last instant before it that is known.
    #[serde(with = "timestamp")]
    pub from: DateTime<Utc>,
    /// The first one after it.
    #[serde(with = "timestamp")]
    pub to: DateTime<Utc>,
}

impl Gap {
    /// Whether that instant isn't known.
    pub fn holds(&self, at: DateTime<Utc>) -> bool {
        self.from < at && at < self.to
    }
}

/// Until when the journal knows, and when not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Timeline {
    /// The databases were looked at then. None before the first time, or where that was lost.
    pub alive: Option<DateTime<Utc>>,
    /// In order.
    pub gaps: Vec<Gap>,
}

#[derive(Serialize, Deserialize)]
struct Gaps {
    version: u32,
    gaps: Vec<Gap>,
}

impl Timeline {
    /// As it stands in a backup directory.
    pub fn read(root: &Path) -> Result<Self, Error> {
        let folder = root.join(FOLDER);
        let alive = contents(&folder.join(ALIVE))?.and_then(|text| text.trim_end().parse().ok());
        let path = folder.join(GAPS);
        let Some(text) = contents(&path)? else { return Ok(Self { alive, gaps: Vec::new() }) };
        let damaged = |reason: String| Error::Timeline { path: path.clone(), reason };
        let read: Gaps = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if read.version != VERSION {
            return Err(damaged(format!("its version is {}", read.version)));
        }
        Ok(Self { alive, gaps: read.gaps })
    }

    /// The gap that an instant lies in.
    pub fn gap_at(&self, at: DateTime<Utc>) -> Option<&Gap> {
        self.gaps.iter().find(|gap| gap.holds(at))
    }
}

fn contents(path: &Path) -> Result<Option<String>, disk::Error> {
    let file = match disk::open_regular(path) {
        Err(error) if error.is_missing() => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).to("read", path)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Tells whoever writes the journal, if anybody does, that the databases were restored.
pub fn tell_restored(root: &Path) -> Result<(), disk::Error> {
    let folder = root.join(FOLDER);
    if folder.is_dir() { disk::open_shared(&folder.join(RESTORED)).map(drop) } else { Ok(()) }
}

/// The timeline in the hands of whoever writes the journal.
pub struct Keeper {
    folder: PathBuf,
    alive: File,
    timeline: Timeline,
}

impl Keeper {
    /// Takes it up. One that is damaged is put aside.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let folder = root.join(FOLDER);
        disk::make_own_dir(&folder)?;
        let timeline = match Timeline::read(root) {
            Err(error @ Error::Timeline { .. }) => {
                tracing::error!("{error}");
                let (path, aside) = (folder.join(GAPS), folder.join(format!("{GAPS}.damaged")));
                disk::remove(&aside)?;
                disk::rename_new(&path, &aside)?;
                Timeline::read(root)?
            }
            read => read?,
        };
        let alive = disk::open_shared(&folder.join(ALIVE))?;
        Ok(Self { folder, alive, timeline })
    }

    /// As it stands.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Whether the databases were restored since that was last seen to.
    pub fn was_restored(&self) -> bool {
        self.folder.join(RESTORED).symlink_metadata().is_ok()
    }

    /// It is seen to.
    pub fn restored_is_known(&self) -> Result<(), disk::Error> {
        disk::remove(&self.folder.join(RESTORED))
    }

    /// Records that nothing is known between these two. Durable when it returns.
    pub fn gap(&mut self, gap: Gap) -> Result<(), disk::Error> {
        let mut gaps = self.timeline.gaps.clone();
        gaps.push(gap);
        if gaps.len() > MAX_GAPS {
            let oldest = gaps.remove(0);
            gaps[0].from = oldest.from;
        }
        self.write(gaps)
    }

    /// Forgets what ended before `oldest`: no point before it can be restored.
    pub fn forget_before(&mut self, oldest: DateTime<Utc>) -> Result<(), disk::Error> {
        let gaps: Vec<_> = self.timeline.gaps.iter().copied().filter(|gap| gap.to > oldest).collect();
        if gaps.len() == self.timeline.gaps.len() { Ok(()) } else { self.write(gaps) }
    }

    fn write(&mut self, gaps: Vec<Gap>) -> Result<(), disk::Error> {
        let path = self.folder.join(GAPS);
        let text = serde_json::to_vec(&Gaps { version: VERSION, gaps: gaps.clone() });
        disk::write_durable(&path, &text.map_err(std::io::Error::from).to("write", &path)?)?;
        self.timeline.gaps = gaps;
        Ok(())
    }

    /// The databases were looked at then, and all that had changed is durable.
    pub fn alive(&mut self, at: DateTime<Utc>) -> Result<(), disk::Error> {
        // Always as long, so that it covers what was there.
        let text = format!("{}\n", at.to_rfc3339_opts(SecondsFormat::Millis, true));
        self.alive.write_all_at(text.as_bytes(), 0).to("write", &self.folder.join(ALIVE))?;
        self.timeline.alive = Some(at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-26T{text}Z").parse().unwrap()
    }

    #[test]
    fn what_is_recorded_is_read_and_damage_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Timeline::read(dir.path()).unwrap(), Timeline::default());
        let mut keeper = Keeper::open(dir.path()).unwrap();
        keeper.alive(at("09:00:00.250")).unwrap();
        let gap = Gap { from: at("09:00:00.250"), to: at("09:05:00") };
        keeper.gap(gap).unwrap();
        keeper.alive(at("09:05:00")).unwrap();
        let read = Timeline::read(dir.path()).unwrap();
        assert_eq!(read, Timeline { alive: Some(at("09:05:00")), gaps: vec![gap] });
        assert_eq!(read.gap_at(at("09:01:00")), Some(&gap));
        assert_eq!((read.gap_at(gap.from), read.gap_at(gap.to)), (None, None));
        keeper.forget_before(at("09:04:00")).unwrap();
        assert_eq!(Timeline::read(dir.path()).unwrap().gaps.len(), 1);
        std::fs::write(dir.path().join("journal/timeline.json"), "{\"version\":1,\"ga").unwrap();
        std::fs::write(dir.path().join("journal/alive"), "2026-").unwrap();
        let said = Timeline::read(dir.path()).unwrap_err().to_string();
        assert!(said.contains("timeline.json is damaged"), "{said}");
        let keeper = Keeper::open(dir.path()).unwrap();
        assert_eq!(*keeper.timeline(), Timeline::default());
        assert!(dir.path().join("journal/timeline.json.damaged").exists());
    }

    #[test]
    fn too_many_gaps_become_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::open(dir.path()).unwrap();
        let gap = |minute: i64| {
            let from = at("00:00:00") + chrono::TimeDelta::minutes(2 * minute);
            Gap { from, to: from + chrono::TimeDelta::minutes(1) }
        };
        keeper.write((0..MAX_GAPS as i64).map(gap).collect()).unwrap();
        keeper.gap(gap(MAX_GAPS as i64)).unwrap();
        let gaps = Timeline::read(dir.path()).unwrap().gaps;
        assert_eq!((gaps.len(), gaps[0]), (MAX_GAPS, Gap { from: gap(0).from, to: gap(1).to }));
    }
}
