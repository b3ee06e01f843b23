//! What the page needs besides itself: styles, scripts, an icon. All of it is in the program. Each name holds the hash of what
//! it names, so a browser may keep it for ever; each is there as it is and compressed.

use std::io::Write;
use std::sync::LazyLock;

use actix_web::http::header::{
    AcceptEncoding, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ContentEncoding, Encoding, VARY,
};
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::backup::hex;

/// Where they lie. Anyone may read them.
pub const PLACE: &str = "/assets/";
/// Bytes of the hash that are in a name.
const HASHED: usize = 8;

/// Those that there are.
pub static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    style: Asset::new("page", "css", "text/css; charset=utf-8", include_bytes!("../../assets/page.css")),
    script: Asset::new("page", "js", "text/javascript; charset=utf-8", include_bytes!("../../assets/page.js")),
    htmx: Asset::new(
        "htmx",
        "js",
        "text/javascript; charset=utf-8",
        include_bytes!(concat!(env!("OUT_DIR"), "/htmx.min.js")),
    ),
    icon: Asset::new("icon", "svg", "image/svg+xml", include_bytes!("../../assets/icon.svg")),
});

/// See [`ASSETS`].
pub struct Assets {
    /// Our styles.
    pub style: Asset,
    /// Our script.
    pub script: Asset,
    /// htmx.
    pub htmx: Asset,
    /// The icon in a browser's tab.
    pub icon: Asset,
}

/// One of them.
pub struct Asset {
    name: String,
    media_type: &'static str,
    plain: Bytes,
    gzip: Bytes,
}

impl Asset {
    fn new(stem: &str, ending: &str, media_type: &'static str, text: &'static [u8]) -> Self {
        let hash = hex(&Sha256::digest(text)[..HASHED]);
        Self { name: format!("{stem}-{hash}.{ending}"), media_type, plain: Bytes::from_static(text), gzip: gzip(text) }
    }

    /// Its path, below the public address.
    pub fn path(&self) -> String {
        format!("{PLACE}{}", self.name)
    }
}

fn gzip(text: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing into memory can't fail; if it did, it would be sent as it is.
    let written = encoder.write_all(text).and_then(|()| encoder.finish());
    written.unwrap_or_default().into()
}

/// `GET /assets/{file}`.
pub async fn asset(request: HttpRequest, file: web::Path<String>) -> Result<HttpResponse, Problem> {
    let Assets { style, script, htmx, icon } = &*ASSETS;
    let found = [style, script, htmx, icon].into_iter().find(|asset| asset.name == *file);
    let asset = found.ok_or_else(|| Problem::of_status(actix_web::http::StatusCode::NOT_FOUND))?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_TYPE, asset.media_type))
        .insert_header((CACHE_CONTROL, "public, max-age=31536000, immutable"))
        .insert_header((VARY, "Accept-Encoding"));
    if takes_gzip(&request) && !asset.gzip.is_empty() {
        return Ok(response.insert_header((CONTENT_ENCODING, "gzip")).body(asset.gzip.clone()));
    }
    Ok(response.body(asset.plain.clone()))
}

fn takes_gzip(request: &HttpRequest) -> bool {
    let gzip = Encoding::Known(ContentEncoding::Gzip);
    let offered = [gzip.clone(), Encoding::identity()];
    request.get_header::<AcceptEncoding>().and_then(|accepted| accepted.negotiate(offered.iter())) == Some(gzip)
}
