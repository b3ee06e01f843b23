//! HTTP: the server, its state, the whole route table. Handlers translate, the engine acts, on blocking threads. Every
//! answer passes through `finish`, every request through `admit`.

pub mod admit;
mod api;
pub mod assets;
mod body;
mod download;
mod errands;
mod form;
mod headers;
mod health;
mod limits;
mod log;
mod metrics;
mod notify;
pub mod openapi;
mod pages;
mod pieces;
pub mod problem;
mod settings;
mod shown;
mod sign_in;
mod slot;
mod stream;
mod typed;
mod views;
mod wanted;

use std::net::TcpListener;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Server, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use actix_web::http::{KeepAlive, Method, StatusCode};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpResponse, HttpServer, Resource, ResponseError, Route, guard, web};
use futures_util::FutureExt;
use rustix::process::{Resource as Limited, getrlimit};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing_actix_web::TracingLogger;

use crate::backup::{BackupId, ReplicaName, Subject};
use crate::config::PublicUrl;
use crate::engine::{self, Actor, Call, Engine, Handed, Handout, Holder, Leaving, Preview};
use crate::session::Sessions;
use crate::sqlite::Control;
use crate::token::Keyring;

use admit::Superuser;
use errands::Errands;
use limits::Limits;
use problem::Problem;
use slot::Slot;

/// A request's head must come within this.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// A client that takes nothing of what was sent for this long is gone (`TCP_USER_TIMEOUT`, RFC 5482).
const SEND_PATIENCE: Duration = Duration::from_secs(60);
/// What is still being sent when the service is told to stop may go on for this long. Supervisors wait 10 seconds.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Connections of one worker, if there are descriptors for so many; beyond them new ones wait.
const CONNECTIONS: usize = 6144;
/// Descriptors that no connection takes: databases, backups, downloads and replicas need them.
const OTHER_DESCRIPTORS: u64 = 256;
/// Threads that answer; the work is done on blocking ones.
const WORKERS: usize = 2;
/// Lists, states and pages of the audit log that are read at once.
const READS: usize = 4;
/// Downloads at once.
const DOWNLOADS: usize = 32;
/// Ranges of one download by one user within this are one line of the audit log.
const ONE_DOWNLOAD: Duration = Duration::from_secs(600);

/// What handlers stand on.
pub struct State {
    engine: Engine,
    keyring: Keyring,
    sessions: Sessions,
    limits: Limits,
    /// Of the process: what stops it stops what was begun over HTTP.
    control: Control,
    reads: Semaphore,
    verifying: Slot,
    previewing: Slot,
    notifying: Slot,
    downloads: Arc<AtomicUsize>,
    ranges: Mutex<Vec<Told>>,
    ready: health::Ready,
    errands: Errands,
    /// The OpenAPI document.
    document: web::Bytes,
}

/// A range that has its line in the audit log: since when, whose and of what, which bytes. Downloads are limited, so there
/// are few in ten minutes.
type Told = (Instant, (String, BackupId, Option<String>), Range<u64>);

impl State {
    /// Nothing was asked for yet.
    pub fn new(engine: Engine, keyring: Keyring, sessions: Sessions, control: &Control) -> Self {
        if engine.config().metrics.enabled {
            engine.count_from_here();
        }
        Self {
            limits: Limits::new(engine.config().downloads_per_minute),
            document: openapi::text(engine.config().public_url.as_ref()).into(),
            engine,
            keyring,
            sessions,
            control: control.clone(),
            reads: Semaphore::new(READS),
            verifying: Slot::default(),
            previewing: Slot::default(),
            notifying: Slot::default(),
            downloads: Arc::default(),
            ranges: Mutex::default(),
            ready: health::Ready::default(),
            errands: Errands::default(),
        }
    }

