//! The composition root: puts the parts together and runs until told to stop.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};

use crate::clock::Clock;
use crate::config::Config;
use crate::engine::doctor::{Finding, Severity};
use crate::engine::permit::Permit;
use crate::engine::{Actor, Call, Engine, record};
use crate::http::{self, OnDrop};
use crate::session::{CODE_LIFETIME, Sessions};
use crate::sqlite::{self, Control};
use crate::token::Keyring;
use crate::{notifier, recorder, replicator, scheduler, telemetry};

/// How long a health check waits.
const HEALTH_PATIENCE: Duration = Duration::from_secs(5);
/// How long the service waits for a recovery at its start before it begins with the rest.
const RECOVERY: Duration = Duration::from_secs(5);
/// How long the end of a download may take to be recorded when the service stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Which program this is: its version, the commit that it was built from where that is known, and the SQLite that it brings.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let commit =
            option_env!("ATTENDANCE_BACKUP_COMMIT").map(|commit| format!("commit {commit}, ")).unwrap_or_default();
        format!("{} ({commit}SQLite {})", env!("CARGO_PKG_VERSION"), rusqlite::version())
    });
    &VERSION
}

/// An engine of the process's configuration, for one command: how that ended is told by the command itself.
pub fn engine() -> anyhow::Result<Engine> {
    engine_with(Config::from_process()?, Some(record::OPERATION))
}

/// An engine of that configuration that serves, with logging as it says.
pub fn serving_engine(config: Config) -> anyhow::Result<Engine> {
    engine_with(config, None)
}

fn engine_with(config: Config, unlogged: Option<&'static str>) -> anyhow::Result<Engine> {
    sqlite::assert_version().map_err(anyhow::Error::msg)?;
    telemetry::start(config.log, config.log_format, unlogged);
    Ok(Engine::new(Arc::new(config), Clock::system())?)
}

/// A control that SIGINT and SIGTERM cancel. A second signal adds nothing: supervisors send to the process and to its group,
/// and whoever has no patience has SIGKILL, which does no harm either.
pub fn signalled(control: &Control) -> anyhow::Result<()> {
    let flag = control.cancel_flag();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).context("cannot listen for signals")?;
    }
    // It would end the process where files may not become so large (RLIMIT_FSIZE). Heard, it leaves the write with its error.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).context("cannot listen for signals")?;
    Ok(())
}

/// Connections that may wait until they are taken; the kernel has a bound of its own.
const QUEUE: i32 = 4096;

/// `serve`: the schedule and HTTP, until stopped. A backup that runs when the signal comes is undone.
pub fn serve(engine: &Engine, control: &Control) -> anyhow::Result<()> {
    Service::bind(engine, control)?.run()
}

/// A service that has its directory, its keys and its address, and answers as soon as it runs.
pub struct Service<'a> {
    engine: &'a Engine,
    control: &'a Control,
    keyring: Keyring,
    sessions: Sessions,
    listener: TcpListener,
    _serving: Permit,
}

impl<'a> Service<'a> {
    /// Takes all that it needs, or says what is missing.
    pub fn bind(engine: &'a Engine, control: &'a Control) -> anyhow::Result<Self> {
        let config = engine.config();
        let keyring = Keyring::new(&config.access, engine.clock())?;
        let serving = engine.serve_permit()?;
        let listener = TcpListener::bind(config.bind).with_context(|| {
            format!("cannot listen on {}; is the address taken? Set BACKUP_BIND, or --bind of the demo", config.bind)
        })?;
        // Who finds no place in the queue tries again after a second, and then after more.
        rustix::net::listen(&listener, QUEUE).context("cannot listen for more than a few at once")?;
        let sessions = Sessions::of(&config.directory, engine.clock())?;
        Ok(Self { engine, control, keyring, sessions, listener, _serving: serving })
    }

