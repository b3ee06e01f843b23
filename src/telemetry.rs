//! Log lines, to stderr: stdout belongs to what was asked for.

use tracing::level_filters::LevelFilter;

use crate::config::{Level, LogFormat};

/// Starts logging; the first call counts.
pub fn start(level: Level, format: LogFormat) {
    let level = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(std::io::stderr);
    // It would tell of a stderr that can't be written on stderr, and panic: a full disk of log lines ends no backup.
    let lines = lines.log_internal_errors(false);
    let started = match format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    // Only a second start fails, and then the first one's lines go on.
    drop(started);
}
