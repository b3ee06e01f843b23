//! Downloads: one database with ranges, or the whole backup as a tar. The bytes are those of the plain database, decoded on
//! their way where it lies otherwise, or with `form=stored` those that lie on the disk. Their checksum in the catalog is the strong `ETag` (RFC 9110 section 8.8.3) and the `Repr-Digest` (RFC 9530).

use actix_files::HttpRange;
use actix_web::http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_RANGE, CONTENT_TYPE, ETAG, EntityTag, HeaderName, HeaderValue,
    IF_RANGE, IfMatch, IfNoneMatch, RANGE,
};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{self, Bytes};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::admit::Superuser;
use super::openapi;
use super::problem::{self, Problem};
use super::stream::{Announced, Part, Slice, Stream, is_damage};
use super::{State, id};
use crate::backup::{Backup, DatabaseName, Form};
use crate::engine::{self, Actor, Handed, Handout, Leaves, SUMS, TAR_BLOCK, tar_fill, tar_header};

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// What of a backup to hand out.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// `plain` for the databases, whatever the form in which they lie; `stored` for the files as they lie.
    #[serde(default)]
    #[param(value_type = Option<Leaves>, nullable = false, default = "plain")]
    form: Leaves,
    /// One database by itself; without it all of them and `SHA256SUMS` in a tar.
    #[param(value_type = Option<String>, nullable = false, pattern = "^[a-z][a-z0-9_]{0,31}$")]
    database: Option<DatabaseName>,
}

/// Hands out one database, or all of a backup in a tar.
#[utoipa::path(
    get,
    path = "/api/backup/download/{id}",
    tag = "backups",
    params(openapi::Id, Which, openapi::Conditions),
    responses(openapi::Copies, openapi::OfDownload)
)]
pub async fn download(
    state: web::Data<State>,
    superuser: Superuser,
    path: web::Path<String>,
    which: web::Query<Which>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let id = id(&path)?;
    let call = state.call(&superuser);
    let Which { form, database } = which.into_inner();
    let single = database.is_some();
    let handout = state.engine(move |engine| engine.hand_out(id, database.as_ref(), form, &call)).await?;
    let answer = if single { Answer::database(handout, &request)? } else { Answer::tar(handout, form, &request)? };
    answer.send(&state, superuser.actor(), &request).await
}

/// What is answered: headers, and parts of a body.
struct Answer {
    response: HttpResponseBuilder,
    handout: Handout,
    parts: Option<Parts>,
}

enum Parts {
    Range { start: u64, length: u64 },
    Whole,
    Tar { sums: Bytes },
}

impl Answer {
    fn database(handout: Handout, request: &HttpRequest) -> Result<Self, Problem> {
        let Some(it) = handout.files.first() else { return Err(Problem::internal(&"a handout of nothing")) };
        let tag = EntityTag::new_strong(it.checksum().to_owned());
        let size = it.size();
        let mut response = HttpResponse::Ok();
        response
            .insert_header((CONTENT_TYPE, media_type(it.form())))
            .insert_header((CONTENT_DISPOSITION, attachment(&handout.backup, it.name.as_str(), it.form().ending())))
            .insert_header((ETAG, tag.to_string()))
            .insert_header((ACCEPT_RANGES, "bytes"))
            .insert_header((REPR_DIGEST, digest(it.checksum())));
        let answer = Self { response, handout, parts: Some(Parts::Whole) };
        let mut answer = answer.conditioned(request, &tag)?;
        if answer.parts.is_some() {
            answer.ranged(request, &tag, size)?;
        }
        Ok(answer)
    }

    /// What the preconditions lead to: a refusal, nothing because it is known, or the answer as it is (RFC 9110
    /// section 13.2.2).
    fn conditioned(mut self, request: &HttpRequest, tag: &EntityTag) -> Result<Self, Problem> {
        if is_unwanted(request, tag) {
            let text = "what is here is not what If-Match names; look at its ETag, then ask again";
            return Err(Problem::new(problem::PRECONDITION_FAILED, text));
        }
        if is_known(request, tag) {
            // Nothing else belongs into it (RFC 9110 section 15.4.5).
            self.response = HttpResponse::NotModified();
            self.response.insert_header((ETAG, tag.to_string()));
            self.parts = None;
        }
        Ok(self)
    }

