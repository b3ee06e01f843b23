//! Every setting: its names, its default, what is allowed.

/// A setting: its variable, its key in the TOML file and in listings, its default, what is allowed.
pub struct Variable {
    /// In the environment.
    pub env: &'static str,
    /// In the TOML file.
    pub key: &'static str,
    /// If nobody says anything; empty for none.
    pub default: &'static str,
    /// In words.
    pub allowed: &'static str,
    /// Its value is never shown.
    pub secret: bool,
}

const fn variable(env: &'static str, key: &'static str, default: &'static str, allowed: &'static str) -> Variable {
    Variable { env, key, default, allowed, secret: false }
}

const fn secret(env: &'static str, key: &'static str, allowed: &'static str) -> Variable {
    Variable { secret: true, ..variable(env, key, "", allowed) }
}

const SIGNING_SECRET: &str =
    "a random text of 32 to 1024 bytes that no example shows; `openssl rand -hex 32` makes one";
const METRICS_TOKEN: &str = "a random text of 16 to 1024 visible ASCII characters; `openssl rand -hex 16` makes one";
const PUBLIC_KEY: &str = "a public key in PEM (-----BEGIN PUBLIC KEY-----)";
const HTTP_URL: &str = "an address such as https://hooks.school.example/backup";
const CLAIM: &str = "a name of 1 to 64 letters, digits, _, -, ., : or /";

