//! OpenDAL's services, set up so that nothing comes from the machine: no keys from its environment, none of its cloud.

use std::sync::Arc;
use std::time::Duration;

use opendal::layers::{RetryEvent, RetryLayer, TimeoutLayer};
use opendal::services::{Dropbox, Fs, Gdrive, S3, Webdav};
use opendal::{Executor, HttpTransporter, OperationContext, Operator};

use super::error::{Error, named};
use super::pace::{Line, Pace};
use super::place::{Kind, Place, encoded};
use super::upload;
use super::wire::{Call, Client, Wire};

/// What a place's URL and credentials come to.
pub(super) fn operator(place: &Place, pace: &Pace, line: &Line) -> Result<Operator, Error> {
    let given = |value: &Option<String>| value.clone().unwrap_or_default();
    // OpenDAL puts these three into a query or a form as they are.
    let form = |value: &Option<String>| encoded(value.as_deref().unwrap_or_default());
    let credentials = &place.credentials;
    let built = match &place.kind {
        Kind::Folder { root } => Operator::new(Fs::default().root(&root.to_string_lossy())),
        Kind::S3 { bucket, root, endpoint, region } => Operator::new(
            S3::default()
                .bucket(bucket)
                .root(root)
                .endpoint(endpoint)
                .region(region)
                .access_key_id(&given(&credentials.access_key))
                .secret_access_key(&given(&credentials.secret_key))
                .disable_config_load()
                .disable_ec2_metadata(),
        ),
        Kind::Webdav { root, .. } => return above(place, root, pace, line),
        Kind::Drive { root } => Operator::new(
            Gdrive::default()
                .root(root)
                .client_id(&form(&credentials.client_id))
                .client_secret(&form(&credentials.client_secret))
                .refresh_token(&form(&credentials.refresh_token)),
        ),
        Kind::Dropbox { root } => Operator::new(
            Dropbox::default()
                .root(root)
                .client_id(&form(&credentials.client_id))
                .client_secret(&form(&credentials.client_secret))
                .refresh_token(&form(&credentials.refresh_token)),
        ),
    };
    layered(place, built, pace, line)
}

/// A WebDAV server's folder, which may be one above the place's.
pub(super) fn above(place: &Place, root: &str, pace: &Pace, line: &Line) -> Result<Operator, Error> {
    let given = |value: &Option<String>| value.clone().unwrap_or_default();
    let Kind::Webdav { endpoint, .. } = &place.kind else { return operator(place, pace, line) };
    let (username, password) = (given(&place.credentials.username), given(&place.credentials.password));
    let built = Operator::new(Webdav::default().endpoint(endpoint).root(root).username(&username).password(&password));
    layered(place, built, pace, line)
}

/// Time-outs within retries. Each piece has its own limit on the wire; here is the last resort for a call as a whole.
fn layered(place: &Place, built: opendal::Result<Operator>, pace: &Pace, line: &Line) -> Result<Operator, Error> {
    let operator = built.map_err(|_| Error::Refused(format!("{} cannot be used with these settings", named(place))))?;
    let (call, piece) = match place.kind {
        Kind::Folder { .. } => (pace.timeout, pace.timeout),
        _ => (4 * pace.timeout, 4 * pace.timeout + line.patience(upload::chunk(place))),
    };
    let retries = RetryLayer::new().with_jitter().with_factor(2.0).with_max_times(3);
    let retries = retries.with_min_delay(Duration::from_millis(200)).with_max_delay(Duration::from_secs(1));
    // OpenDAL's own line would show the error with all its context.
    let retries = retries.with_notify(|event: RetryEvent<'_>| {
        tracing::debug!(
            attempt = event.attempt,
            operation = event.op.into_static(),
            "a call to a replica is tried again"
        );
    });
    Ok(operator.layer(TimeoutLayer::new().with_timeout(call).with_io_timeout(piece)).layer(retries))
}

/// The same operator over the wire of one call.
pub(super) fn over(operator: Operator, place: &Place, client: Option<&Client>, call: &Arc<Call>) -> Operator {
    let Some(client) = client else { return operator };
    let wire = Wire { client: client.clone(), call: Arc::clone(call), place: place.clone() };
    operator.with_context(OperationContext::from_parts(HttpTransporter::new(wire), Executor::default()))
}