    /// Lets the engine act on a blocking thread. It goes on when the client goes away.
    async fn engine<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Engine) -> Result<T, engine::Error> + Send + 'static,
    ) -> Result<T, Problem> {
        let (engine, span) = (self.engine.clone(), tracing::Span::current());
        let acted = web::block(move || span.in_scope(|| act(&engine))).await;
        Ok(acted.map_err(|error| Problem::internal(&error))??)
    }

    /// The same for what only reads, a few at a time: memory and processor are the app's too, however many ask.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Engine) -> Result<T, engine::Error> + Send + 'static,
    ) -> Result<T, Problem> {
        let _turn = self.turn().await?;
        self.engine(read).await
    }

    /// A turn to read; it is never closed, so there is always one to come.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Problem> {
        self.reads.acquire().await.map_err(|error| Problem::internal(&error))
    }

    /// The same for what touches the disk beside the engine.
    async fn blocking<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
        &self,
        act: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, Problem> {
        let done = web::block(act).await.map_err(|error| Problem::internal(&error))?;
        done.map_err(|error| Problem::internal(&error))
    }

    /// Says whether downloads are under way, also when the server has ended.
    pub fn downloads(&self) -> impl Fn() -> bool + 'static {
        let downloads = Arc::clone(&self.downloads);
        move || downloads.load(Ordering::Acquire) > 0
    }

    fn call(&self, superuser: &Superuser) -> Call {
        Call { wait: Duration::ZERO, control: self.control.child(), actor: superuser.actor() }
    }

    /// A place in a slot, for what is called `kind` to those that find it taken.
    fn place(&self, slot: &Slot, kind: &str, call: &Call) -> Result<impl Drop + Send + 'static, engine::Error> {
        slot.take(Holder::new(kind, &call.actor.by, self.engine.clock().now()), &call.control)
    }

    /// What a restore would change; one preview at a time.
    async fn preview(&self, subject: Subject, superuser: &Superuser) -> Result<Preview, Problem> {
        let call = self.call(superuser);
        let slot = self.place(&self.previewing, &format!("preview {subject}"), &call)?;
        self.engine(move |engine| {
            // Held until it is done, whether or not anyone still waits for it.
            let _slot = slot;
            engine.preview(subject, &call)
        })
        .await
    }

    /// Asks the operation that is under way to stop, or else the verification or the preview, which hold nothing, and says which that
    /// is; only the `meant` one.
    async fn cancel(
        &self,
        superuser: &Superuser,
        meant: impl Fn(&Holder) -> bool + Send + 'static,
    ) -> Result<Holder, Problem> {
        let call = self.call(superuser);
        let reading = [&self.verifying, &self.previewing].into_iter().filter_map(Slot::taken);
        let reading = reading.into_iter().find(|(holder, _)| meant(holder));
        self.engine(move |engine| match (engine.cancel(meant, &call), reading) {
            (Err(engine::Error::NothingRuns | engine::Error::RunsElsewhere(_)), Some((holder, control))) => {
                engine.cancel_by(holder, &control, &call)
            }
            (cancelled, _) => cancelled,
        })
        .await
    }

    /// One of the downloads that may run at once; free again when it is dropped.
    fn download_slot(&self) -> Result<impl Drop + Send + 'static, Problem> {
        let downloads = Arc::clone(&self.downloads);
        let before = downloads.fetch_add(1, Ordering::AcqRel);
        let slot = OnDrop(Some(move || {
            downloads.fetch_sub(1, Ordering::AcqRel);
        }));
        if before < DOWNLOADS {
            return Ok(slot);
        }
        let text = format!("{DOWNLOADS} downloads are under way, which is all at once; try again when one is done");
        Err(Problem::new(problem::BUSY, text).header(RETRY_AFTER, HeaderValue::from_static("30")))
    }

    /// Records that a range is about to leave, unless a line of the same download tells of all of it already. Other ranges
    /// wait meanwhile: none leaves on the word of a line that then can't be written.
    fn range_leaving(
        &self,
        handout: &Handout,
        actor: &Actor,
        range: Range<u64>,
        details: Map<String, Value>,
    ) -> Result<Option<Leaving>, engine::Error> {
        let mut ranges = locked(&self.ranges);
        ranges.retain(|(begun, ..)| begun.elapsed() < ONE_DOWNLOAD);
        let name = handout.files.first().map(Handed::file_name);
        let of = (actor.by.clone(), handout.backup.id, name);
        let told = |(_, other, told): &Told| *other == of && told.start <= range.start && range.end <= told.end;
        if ranges.iter().any(told) {
            return Ok(None);
        }
        let leaving = self.engine.leaving(handout, actor, details)?;
        ranges.push((Instant::now(), of, range));
        Ok(Some(leaving))
    }
}

