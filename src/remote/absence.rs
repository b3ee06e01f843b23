//! When "not there" may be believed. What is taken for missing is written anew, or told to be lost; so the store itself must
//! have said it, and not what stands between, nor a fault of another kind.

use std::collections::BTreeSet;

use opendal::ErrorKind;

use super::place::Kind;
use super::wire::Verdict;
use super::{Error, Fault, Remote, error, folder, service, waited};

impl Remote {
    /// Whether the store said that it has no such object; an error if it couldn't be asked what its answer was worth.
    pub(super) fn is_surely_absent(&self, fault: &Fault) -> Result<bool, Error> {
        let Fault::Of(error, verdict) = fault else { return Ok(false) };
        match (&self.shared.place.kind, verdict) {
            (Kind::Folder { root }, None) if error.kind() == ErrorKind::NotFound => {
                let root = root.clone();
                self.on_disk(move || folder::stand(&root)).map(|()| true)
            }
            // Drive's client asks for the name, and this is an empty list of what has it.
            (Kind::Drive { .. }, None) => Ok(error.kind() == ErrorKind::NotFound),
            (_, Some(verdict)) => self.says_absent(verdict),
            _ => Ok(false),
        }
    }

    /// What is told when it couldn't be read.
    pub(super) fn unread(&self, key: &str, fault: Fault) -> Error {
        match self.is_surely_absent(&fault) {
            Ok(true) => error::absent(&error::named(&self.shared.place), key),
            Ok(false) => self.understood(key, fault),
            Err(error) => error,
        }
    }

    /// Whether an answer says for sure that something isn't there.
    fn says_absent(&self, verdict: &Verdict) -> Result<bool, Error> {
        let Verdict::Answered { status, code, .. } = verdict else { return Ok(false) };
        match (&self.shared.place.kind, status) {
            (Kind::S3 { .. }, 404) => Ok(code == "NoSuchKey"),
            (Kind::Dropbox { .. }, 409) => Ok(error::is_missing(code)),
            (Kind::Webdav { .. }, 404) => self.dav_answers().map(|()| true),
            _ => Ok(false),
        }
    }

    /// OpenDAL takes any 404 for an empty folder, and for an object that was removed before.
    pub(super) fn believe(&self, key: &str, verdict: Option<Verdict>) -> Result<(), Error> {
        match verdict {
            Some(verdict) if !self.says_absent(&verdict)? => {
                let error = opendal::Error::new(ErrorKind::Unexpected, "");
                Err(error::understood(&self.shared.place, key, &error, Some(&verdict)))
            }
            _ => Ok(()),
        }
    }

    /// The same of a folder that was taken for empty, which would be a hole in a listing.
    pub(super) fn believe_no_folder(&self, folder: &str, verdict: Verdict) -> Result<(), Error> {
        match (&self.shared.place.kind, &verdict) {
            (Kind::Webdav { root, .. }, Verdict::Answered { status: 404, .. }) => self.assert_unnamed(root, folder),
            _ => self.believe(folder, Some(verdict)),
        }
    }

    /// A folder isn't there if what it would lie in doesn't name it: that one said itself what is in it.
    fn assert_unnamed(&self, root: &str, folder: &str) -> Result<(), Error> {
        let path = format!("{}/{folder}", root.trim_end_matches('/'));
        let path = path.trim_end_matches('/');
        let DavFolder { path: above, names } = self.dav_above(path.rsplit_once('/').map_or("/", |(above, _)| above))?;
        let below = path.get(above.len()..).unwrap_or_default().trim_start_matches('/');
        let name = below.split('/').next().unwrap_or_default();
        // The root of all is named by none, and there whatever it says.
        if name.is_empty() || names.contains(name) {
            let store = error::named(&self.shared.place);
            return Err(Error::Unreachable(format!(
                "{store} says that {name}/ is not there (404) though it is; it is tried again later"
            )));
        }
        Ok(())
    }

    /// Anything may say 404. Only where WebDAV is spoken, here or above, does it mean that nothing is there.
    fn dav_answers(&self) -> Result<(), Error> {
        let Kind::Webdav { root, .. } = &self.shared.place.kind else { return Ok(()) };
        self.dav_above(root).map(drop)
    }

    /// The folder under that path, or the next above it that there is.
    fn dav_above(&self, path: &str) -> Result<DavFolder, Error> {
        let place = &self.shared.place;
        let mut above = if path.is_empty() { "/" } else { path };
        loop {
            let call = self.call();
            let operator = service::above(place, above, &self.shared.pace, &self.shared.line)?;
            let operator = service::over(operator, place, self.shared.client.as_ref(), &call);
            let asked = waited(&call, async { operator.list("/").await })?;
            match (asked, call.verdict()) {
                (Ok(entries), None) => {
                    let names = entries.iter().map(|entry| entry.path().trim_matches('/').to_owned()).collect();
                    return Ok(DavFolder { path: above.to_owned(), names });
                }
                (_, Some(Verdict::Answered { status, .. }))
                    if !matches!(status, 401 | 403) && !error::is_busy(status) => {}
                (_, verdict) => {
                    let error = opendal::Error::new(ErrorKind::Unexpected, "");
                    return Err(error::understood(place, above, &error, verdict.as_ref()));
                }
            }
            if above == "/" {
                let store = error::named(place);
                return Err(Error::Broken(format!("nothing at {store} speaks WebDAV (404); look at the URL")));
            }
            above = above.rsplit_once('/').map(|(above, _)| above).filter(|above| !above.is_empty()).unwrap_or("/");
        }
    }
}

/// A folder as a WebDAV server listed it.
struct DavFolder {
    path: String,
    names: BTreeSet<String>,
}
