//! Backups for unit tests of the rules.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde_json::Map;

use super::retention::{Plan, Step};
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

/// What the engine makes of a plan.
pub fn apply(backups: &mut Vec<Backup>, plan: &Plan) {
    for step in &plan.steps {
        match step {
            Step::Drop { id, .. } => {
                let before = backups.len();
                backups.retain(|backup| backup.id != *id);
                assert_eq!(backups.len(), before - 1, "{id} was not there to drop");
            }
            Step::Promote { from, to, .. } => {
                assert!(backups.iter().all(|backup| backup.id != *to), "{to} is there already");
                let moved = backups.iter_mut().find(|backup| backup.id == *from).expect("nothing to promote");
                assert!(to.covers(moved.local_date), "{to} for {}", moved.local_date);
                (moved.id, moved.tier) = (*to, to.tier());
            }
        }
    }
}