    /// The address that it answers on.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers and takes backups until it is told to stop.
    pub fn run(self) -> anyhow::Result<()> {
        let Self { engine, control, .. } = self;
        raise_descriptor_limit();
        let address = self.address()?;
        let state = http::State::new(engine.clone(), self.keyring, self.sessions, control);
        let downloads = state.downloads();
        std::thread::scope(|scope| {
            actix_web::rt::System::new().block_on(async {
                let server = http::server(state, self.listener)?;
                let handle = server.handle();
                scope.spawn(move || {
                    // However the one ends, the other ends with it: neither is of use alone.
                    let _stop = OnDrop(Some(|| drop(handle.stop(true))));
                    std::thread::scope(|scope| {
                        begin_recovery(scope, engine, control);
                        engine.sweep_replicas();
                        announce(engine, address);
                        look_around(engine);
                        let loops = [replicator::run, recorder::run, notifier::run, scheduler::run];
                        together(control, loops.map(|run| move || run(engine, control)));
                    });
                });
                let _stop = OnDrop(Some(|| control.cancel()));
                server.await
            })
        })?;
        // Those that were cut off are recorded as such, by threads that nobody else waits for.
        let begun = Instant::now();
        while downloads() && begun.elapsed() < LAST_WORDS {
            std::thread::sleep(Duration::from_millis(10));
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Runs all of them until each has ended. Where one panics the others are told to stop: whoever watches the process starts it anew, and
/// doesn't take it for one that makes backups.
fn together<const N: usize>(control: &Control, loops: [impl FnOnce() + Send; N]) {
    std::thread::scope(|scope| {
        for run in loops {
            scope.spawn(move || {
                let _lifeline = control.lifeline();
                run();
            });
        }
    });
}

/// Says what runs.
fn announce(engine: &Engine, address: SocketAddr) {
    let config = engine.config();
    let settings = engine.settings().unwrap_or_else(|error| {
        tracing::error!(code = error.code(), "{error}");
        config.settings
    });
    let schedule = settings.schedule;
    tracing::info!(
        version = version(),
        directory = %config.directory.display(),
        databases = config.databases.len(),
        enabled = settings.enabled,
        at = %format!("{:02}:{:02} {}", schedule.hour, schedule.minute, schedule.timezone),
        %address,
        "serving"
    );
}

/// Says what wants a look. Nobody waits for it, nor for the end of it: a disk of a network that has gone answers no look at all.
fn look_around(engine: &Engine) {
    let engine = engine.clone();
    let looking = std::thread::Builder::new().name("checks".to_owned());
    if let Err(error) = looking.spawn(move || engine.checks().iter().for_each(say)) {
        tracing::warn!(%error, "nobody looks for what tends to be wrong; `doctor` does");
    }
}

/// A finding of the doctor, if it wants a look.
fn say(finding: &Finding) {
    let Finding { severity, about, found, fix } = finding;
    let fix = fix.iter().map(|fix| format!("; {fix}")).collect::<String>();
    match severity {
        Severity::Ok => {}
        Severity::Warning => tracing::warn!(about, "{found}{fix}"),
        Severity::Problem => tracing::error!(about, "{found}{fix}"),
    }
}

/// Waits for the recovery, which mostly takes a moment. Where another process holds the directory for long all else begins meanwhile:
/// the journal, the replicas and the notices go on beside whatever runs.
fn begin_recovery<'scope>(scope: &'scope Scope<'scope, '_>, engine: &'scope Engine, control: &'scope Control) {
    let (ended, end) = mpsc::channel::<()>();
    scope.spawn(move || {
        let (_lifeline, _ended) = (control.lifeline(), ended);
        recover(engine, control);
    });
    // Nothing is ever sent: it is over when the other end is gone.
    let _ = end.recv_timeout(RECOVERY);
}

/// Puts right what a crash has left, as soon as the directory is to be had; requests are answered meanwhile, and whatever
/// takes the directory first does the same.
fn recover(engine: &Engine, control: &Control) {
    let call = Call { wait: Duration::MAX, control: control.clone(), ..Call::new(Actor::scheduler()) };
    if let Err(error) = engine.recover(&call) {
        tracing::error!(code = error.code(), "{error}");
    }
}

/// Each connection takes a descriptor, and the usual soft limit of 1024 is soon reached by idle ones.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// A token for whoever asks on this machine. That it is given out is recorded first.
pub fn token(engine: &Engine, subject: &str, superuser: bool, lifetime: Duration) -> anyhow::Result<String> {
    let token = Keyring::new(&engine.config().access, engine.clock())?.sign(subject, superuser, lifetime)?;
    record_access(engine, "token", subject, superuser, lifetime)?;
    Ok(token)
}

/// A one-time code that signs a superuser in; recorded first as well.
pub fn sign_in_code(engine: &Engine, subject: &str) -> anyhow::Result<String> {
    let config = engine.config();
    // Whoever may have a code may have a token too.
    Keyring::new(&config.access, engine.clock())?.sign(subject, true, CODE_LIFETIME)?;
    record_access(engine, "sign-in-code", subject, true, CODE_LIFETIME)?;
    Ok(Sessions::issue_code(&config.directory, engine.clock(), subject)?)
}

fn record_access(
    engine: &Engine,
    operation: &str,
    subject: &str,
    superuser: bool,
    lifetime: Duration,
) -> anyhow::Result<()> {
    let details = [
        ("subject".to_owned(), subject.into()),
        ("superuser".to_owned(), superuser.into()),
        ("seconds".to_owned(), lifetime.as_secs().into()),
    ];
    Ok(engine.record_access(operation, &Actor::cli(), details.into_iter().collect())?)
}

/// Asks a running service on this machine whether it is alive.
pub fn healthcheck(config: &Config) -> anyhow::Result<()> {
    let mut address = config.bind;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let answer = ask(address).with_context(|| format!("nothing answers on {address} (BACKUP_BIND)"))?;
    match answer.lines().next() {
        Some(line) if line.starts_with("HTTP/1.1 200 ") => Ok(()),
        line => bail!("{address} answers {:?}, which is not this service", line.unwrap_or_default()),
    }
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_PATIENCE)?;
    stream.set_read_timeout(Some(HEALTH_PATIENCE))?;
    stream.set_write_timeout(Some(HEALTH_PATIENCE))?;
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_one_panics_none_goes_on() {
        let control = Control::default();
        let until_told = || {
            while !control.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let loops: [&(dyn Fn() + Sync); 3] = [&until_told, &|| panic!("on purpose"), &until_told];
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| together(&control, loops)));
        assert!(ran.is_err() && control.is_cancelled());
    }
}