    /// One range is served; several, or what isn't understood, get the whole (RFC 9110 section 14.2 allows both).
    fn ranged(&mut self, request: &HttpRequest, tag: &EntityTag, size: u64) -> Result<(), Problem> {
        let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let unchanged = match request.headers().get(IF_RANGE).map(HeaderValue::to_str) {
            None => true,
            Some(text) => text.is_ok_and(|text| text.parse().is_ok_and(|given: EntityTag| given.strong_eq(tag))),
        };
        let Some(text) = header(RANGE).filter(|_| request.method() == Method::GET && unchanged) else { return Ok(()) };
        let Some(range) = text.strip_prefix("bytes=").and_then(one_range) else { return Ok(()) };
        match HttpRange::parse(&range, size)
            .ok()
            .and_then(|ranges| ranges.first().copied())
            .filter(|range| range.length > 0)
        {
            Some(HttpRange { start, length }) => {
                let range = format!("bytes {start}-{}/{size}", start + length - 1);
                self.response.status(StatusCode::PARTIAL_CONTENT).insert_header((CONTENT_RANGE, range));
                self.parts = Some(Parts::Range { start, length });
                Ok(())
            }
            None => {
                let problem =
                    Problem::new(problem::BAD_RANGE, format!("the file has {size} bytes; ask for a part of those"));
                Err(match HeaderValue::try_from(format!("bytes */{size}")) {
                    Ok(value) => problem.header(CONTENT_RANGE, value),
                    Err(_) => problem,
                })
            }
        }
    }

    fn tar(handout: Handout, form: Leaves, request: &HttpRequest) -> Result<Self, Problem> {
        let lines = handout.files.iter().map(|it| format!("{}  {}\n", it.checksum(), it.file_name()));
        let sums = Bytes::from(lines.collect::<String>());
        let mut response = HttpResponse::Ok();
        let ending = if form == Leaves::Stored { "stored.tar" } else { "tar" };
        let name = attachment(&handout.backup, "", ending);
        response.insert_header((CONTENT_TYPE, "application/x-tar")).insert_header((CONTENT_DISPOSITION, name));
        // The same for as long as the copies are: it names all that goes into the tar.
        let tag = crate::backup::hex(&Sha256::digest(format!(
            "{}{}",
            handout.backup.timestamp,
            String::from_utf8_lossy(&sums)
        )));
        let tag = EntityTag::new_strong(tag);
        response.insert_header((ETAG, tag.to_string()));
        Self { response, handout, parts: Some(Parts::Tar { sums }) }.conditioned(request, &tag)
    }

    async fn send(
        mut self,
        state: &web::Data<State>,
        actor: Actor,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Problem> {
        let Some(parts) = self.parts else { return Ok(self.response.finish()) };
        if request.method() == Method::HEAD {
            let size = body_size(&self.handout, &parts);
            return Ok(self.response.body(Announced(size)));
        }
        let slot = state.download_slot()?;
        let range = match &parts {
            Parts::Range { start, length } => Some(*start..start + length),
            Parts::Whole | Parts::Tar { .. } => None,
        };
        let details = range.iter().map(|it| ("range", format!("{}-{}", it.start, it.end - 1)));
        let encoded = self.handout.files.iter().find(|it| it.form() != Form::Plain);
        let details = details.chain(encoded.map(|it| ("form", it.form().ending().to_owned())));
        let details = details.map(|(key, value)| (key.to_owned(), value.into())).collect();
        let (handout, state_of_ranges) = (self.handout, state.clone());
        let (handout, leaving) = state
            .engine(move |engine| {
                let leaving = match range {
                    Some(range) => state_of_ranges.range_leaving(&handout, &actor, range, details)?,
                    None => Some(engine.leaving(&handout, &actor, details)?),
                };
                Ok((handout, leaving))
            })
            .await?;
        let id = handout.backup.id;
        let parts = body_parts(handout, parts);
        let ended = Box::new(move |sent, broken| {
            if let Some(leaving) = leaving {
                leaving.ended(sent, broken);
            }
            drop(slot);
        });
        match Stream::begun(parts, ended).await {
            Ok(body) => Ok(self.response.body(body)),
            Err(error) if is_damage(&error) => {
                Err(engine::Error::Damaged { subject: id.into(), reason: error.to_string() }.into())
            }
            Err(error) => Err(Problem::internal(&error)),
        }
    }
}

/// A strict `first-last`, `first-` or `-length`. A number of any length is one (RFC 9110 section 14.1.2); those that no
/// file reaches are cut to one that is read without overflow.
fn one_range(spec: &str) -> Option<String> {
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let cut = if text.is_empty() { String::new() } else { text.parse().unwrap_or(u64::MAX).to_string() };
        digits.then_some(cut)
    };
    let (first, last) = spec.split_once('-').filter(|(first, last)| !(first.is_empty() && last.is_empty()))?;
    Some(format!("bytes={}-{}", number(first)?, number(last)?))
}