/// What a panic left in a mutex of ours is as good as before.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Acts when it is dropped, however that comes about.
pub struct OnDrop<F: FnOnce()>(pub Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(act) = self.0.take() {
            act();
        }
    }
}

/// The id in a path; what isn't one names no backup.
fn id(text: &str) -> Result<BackupId, Problem> {
    text.parse().map_err(|_| {
        let text =
            "that is no backup's id; one looks like daily-2026-01-08, and /api/backup/list shows those that there are";
        Problem::new(problem::NOT_FOUND, text)
    })
}

/// The replica in a path, if it is configured.
fn replica(text: &str, state: &State) -> Result<ReplicaName, Problem> {
    let known: Vec<_> = state.engine.replica_names().collect();
    let named = known.iter().find(|name| name.as_str() == text).copied().cloned();
    named.ok_or_else(|| {
        let known = known.into_iter().map(ToString::to_string).collect();
        engine::Error::ReplicaUnknown { name: text.escape_debug().take(64).collect(), known }.into()
    })
}

/// Every route there is besides those of the page.
fn routes(limits: &Limits) -> Vec<Resource> {
    let download = || {
        let route = web::to(download::download).wrap(limits.downloads_by_subject.middleware());
        route.wrap(limits.downloads_by_address.middleware())
    };
    let (get, put, post) = (|| Method::GET, || Method::PUT, || Method::POST);
    vec![
        resource("/healthz", [(get(), web::to(health::alive))]),
        resource("/readyz", [(get(), web::to(health::ready))]),
        resource("/metrics", [(get(), web::to(metrics::metrics))]),
        resource("/api/openapi.json", [(get(), web::to(openapi::document))]),
        resource("/assets/{file}", [(get(), web::to(assets::asset))]),
        resource(
            "/sign-in",
            [
                (get(), web::to(sign_in::way_in)),
                (post(), web::to(sign_in::sign_in_by_form).guard(guard::Header("content-type", form::MEDIA_TYPE))),
                (post(), web::to(sign_in::sign_in)),
            ],
        ),
        resource("/sign-out", [(post(), web::to(sign_in::sign_out))]),
        resource("/api/backup", [(get(), web::to(api::list)), (post(), web::to(api::create))]),
        resource("/api/backup/list", [(get(), web::to(api::list))]),
        resource("/api/backup/create", [(post(), web::to(api::create))]),
        resource("/api/backup/restore", [(post(), web::to(api::restore))]),
        resource("/api/backup/preview", [(get(), web::to(api::preview_point))]),
        resource("/api/backup/status", [(get(), web::to(api::status))]),
        resource("/api/backup/doctor", [(get(), web::to(api::doctor))]),
        resource("/api/backup/config", [(get(), web::to(api::config)), (put(), web::to(api::configure))]),
        resource("/api/backup/audit", [(get(), web::to(api::audit))]),
        resource("/api/backup/acknowledge", [(post(), web::to(api::acknowledge))]),
        resource("/api/backup/drill", [(post(), web::to(api::drill))]),
        resource("/api/backup/operation/cancel", [(post(), web::to(api::cancel))]),
        resource("/api/backup/notify/test", [(post(), web::to(notify::test))]),
        resource("/api/backup/verify/{id}", [(post(), web::to(api::verify))]),
        resource("/api/backup/replica/{name}/verify", [(post(), web::to(api::verify_replica))]),
        resource("/api/backup/download/{id}", [(get(), download())]),
        resource("/api/backup/{id}/download", [(get(), download())]),
        resource("/api/backup/{id}/preview", [(get(), web::to(api::preview))]),
        resource(
            "/api/backup/{id}",
            [(get(), web::to(api::get)), (Method::PATCH, web::to(api::patch)), (Method::DELETE, web::to(api::delete))],
        ),
    ]
}

/// A path with its methods. GET answers HEAD too; any other gets 405 and those that there are (RFC 9110 section 15.5.6).
fn resource<const N: usize>(path: &str, methods: [(Method, Route); N]) -> Resource {
    let mut allowed = Vec::new();
    let mut resource = web::resource(path);
    for (method, route) in methods {
        allowed.push(method.to_string());
        resource = resource.route(if method == Method::GET {
            allowed.push("HEAD".to_owned());
            route.guard(guard::Any(guard::Get()).or(guard::Head()))
        } else {
            route.method(method)
        });
    }
    let allowed = allowed.join(", ");
    resource.default_service(web::to(move || {
        let allowed = allowed.clone();
        async move { HttpResponse::MethodNotAllowed().insert_header((ALLOW, allowed)).finish() }
    }))
}

