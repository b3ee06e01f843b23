//! Backups for unit tests of the rules.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde_json::Map;

use super::{Backup, BackupId, CheckKind, Checked, Tier, Verified};

/// A backup of which rules see what matters to them.
pub fn backup(sequence: u64, tier: Tier, date: NaiveDate) -> Backup {
    let at = date.and_hms_opt(2, 0, 0).unwrap().and_utc();
    Backup {
        sequence,
        id: BackupId::new(tier, at + chrono::Duration::seconds(sequence as i64), date),
        tier,
        timestamp: at,
        local_date: date,
        databases: BTreeMap::new(),
        promoted_from: None,
        reason: None,
        created_by: "test".to_owned(),
        pinned: false,
        flags: BTreeSet::new(),
        findings: Vec::new(),
        checked: Checked { at, kind: CheckKind::Quick, ok: true },
        verified: Verified { at, ok: true, ciphertext_only: false },
        deleting: false,
        extra: Map::new(),
    }
}
