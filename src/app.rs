//! The composition root: puts the parts together and runs until told to stop.

use std::sync::Arc;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::clock::Clock;
use crate::config::Config;
use crate::engine::{Actor, Call, Engine};
use crate::sqlite::{self, Control};
use crate::{scheduler, telemetry};

/// An engine of the process's configuration.
pub fn engine() -> anyhow::Result<Engine> {
    engine_of(Config::from_process()?)
}

/// An engine of that configuration, with logging as it says.
pub fn engine_of(config: Config) -> anyhow::Result<Engine> {
    sqlite::assert_version().map_err(anyhow::Error::msg)?;
    telemetry::start(config.log, config.log_format);
    Ok(Engine::new(Arc::new(config), Clock::system())?)
}

/// A control that SIGINT and SIGTERM cancel. A second signal adds nothing: supervisors send to the process and to its group,
/// and whoever has no patience has SIGKILL, which does no harm either.
pub fn signalled(control: &Control) -> anyhow::Result<()> {
    let flag = control.cancel_flag();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).context("cannot listen for signals")?;
    }
    Ok(())
}

/// `serve`: the schedule, until stopped. A backup that runs when the signal comes is undone.
pub fn serve(engine: &Engine, control: &Control) -> anyhow::Result<()> {
    let _serving = engine.serve_permit()?;
    let call = Call { wait: std::time::Duration::MAX, control: control.clone(), ..Call::new(Actor::scheduler()) };
    if let Err(error) = engine.recover(&call) {
        tracing::error!(code = error.code(), "{error}");
    }
    let settings = engine.settings()?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        directory = %engine.config().directory.display(),
        databases = engine.config().databases.len(),
        enabled = settings.enabled,
        at = %format!("{:02}:{:02} {}", settings.schedule.hour, settings.schedule.minute, settings.schedule.timezone),
        "serving"
    );
    scheduler::run(engine, control);
    tracing::info!("stopped");
    Ok(())
}