/// The app: every route behind the door, every answer finished.
pub fn app(
    state: web::Data<State>,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = actix_web::Error,
        InitError = (),
    >,
> {
    let routes = routes(&state.limits);
    App::new()
        .app_data(web::QueryConfig::default().error_handler(|error, _| {
            Problem::new(problem::BAD_PARAMETER, format!("{error}; /api/openapi.json lists the parameters")).into()
        }))
        .app_data(state)
        .configure(|config| {
            routes.into_iter().chain(pages::routes()).fold(config, web::ServiceConfig::service);
        })
        .wrap(from_fn(admit::admit))
        .wrap(from_fn(finish))
        .wrap(TracingLogger::<log::Lines>::new())
}

/// Makes every answer complete: a panic is an answer too, errors are problems, and the headers are there.
async fn finish<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let id = log::request_id(&request);
    let count = metrics::counting(&request);
    let answered = AssertUnwindSafe(next.call(request)).catch_unwind().await;
    let mut response = match answered {
        Ok(response) => {
            response.inspect_err(|error| count(error.as_response_error().status_code()))?.map_into_boxed_body()
        }
        Err(_) => {
            count(StatusCode::INTERNAL_SERVER_ERROR);
            let problem = Problem::internal(&"a panic while the request was answered");
            return Err(id.into_iter().fold(problem, |problem, id| problem.header(log::REQUEST_ID, id)).into());
        }
    };
    let told = |kind: &HeaderValue| kind == problem::MEDIA_TYPE || kind == shown::HTML;
    let is_told = response.headers().get(CONTENT_TYPE).is_some_and(told);
    let status = response.status();
    count(status);
    if (status.is_client_error() || status.is_server_error()) && !is_told {
        let allowed = response.headers().get(ALLOW).cloned();
        let mut answer = Problem::of_status(status).error_response();
        if let Some(allowed) = allowed {
            answer.headers_mut().insert(ALLOW, allowed);
        }
        response = response.into_response(answer);
    }
    response = pages::problems::as_wanted(response);
    headers::secure(response.headers_mut());
    let state = response.request().app_data::<web::Data<State>>();
    if !state.and_then(|state| state.engine.config().public_url.as_ref()).is_none_or(PublicUrl::is_trustworthy) {
        headers::without_opener_policy(response.headers_mut());
    }
    if let Some(id) = id {
        response.headers_mut().insert(log::REQUEST_ID, id);
    }
    Ok(response.map_body(|_, body| pieces::in_pieces(body)))
}

/// Connections of one worker. Whoever opens as many as he can keeps no backup from being made.
fn connections() -> usize {
    let limit = getrlimit(Limited::Nofile).current.unwrap_or(u64::MAX);
    let left = limit - OTHER_DESCRIPTORS.min(limit / 2);
    (left / WORKERS as u64).clamp(1, CONNECTIONS as u64) as usize
}

/// A server that answers on `listener`. It ends when its handle says so.
pub fn server(state: State, listener: TcpListener) -> std::io::Result<Server> {
    let state = web::Data::new(state);
    let server = HttpServer::new(move || app(state.clone()))
        .workers(WORKERS)
        .max_connections(connections())
        .client_request_timeout(HEAD_PATIENCE)
        .client_disconnect_timeout(Duration::from_secs(5))
        // One request a connection: the patience for a head is actix's for the first one alone, and a second that never
        // ends would hold its connection for good.
        .keep_alive(KeepAlive::Disabled)
        .shutdown_timeout(STOP_PATIENCE.as_secs())
        .disable_signals()
        .on_connect(|connection, kept| {
            kept.insert(admit::Asked::default());
            if let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() {
                // It cuts what hangs; without it the client is waited for longer, and that is all.
                let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, SEND_PATIENCE.as_millis() as u32);
            }
        })
        .listen(listener)?;
    Ok(server.run())
}

#[cfg(test)]
mod tests;
