//! What each event is called, what it means, and what to do.

use crate::backup::notices::Event;

/// In a few words.
pub(super) fn began(event: Event) -> &'static str {
    match event {
        Event::BackupFailed => "the last backup failed",
        Event::LiveUnusable => "the live data can't be backed up",
        Event::Stale => "no recent backup",
        Event::VerificationFailed => "a backup is damaged or gone",
        Event::ReplicaDamaged => "a copy elsewhere is damaged",
        Event::DrillFailed => "a rehearsal of a restore failed",
        Event::ReplicaBehind => "a copy elsewhere is behind",
        Event::JournalBehind => "the journal is not written",
        Event::StorageLow => "the backup disk is nearly full",
        Event::RotationFrozen => "old backups are not dropped any more",
        Event::RestoreUnfinished => "a restore was cut short",
        Event::AuditBroken => "the audit log is not whole",
        Event::ClockWrong => "the clock of the server is wrong",
        Event::Unreadable => "the backup directory can't be read",
        Event::RestoreDone => "the data was put back",
        Event::RestoreFailed => "a restore failed",
        Event::JournalWrong => "the journal was wrong",
        Event::SettingsChanged => "the settings were changed",
        Event::SignInRefused => "somebody tries to sign in",
        Event::Test => "this is a test",
    }
}

/// The same when it is over.
pub(super) fn recovered(event: Event) -> &'static str {
    match event {
        Event::BackupFailed => "a backup went well again",
        Event::LiveUnusable => "the live data can be backed up again",
        Event::Stale => "backups are in time again",
        Event::VerificationFailed => "no backup is damaged or gone any more",
        Event::ReplicaDamaged => "no copy elsewhere is damaged any more",
        Event::DrillFailed => "a rehearsal went well again",
        Event::ReplicaBehind => "the copies elsewhere are in time again",
        Event::JournalBehind => "the journal is written again",
        Event::StorageLow => "there is room on the backup disk again",
        Event::RotationFrozen => "rotation goes on again",
        Event::RestoreUnfinished => "the restore that was cut short is settled",
        Event::AuditBroken => "the audit log is whole again",
        Event::ClockWrong => "the clock of the server is right again",
        Event::Unreadable => "the backup directory can be read again",
        Event::RestoreDone
        | Event::RestoreFailed
        | Event::JournalWrong
        | Event::SettingsChanged
        | Event::SignInRefused
        | Event::Test => "it is over",
    }
}

/// In a sentence: what that means.
pub(super) fn meaning(event: Event) -> &'static str {
    match event {
        Event::BackupFailed => {
            "The last backup could not be taken. Earlier ones are untouched; work done since the newest of them is in no backup."
        }
        Event::LiveUnusable => {
            "What the app works with isn't as it should be: no good backup can be taken of it. Earlier ones are untouched, and none of them is dropped."
        }
        Event::Stale => {
            "No good backup was taken for too long. If the data were lost now, all work since the newest one would be lost."
        }
        Event::VerificationFailed => {
            "A backup isn't what it was when it was taken, or its files are gone. Don't rely on it; the live data is untouched."
        }
        Event::ReplicaDamaged => {
            "A second copy of a backup isn't what was sent. It is sent again with the next replication, as long as the backup is here."
        }
        Event::DrillFailed => "A restore was rehearsed, and would not have given the data back as it should.",
        Event::ReplicaBehind => {
            "A second copy of the backups lacks what is here. The backups here are as good as before; if this machine were lost, the newest would be lost with it."
        }
        Event::JournalBehind => {
            "The journal, by which one can go back to any second, is not being written. Backups go on."
        }
        Event::StorageLow => "There is little room left where the backups lie. Soon no new one can be taken.",
        Event::RotationFrozen => {
            "Something about the live data is suspicious, or a backup can't be moved to its longer type, so no old one is dropped until somebody has looked. New ones are taken."
        }
        Event::RestoreUnfinished => {
            "A restore was cut short, and the live databases may be of different times until it is brought to its end."
        }
        Event::AuditBroken => {
            "The record of who did what is not what it was (its end was cut off, or it was removed), or can't be written. Backups go on."
        }
        Event::ClockWrong => {
            "The clock of the server is wrong, or was. It decides when a backup is taken, and which one is dropped."
        }
        Event::Unreadable => {
            "How the backups stand can't be found out: their directory or a file in it can't be read, or it isn't the one that was expected. It may be that no backup can be taken meanwhile."
        }
        Event::RestoreDone | Event::RestoreFailed | Event::SettingsChanged | Event::Test => "Something was done.",
        Event::JournalWrong => {
            "The journal was not what the databases were, or files of it are damaged or gone. It begins anew; to some seconds before that one can't go back. Backups are as good as before."
        }
        Event::SignInRefused => {
            "Sign-ins with tokens that don't count were refused again and again. Nobody was let in by them."
        }
    }
}

