//! Log lines, to stderr: stdout belongs to what was asked for.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Level, LogFormat};

/// Starts logging; the first call counts. Lines with the target `left_out` are for whoever looks for a fault.
pub fn start(level: Level, format: LogFormat, left_out: Option<&'static str>) {
    let left_out = left_out.filter(|_| level < Level::Debug).map(|target| (target, LevelFilter::OFF));
    let filter = filter(level).with_targets(left_out);
    let lines = tracing_subscriber::fmt::layer().with_target(false).with_writer(std::io::stderr);
    // It would tell of a stderr that can't be written on stderr, and panic: a full disk of log lines ends no backup.
    let lines = lines.log_internal_errors(false);
    let started = match format {
        LogFormat::Text => {
            let lines = lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
            registry().with(lines.with_filter(filter)).try_init()
        }
        LogFormat::Json => registry().with(lines.json().with_filter(filter)).try_init(),
    };
    // Only a second start fails, and then the first one's lines go on.
    drop(started);
}

/// Who may say what.
fn filter(level: Level) -> Targets {
    let level = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    // What the libraries have to say is for whoever looks for a fault.
    let theirs = if level >= LevelFilter::DEBUG { level } else { level.min(LevelFilter::WARN) };
    // What clients send that is no HTTP at all is no error of ours, and any scanner would fill the log with it.
    let nonsense = if level >= LevelFilter::DEBUG { level } else { LevelFilter::OFF };
    let filter = Targets::new().with_default(theirs).with_target("actix_http", nonsense);
    // They show credentials: the signer each key it tries, the client of Drive the refresh token in an address. What went wrong
    // is told by us.
    let of_replicas = ["opendal", "reqsign", "reqwest", "hyper", "rustls"].map(|target| (target, LevelFilter::OFF));
    filter.with_targets(of_replicas).with_target(env!("CARGO_CRATE_NAME"), level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knows_credentials_says_nothing() {
        let filter = filter(Level::Trace);
        for target in [
            "opendal::layers::retry",
            "opendal_service_gdrive::core",
            "reqsign_core::api",
            "reqwest::connect",
            "hyper_util::client",
        ] {
            assert!(!filter.would_enable(target, &tracing::Level::ERROR), "{target}");
        }
        assert!(filter.would_enable("attendance_backup::remote", &tracing::Level::TRACE));
    }
}
