//! Who may come in, with what kind of secret, and through which proxies; and who may read the secrets.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Finding, ok, problem, warning};
use crate::config::Secret;
use crate::engine::Engine;
use crate::engine::permit::{Holder, SERVE};

/// Where containers find their secrets, readable by all that runs there, which is us.
const CONTAINER_SECRETS: &str = "/run/secrets/";
/// Prometheus has it, not the app.
const METRICS_TOKEN: &str = "BACKUP_METRICS_TOKEN";
/// A network as wide as that is half of the internet, or all of it.
const TOO_WIDE: u8 = 7;

impl Engine {
    pub(super) fn access(&self) -> Vec<Finding> {
        let mut findings = vec![self.tokens()];
        findings.extend(self.secrets());
        findings.extend(self.config.secret_files.iter().filter_map(|path| readable_by_others("secrets", path)));
        findings.extend(self.proxies());
        findings.extend(self.open_metrics());
        findings
    }

    /// How large the databases are, and when nobody looks, is not for everyone.
    fn open_metrics(&self) -> Option<Finding> {
        let config = &self.config;
        let (metrics, bind) = (&config.metrics, config.bind);
        let is_proxied = config.public_url.is_some() || !config.trusted_proxies.is_empty();
        if !metrics.enabled || metrics.token.is_some() || bind.ip().is_loopback() && !is_proxied {
            return None;
        }
        let whom = if is_proxied { "comes through the proxy".to_owned() } else { format!("reaches {bind}") };
        let fix = "set BACKUP_METRICS_TOKEN_FILE, and give Prometheus the same file";
        let fix = if is_proxied { format!("{fix}; or let the proxy answer 404 there") } else { fix.to_owned() };
        Some(warning("metrics", format!("whoever {whom} can read /metrics"), Some(fix)))
    }

    fn tokens(&self) -> Finding {
        let access = &self.config.access;
        if access.key.is_none() && Holder::read(self.store.root(), SERVE, self.clock.now()).is_some() {
            let found =
                "a `serve` runs here, with a key that isn't set for this command; its page tells what it finds of that";
            return ok("access", found);
        }
        if access.key.is_none() {
            let fix = "set BACKUP_JWT_SECRET_FILE to the app's secret, or BACKUP_JWT_PUBLIC_KEY_FILE and BACKUP_JWT_ALGORITHM";
            let found = "no key for tokens is set, so `serve` doesn't start";
            return warning("access", found.to_owned(), Some(fix.to_owned()));
        }
        if access.admits_all_tokens() {
            let found = "any token without an audience that the app's secret signs is taken, whatever it was meant for";
            let fix =
                "set BACKUP_JWT_AUDIENCE, and let the app put that `aud` into the tokens that are for this service";
            return warning("access", found.to_owned(), Some(fix.to_owned()));
        }
        ok("access", "only tokens by the configured key are taken")
    }

    /// What is taken at the start may still be poor.
    fn secrets(&self) -> Vec<Finding> {
        let key = self.config.access.key.as_ref().filter(|key| key.is_shared());
        let current = key.map(|key| ("BACKUP_JWT_SECRET", &key.current));
        let previous =
            key.and_then(|key| key.previous.as_ref()).map(|(secret, _)| ("BACKUP_JWT_PREVIOUS_SECRET", secret));
        let token = self.config.metrics.token.as_ref().map(|token| (METRICS_TOKEN, token));
        let known: Vec<(&str, &Secret)> = [current, previous, token].into_iter().flatten().collect();
        let poor = known.iter().filter_map(|(name, secret)| Some((*name, secret.weakness()?)));
        let findings: Vec<_> = poor
            .map(|(name, why)| {
                let where_else = if name == METRICS_TOKEN { "Prometheus" } else { "the app" };
                let fix = format!("set {name} to a drawn one, in {where_else} too: `openssl rand -hex 32`");
                warning("secrets", format!("{name} {why}: it can be guessed"), Some(fix))
            })
            .collect();
        if findings.is_empty() && !known.is_empty() {
            vec![ok("secrets", "drawn, as it seems, not typed")]
        } else {
            findings
        }
    }

    fn proxies(&self) -> Vec<Finding> {
        let (about, config) = ("proxies", &self.config);
        let trusted = &config.trusted_proxies;
        if let Some(wide) = trusted.iter().find(|network| network.prefix_len() <= TOO_WIDE) {
            let found = format!("BACKUP_TRUSTED_PROXIES names {wide}: anyone can say what address they come from");
            let fix = "name the addresses of the proxy alone".to_owned();
            return vec![problem(about, found, Some(fix))];
        }
        let https = config.public_url.as_ref().is_some_and(crate::config::PublicUrl::is_https);
        if https && trusted.is_empty() {
            let found = "browsers come by https, through a proxy, and BACKUP_TRUSTED_PROXIES names none: all of them count as \
                         one address, and one who guesses tokens keeps the others waiting";
            let fix = "set BACKUP_TRUSTED_PROXIES to the proxy's address, which should set X-Forwarded-For";
            return vec![warning(about, found.to_owned(), Some(fix.to_owned()))];
        }
        if !https && trusted.is_empty() && !config.bind.ip().is_loopback() {
            let found = format!("{} answers others without TLS: tokens can be read on the way", config.bind);
            let fix = "put a proxy with TLS in front, and say so by BACKUP_PUBLIC_URL and BACKUP_TRUSTED_PROXIES, or set \
                       BACKUP_BIND=127.0.0.1:8080";
            return vec![warning(about, found, Some(fix.to_owned()))];
        }
        let found = match trusted.len() {
            0 => "none is trusted: each caller is the address that it connects from".to_owned(),
            count => format!("{count} trusted, whose X-Forwarded-For counts"),
        };
        vec![ok(about, found)]
    }

    /// That no identity is at hand is told by the status.
    pub(super) fn encryption(&self) -> Vec<Finding> {
        let (about, codec) = ("encryption", &self.config.codec);
        let mut findings = Vec::new();
        if codec.encrypts {
            let found =
                format!("copies are encrypted to {} recipients ({})", codec.recipients.len(), codec.form().ending());
            findings.push(ok(about, found));
        } else if !codec.recipients.is_empty() {
            let found = "recipients are set, but copies lie unencrypted".to_owned();
            findings.push(warning(about, found, Some("set BACKUP_ENCRYPT_LOCAL=true".to_owned())));
        }
        findings.extend(self.config.identity_file.iter().flat_map(|path| self.identity(path)));
        findings
    }

    /// The identity is as precious as all backups together.
    fn identity(&self, path: &Path) -> Vec<Finding> {
        let (about, shown) = ("identity", path.display());
        let mut findings: Vec<_> = readable_by_others(about, path).into_iter().collect();
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if real(path).starts_with(real(self.store.root())) {
            let found =
                format!("{shown} lies beside the backups: who has them can decrypt them, and it goes when they go");
            let fix = "move it to another disk, and keep a printed copy elsewhere".to_owned();
            findings.push(warning(about, found, Some(fix)));
        }
        if findings.is_empty() {
            findings.push(ok(about, format!("{shown}, for its owner only")));
        }
        findings
    }
}

fn readable_by_others(about: &str, path: &Path) -> Option<Finding> {
    let shown = path.display();
    let mode = path.metadata().ok()?.mode() & 0o777;
    let is_open = mode & 0o077 != 0 && !path.starts_with(CONTAINER_SECRETS);
    let found = || format!("{shown} can be read by others (mode {mode:o})");
    is_open.then(|| warning(about, found(), Some(format!("chmod 600 {shown}"))))
}