/// What to do now, the likeliest first.
pub(super) fn todo(event: Event) -> &'static [&'static str] {
    match event {
        Event::BackupFailed | Event::Stale => &[
            "Do what is said above. The log of `serve` says more.",
            "Take a backup by hand: attendance-backup create",
            "If that fails too: attendance-backup doctor looks for what tends to be wrong.",
            "If live data is corrupt or gone: attendance-backup list shows the backups, attendance-backup restore ID puts one \
             back, and says where it needs --force or --offline.",
        ],
        Event::LiveUnusable => &[
            "Look at the app: does it work, and is all of its data there?",
            "If not: attendance-backup list shows from when there are backups, attendance-backup restore ID puts one back.",
            "If all is right: attendance-backup create takes a backup, or says what is in its way.",
        ],
        Event::ReplicaDamaged => &[
            "Read it back once more: attendance-backup replica verify NAME",
            "Send again what it lacks: attendance-backup replica push NAME",
            "Look at that place (its log, its health): damage seldom comes alone.",
        ],
        Event::VerificationFailed => &[
            "Take a new backup now: attendance-backup create",
            "Read all of them back: attendance-backup verify --all",
            "Look at the disk (its log, its health): damage seldom comes alone.",
        ],
        Event::DrillFailed => &[
            "Take a new backup now: attendance-backup create",
            "Rehearse again: attendance-backup drill",
            "If it fails again, look at the disk and at the database that is named above.",
        ],
        Event::ReplicaBehind => &[
            "Look whether that place is there, has room, and takes the credentials. It is tried again by itself.",
            "Send now what it lacks: attendance-backup replica push NAME",
        ],
        Event::JournalBehind => &[
            "Look whether `serve` runs, and what its log says.",
            "attendance-backup status shows when it is written again.",
        ],
        Event::StorageLow => &[
            "Make room on that disk, or give it more.",
            "Or keep fewer: attendance-backup config --set retention.daily=5 --dry-run tells what would go.",
            "Or delete single ones: attendance-backup list, then attendance-backup delete ID",
        ],
        Event::RotationFrozen => &[
            "Read the reason above. If a backup can't become one of a longer type: look at the disk; the next backup tries it again.",
            "Else look at the app: is all of its data there? Is each of its databases in BACKUP_DATABASES?",
            "If all is right as it is: attendance-backup create --accept-shrink says so.",
            "If not: attendance-backup list shows from when there are backups, attendance-backup restore ID puts one back.",
        ],
        Event::RestoreUnfinished => &[
            "Start `serve`, or run: attendance-backup create (either brings it to its end)",
            "Then look at the app. If it isn't as you want it: attendance-backup undo",
        ],
        Event::AuditBroken => &[
            "Find out who has changed audit.jsonl in the backup directory, and put it back from a copy, if you have one.",
            "See where it breaks: attendance-backup audit verify",
            "If it is lost and no copy of it is left, say so, and it counts as whole from then on: attendance-backup audit accept",
        ],
        Event::ClockWrong => &[
            "Set the clock of the server, and let it be kept right (NTP).",
            "When it is right: attendance-backup create takes a backup with the right time.",
        ],
        Event::Unreadable => &[
            "Look whether the volume of the backups is mounted, and whether the service may read it.",
            "Do what is said above; attendance-backup status tells whether it helped.",
        ],
        Event::JournalWrong => &[
            "Nothing for now: new bases are taken by themselves. From when to when can be gone back: attendance-backup status",
            "If it comes again: look at the disk and the memory of that machine, and whether anything writes to the databases past SQLite.",
        ],
        Event::SignInRefused => &[
            "See from where they come: the page's activity, or the log of `serve`.",
            "If somebody of yours has an old token, give them a new one. Else let your firewall keep that address out.",
        ],
        Event::RestoreDone | Event::RestoreFailed | Event::SettingsChanged | Event::Test => &["Nothing."],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_says_what_it_is_and_what_to_do() {
        for event in Event::ALL {
            assert!(!began(*event).is_empty() && !recovered(*event).is_empty() && meaning(*event).ends_with('.'));
            assert!(!todo(*event).is_empty());
        }
    }
}