/// All settings, in the order of listings.
pub const VARIABLES: &[Variable] = &[
    variable("BACKUP_ENABLED", "enabled", "true", "true or false"),
    variable("BACKUP_SCHEDULE_HOUR", "schedule.hour", "2", "a whole number from 0 to 23"),
    variable("BACKUP_SCHEDULE_MINUTE", "schedule.minute", "0", "a whole number from 0 to 59"),
    variable("BACKUP_TIMEZONE", "schedule.timezone", "", "an IANA time zone such as Europe/Berlin or UTC"),
    variable("BACKUP_RETENTION_DAILY", "retention.daily", "7", "a whole number from 1 to 366"),
    variable("BACKUP_RETENTION_WEEKLY", "retention.weekly", "4", "a whole number from 0 to 520"),
    variable("BACKUP_RETENTION_MONTHLY", "retention.monthly", "12", "a whole number from 0 to 240"),
    variable("BACKUP_RETENTION_MANUAL", "retention.manual", "10", "a whole number from 1 to 1000"),
    variable("BACKUP_RETENTION_PRE_RESTORE", "retention.pre_restore", "5", "a whole number from 2 to 100"),
    variable("BACKUP_DIRECTORY", "directory", "./databases/backups", "the path of a folder"),
    variable("BACKUP_STORE_ID", "store_id", "", "the storeId that `status --json` shows"),
    variable(
        "BACKUP_DATABASES",
        "databases",
        "attendance=./databases/attendance.db,auth=./databases/auth.db",
        "name=path pairs divided by commas, such as attendance=/data/attendance.db,auth=/data/auth.db; a name is \
         1 to 32 of a-z, 0-9 and _, beginning with a letter (paths with , or = go into the [databases] table of the TOML file)",
    ),
    variable("BACKUP_BIND", "bind", "127.0.0.1:8080", "an address and a port, such as 127.0.0.1:8080 or [::]:8080"),
    variable(
        "BACKUP_PUBLIC_URL",
        "public_url",
        "",
        "the address under which browsers reach this service, such as https://school.example/backups",
    ),
    secret("BACKUP_JWT_SECRET", "jwt.secret", SIGNING_SECRET),
    secret("BACKUP_JWT_PREVIOUS_SECRET", "jwt.previous_secret", SIGNING_SECRET),
    // Public; but what is put there by mistake is the private one.
    secret("BACKUP_JWT_PUBLIC_KEY", "jwt.public_key", PUBLIC_KEY),
    secret("BACKUP_JWT_PREVIOUS_PUBLIC_KEY", "jwt.previous_public_key", PUBLIC_KEY),
    variable(
        "BACKUP_JWT_PREVIOUS_UNTIL",
        "jwt.previous_until",
        "",
        "the instant until which the previous key counts, such as 2026-03-01T00:00:00Z",
    ),
    variable("BACKUP_JWT_ALGORITHM", "jwt.algorithm", "HS256", "HS256, RS256, ES256 or EdDSA"),
    variable("BACKUP_JWT_AUDIENCE", "jwt.audience", "", "the `aud` that tokens must carry, 1 to 200 characters"),
    variable("BACKUP_JWT_ISSUER", "jwt.issuer", "", "the `iss` that tokens must carry, 1 to 200 characters"),
    variable("BACKUP_JWT_SUBJECT_CLAIM", "jwt.subject_claim", "sub", CLAIM),
    variable(
        "BACKUP_JWT_COOKIE",
        "jwt.cookie",
        "backup_session",
        "a cookie's name: 1 to 64 letters, digits, _, - or .",
    ),
    variable("BACKUP_SUPERUSER_CLAIM", "superuser.claim", "role", CLAIM),
    variable("BACKUP_SUPERUSER_VALUE", "superuser.value", "superuser", "a text of 1 to 200 characters"),
    variable(
        "BACKUP_DOWNLOADS_PER_MINUTE",
        "downloads_per_minute",
        "10",
        "a whole number from 1 to 1000, for each user and for each address",
    ),
    variable(
        "BACKUP_TRUSTED_PROXIES",
        "trusted_proxies",
        "",
        "addresses and networks divided by commas, such as 172.18.0.0/16,::1",
    ),
    variable("BACKUP_LOCK_TIMEOUT", "lock_timeout", "30s", "a duration from 100ms to 10m, such as 30s"),
    variable("BACKUP_ROLLBACK_HOLD", "rollback_hold", "3s", "a duration from 100ms to 1m, such as 3s"),
    variable("BACKUP_RESTORE_HOLD", "restore_hold", "3s", "a duration from 100ms to 1m, such as 3s"),
    variable("BACKUP_CHECK", "check", "quick", "quick or integrity"),
    variable("BACKUP_STALE_AFTER", "stale_after", "26h", "a duration from 1m to 365d, such as 26h"),
    variable(
        "BACKUP_SHRINK_ALARM",
        "shrink_alarm",
        "50",
        "a percentage from 1 to 100 (100: only missing and emptied tables alarm)",
    ),
    variable("BACKUP_DRILL_SCHEDULE", "drill.schedule", "weekly", "off, daily, weekly or monthly"),
    variable("BACKUP_PITR", "pitr.enabled", "false", "true or false"),
    variable("BACKUP_PITR_INTERVAL", "pitr.interval", "1s", "a duration from 100ms to 1h, such as 1s"),
    variable("BACKUP_PITR_RETENTION", "pitr.retention", "7d", "a duration from 1h to 366d, such as 7d"),
    variable("BACKUP_PITR_SNAPSHOT_EVERY", "pitr.snapshot_every", "1d", "a duration from 1m to 30d, such as 1d"),
    variable("BACKUP_COMPRESSION", "compression", "none", "none or zstd"),
    variable("BACKUP_COMPRESSION_LEVEL", "compression_level", "3", "a whole number from 1 to 19"),
    variable("BACKUP_ENCRYPT_LOCAL", "encrypt_local", "false", "true or false"),
    variable(
        "BACKUP_ENCRYPTION_RECIPIENTS",
        "encryption.recipients",
        "",
        "recipients of age (X25519: age1…), one a line or divided by commas",
    ),
    variable(
        "BACKUP_ENCRYPTION_IDENTITY_FILE",
        "encryption.identity_file",
        "",
        "the path of a file with identities of age (AGE-SECRET-KEY-1…), as `keygen` makes it",
    ),
    secret(
        "BACKUP_SMTP_URL",
        "smtp.url",
        "smtp://user@host (STARTTLS, port 587), smtps://user@host (port 465), or smtp://host?tls=none (port 25, in a network of your own)",
    ),
    secret("BACKUP_SMTP_PASSWORD", "smtp.password", "a text of 1 to 1024 characters on one line"),
    variable("BACKUP_EMAIL_FROM", "email.from", "", "an address, such as Backups <backup@school.example>"),
    variable("BACKUP_EMAIL_TO", "email.to", "", "1 to 20 addresses divided by commas, such as it@school.example"),
    secret("BACKUP_WEBHOOK_URL", "webhook.url", HTTP_URL),
    secret("BACKUP_WEBHOOK_SECRET", "webhook.secret", "a random text of 16 to 1024 characters on one line"),
    variable("BACKUP_WEBHOOK_FORM", "webhook.form", "auto", "auto, json, ntfy, slack or discord"),
    secret("BACKUP_HEALTHCHECK_URL", "healthcheck_url", HTTP_URL),
    variable("BACKUP_NOTIFY_PRIVATE", "notify.private", "false", "true or false"),
    variable("BACKUP_NOTIFY_CA", "notify.ca", "", "certificates in PEM (-----BEGIN CERTIFICATE-----)"),
    variable("BACKUP_METRICS", "metrics.enabled", "false", "true or false"),
    secret("BACKUP_METRICS_TOKEN", "metrics.token", METRICS_TOKEN),
    variable("BACKUP_LOG", "log", "info", "error, warn, info, debug or trace"),
    variable("BACKUP_LOG_FORMAT", "log_format", "text", "text or json"),
];

impl Variable {
    /// The key in JSON: `retention.preRestore`.
    pub fn json_key(&self) -> String {
        let mut words = self.key.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |key, word| key + &word[..1].to_uppercase() + &word[1..])
    }

    pub(super) fn find(env: &str) -> Option<&'static Self> {
        VARIABLES.iter().find(|variable| variable.env == env)
    }
}

/// The known name within three letters of a misspelt one, and more alike than not.
pub(super) fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    fn bare(name: &str) -> &str {
        name.strip_prefix("BACKUP_").unwrap_or(name)
    }
    let name = bare(name.strip_suffix("_FILE").unwrap_or(name));
    let scored = known.map(|known| (distance(name, bare(known)), known));
    scored.filter(|(far, known)| *far <= 3 && 2 * far < bare(known).len()).min().map(|(_, known)| known)
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let cost = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}