fn is_unwanted(request: &HttpRequest, tag: &EntityTag) -> bool {
    match request.get_header::<IfMatch>() {
        Some(IfMatch::Items(tags)) => !tags.iter().any(|given| given.strong_eq(tag)),
        Some(IfMatch::Any) | None => false,
    }
}

fn is_known(request: &HttpRequest, tag: &EntityTag) -> bool {
    match request.get_header::<IfNoneMatch>() {
        Some(IfNoneMatch::Items(tags)) => tags.iter().any(|given| given.weak_eq(tag)),
        Some(IfNoneMatch::Any) => true,
        None => false,
    }
}

/// Of what leaves; a form that only age opens has none of its own.
fn media_type(form: Form) -> &'static str {
    match form {
        Form::Plain => "application/vnd.sqlite3",
        Form::Compressed => "application/zstd",
        Form::Encrypted | Form::CompressedEncrypted => "application/octet-stream",
    }
}

/// Names of ids, databases and forms only: nothing in them needs to be quoted away.
fn attachment(backup: &Backup, name: &str, ending: &str) -> String {
    let name = if name.is_empty() { String::new() } else { format!("{name}-") };
    format!("attachment; filename=\"{name}{}.{ending}\"", backup.id)
}

/// `sha-256=:<base64>:` of 64 hex digits.
fn digest(hex: &str) -> String {
    let bytes: Vec<u8> =
        (0..hex.len() / 2).filter_map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()).collect();
    format!("sha-256=:{}:", STANDARD.encode(bytes))
}

fn body_size(handout: &Handout, parts: &Parts) -> u64 {
    let padded = |size: u64| TAR_BLOCK as u64 + size.next_multiple_of(TAR_BLOCK as u64);
    let sizes = || handout.files.iter().map(Handed::size);
    match parts {
        Parts::Range { length, .. } => *length,
        Parts::Whole => sizes().sum(),
        Parts::Tar { sums } => sizes().map(padded).sum::<u64>() + padded(sums.len() as u64) + 2 * TAR_BLOCK as u64,
    }
}

fn body_parts(handout: Handout, parts: Parts) -> Vec<Part> {
    let Handout { backup, files } = handout;
    let mut files = files.into_iter();
    match parts {
        // All of it in a range is all of it: then it can be compared on its way.
        Parts::Range { start, length } => files
            .map(|it| if length == it.size() { whole(it) } else { Part::File(Slice::range(it, start, length)) })
            .collect(),
        Parts::Whole => files.map(whole).collect(),
        Parts::Tar { sums } => {
            let mut body = Vec::new();
            for it in files.by_ref() {
                let size = it.size();
                body.push(header(&backup, &it.file_name(), size));
                body.push(whole(it));
                body.extend(fill(size));
            }
            body.push(header(&backup, SUMS, sums.len() as u64));
            let size = sums.len() as u64;
            body.push(Part::Bytes(sums));
            body.extend(fill(size));
            // Two empty blocks end it (POSIX.1-2017, pax, ustar).
            body.push(Part::Bytes(Bytes::from_static(&[0; 2 * TAR_BLOCK])));
            body
        }
    }
}

fn whole(it: Handed) -> Part {
    Part::File(Slice::whole(it))
}

fn header(backup: &Backup, name: &str, size: u64) -> Part {
    Part::Bytes(Bytes::copy_from_slice(tar_header(backup, name, size).as_bytes()))
}

fn fill(size: u64) -> Option<Part> {
    let fill = tar_fill(size);
    (!fill.is_empty()).then_some(Part::Bytes(Bytes::from_static(fill)))
}
