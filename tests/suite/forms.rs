//! Places whose copies are compressed, encrypted, or both; and what Debian's `zstd` and `age` make of them, without us [P12].

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{Place, sha256};

/// How a name ends, whether it is compressed, whether it is encrypted.
pub const FORMS: [(&str, bool, bool); 3] =
    [("db.zst", true, false), ("db.age", false, true), ("db.zst.age", true, true)];

/// Where a place keeps its identity.
pub const IDENTITY: &str = "identity.txt";

impl Place {
    /// With a key of its own: it can read what is encrypted to it. Gives the recipient.
    pub fn keyed(&mut self) -> String {
        let file = self.path(IDENTITY).display().to_string();
        let recipient = self.json(&["keygen", "-o", &file])["recipient"].as_str().unwrap().to_owned();
        self.set("BACKUP_ENCRYPTION_RECIPIENTS", &recipient).set("BACKUP_ENCRYPTION_IDENTITY_FILE", &file);
        recipient
    }

    /// What is written from now on.
    pub fn writes(&mut self, compressed: bool, encrypted: bool) -> &mut Self {
        self.set("BACKUP_COMPRESSION", if compressed { "zstd" } else { "none" });
        self.set("BACKUP_ENCRYPT_LOCAL", if encrypted { "true" } else { "false" })
    }

    /// It takes backups, and can't look into them any more.
    pub fn forgets_its_identity(&mut self) -> &mut Self {
        self.unset("BACKUP_ENCRYPTION_IDENTITY_FILE")
    }

    /// Two small databases, written in that form.
    pub fn of_form(compressed: bool, encrypted: bool) -> Self {
        let mut place = Self::new();
        place.keyed();
        place.writes(compressed, encrypted);
        place
    }

    /// The plain database in a copy, by the tools that people have. Nothing where there is no identity to be had.
    pub fn decoded(&self, copy: &Value, into: &Path) -> Option<PathBuf> {
        let file = self.backups().join(copy["file"].as_str().unwrap());
        let form = copy["form"].as_str().unwrap();
        if form == "db" {
            return Some(file);
        }
        let identity = self.path(IDENTITY);
        if form.ends_with(".age") && !identity.exists() {
            return None;
        }
        let target = into.join(copy["file"].as_str().unwrap().replace('/', "_"));
        decode(&file, form, &identity, &target);
        assert_eq!(sha256(&std::fs::read(&target).unwrap()), copy["checksum"].as_str().unwrap(), "{copy}");
        Some(target)
    }
}

/// As the README says it.
pub fn decode(file: &Path, form: &str, identity: &Path, target: &Path) {
    let script = match form {
        "db.zst" => "zstd -q -d < \"$0\" > \"$2\"",
        "db.age" => "age -d -i \"$1\" \"$0\" > \"$2\"",
        "db.zst.age" => "set -o pipefail; age -d -i \"$1\" \"$0\" | zstd -q -d > \"$2\"",
        other => panic!("{other}"),
    };
    let output = Command::new("bash").args(["-c", script]).args([file, identity, target]).output().unwrap();
    assert!(output.status.success(), "{form}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Everything below the backup directory.
pub fn bytes_of(place: &Place) -> Vec<u8> {
    let files = crate::harness::tree(&place.backups()).into_iter().filter(|(_, _, is_dir)| !is_dir);
    files.flat_map(|(file, ..)| std::fs::read(place.backups().join(file)).unwrap()).collect()
}

pub fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}
