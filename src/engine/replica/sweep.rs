//! What a crash left half written of what is remembered of replicas. Whoever writes it next under the same name removes it first; of a replica
//! that isn't configured any more nobody does.

use std::path::Path;

use super::state::FOLDER;
use crate::backup::ReplicaName;
use crate::disk::{self, Context};
use crate::engine::{Actor, Call, Engine, Error};

/// Who may be writing a partial.
#[derive(PartialEq, Eq, Debug)]
enum Writer {
    /// `serve` alone.
    Serve,
    /// Whoever has to do with that replica.
    Permitted(ReplicaName),
}

impl Engine {
    /// Removes it, as far as nobody can be writing it; `serve` calls this before it sends anything. What goes wrong is only said: nothing
    /// waits for it.
    pub fn sweep_replicas(&self) {
        if let Err(error) = self.assert_expected().and_then(|()| self.swept()) {
            tracing::warn!(%error, "what was left half written in {FOLDER}/ is not removed");
        }
    }

    fn swept(&self) -> Result<(), Error> {
        let folder = self.store.root().join(FOLDER);
        let entries = match std::fs::read_dir(&folder).to("list", &folder) {
            Err(error) if error.is_missing() => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry.to("list", &folder)?.path();
            let Some(writer) = writer_of(&path) else { continue };
            let _permit = match writer {
                Writer::Serve => None,
                Writer::Permitted(name) => match self.replica_permit(&name, &Call::new(Actor::scheduler())) {
                    // It is being written, or will be swept another time.
                    Err(Error::ReplicaBusy { .. }) => continue,
                    permit => Some(permit?),
                },
            };
            disk::remove(&path)?;
            tracing::info!(path = %path.display(), "what a crash left half written is removed");
        }
        Ok(())
    }
}

/// Nothing of any other name.
fn writer_of(path: &Path) -> Option<Writer> {
    let name = path.file_name()?.to_str()?.strip_prefix('.')?.strip_suffix(".json.partial")?;
    match name.strip_suffix("-journal") {
        Some(name) => name.parse::<ReplicaName>().ok().map(|_| Writer::Serve),
        None => name.parse().ok().map(Writer::Permitted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_is_known() {
        let of = |name: &str| writer_of(&Path::new("replicas").join(name));
        assert_eq!(of(".nas.json.partial"), Some(Writer::Permitted("nas".parse().unwrap())));
        assert_eq!(of(".nas-journal.json.partial"), Some(Writer::Serve));
        for strange in
            ["nas.json", ".nas", "nas.json.partial", ".NAS.json.partial", ".nas-x.json.partial", ".photo.jpg.partial"]
        {
            assert_eq!(of(strange), None, "{strange}");
        }
    }
}
