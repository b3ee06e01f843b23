//! File calls that the promises rest on: private, exclusive, durable, never through a link. Live databases are
//! not opened here or anywhere by file calls: that would drop SQLite's locks (see `sqlite`).

pub mod block;
mod lock;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;

pub use lock::lock;

/// A file call that failed: what was tried, on which path, and the system's reason.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {}", path.display(), reason(source))]
pub struct Error {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Error {
    /// The disk, or the quota on it, is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// The process, or the whole machine, may open no more files just now.
    pub fn lacks_descriptors(&self) -> bool {
        lacks_descriptors(&self.source)
    }

    /// Whoever runs this may not.
    pub fn is_denied(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied || self.is_read_only()
    }

    /// Nobody may write there.
    pub fn is_read_only(&self) -> bool {
        self.source.kind() == io::ErrorKind::ReadOnlyFilesystem
    }

    /// The path isn't there.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// The disk, or the file system on it, says that it can't give what lies there.
    pub fn is_lost(&self) -> bool {
        is_lost(&self.source)
    }

    /// What was to be opened isn't there, or is no regular file. Any other failure says nothing of what lies there.
    pub fn is_no_file(&self) -> bool {
        let strange = [Errno::LOOP, Errno::NXIO].map(|errno| Some(errno.raw_os_error()));
        self.is_missing()
            || self.source.kind() == io::ErrorKind::InvalidData
            || strange.contains(&self.source.raw_os_error())
    }
}

/// The disk, or the file system on it, says that it can't give what lies there.
pub fn is_lost(error: &io::Error) -> bool {
    let lost = [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::NODATA, Errno::REMOTEIO];
    error.raw_os_error().is_some_and(|code| lost.map(Errno::raw_os_error).contains(&code))
}

fn reason(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::StorageFull => "the disk is full (of bytes, or of inodes: `df -i` shows them)".to_owned(),
        io::ErrorKind::QuotaExceeded => "the disk quota is used up".to_owned(),
        io::ErrorKind::PermissionDenied => {
            let uid = rustix::process::geteuid().as_raw();
            format!("permission denied for uid {uid}; run the service as the user who owns the databases")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("{source}; mount it without `:ro`, or look in `dmesg` why the system takes no more writes")
        }
        _ if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            "it is a symbolic link, which is not followed here".to_owned()
        }
        _ => source.to_string(),
    }
}

/// Puts the action and the path to an I/O result.
pub trait Context<T> {
    /// Names what was tried on `path`.
    fn to(self, action: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn to(self, action: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error { action, path: path.to_owned(), source: source.into() })
    }
}

/// Of a folder in which nobody removes what others have made (inode(7)).
const STICKY: u32 = 0o1000;

/// What root makes belongs to the owner of the folder that it is made in: whoever else works there as that user goes on with it. Where
/// root may not even do that, it stays root's.
fn hand_over(made: &File, path: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let Ok(folder) = parent(path).metadata() else { return };
    if folder.uid() != 0 {
        let _ = std::os::unix::fs::fchown(made, Some(folder.uid()), Some(folder.gid()));
    }
}

/// The same of a folder, by its handle: a link that came in its place is not followed.
fn hand_over_dir(path: &Path) {
    let flags = (OFlags::NOFOLLOW | OFlags::DIRECTORY).bits() as i32;
    if rustix::process::geteuid().is_root()
        && let Ok(made) = OpenOptions::new().read(true).custom_flags(flags).open(path)
    {
        hand_over(&made, path);
    }
}

/// Makes a folder, 0700, durable in its parent; one that exists is left as it is.
pub fn make_dir(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => {
            made.to("make the folder", path)?;
            hand_over_dir(path);
            sync_dir(parent(path))
        }
    }
}

/// A folder, 0700, under a name that is free. It belongs to whoever runs this.
pub fn make_private_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().mode(0o700).create(path).to("make the folder", path)?;
    sync_dir(parent(path))
}

/// The same, but what a link leads to is no such folder.
pub fn make_own_dir(path: &Path) -> Result<(), Error> {
    make_dir(path)?;
    if path.symlink_metadata().to("look at", path)?.is_dir() {
        return Ok(());
    }
    Err(io::Error::from(Errno::LOOP)).to("use the folder", path)
}

/// Makes the folders that lead to `path` and itself.
pub fn make_dirs(path: &Path) -> Result<(), Error> {
    if !path.is_dir() && path.parent().is_some_and(|parent| !parent.as_os_str().is_empty()) {
        make_dirs(parent(path))?;
    }
    make_dir(path)
}

/// Makes the names in a folder durable.
pub fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|dir| dir.sync_all()).to("sync the folder", path)
}

/// The folder that holds `path`.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Opens a regular file for reading; never a link, and a FIFO or device neither hangs nor passes.
pub fn open_regular(path: &Path) -> Result<File, Error> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).to("open", path)?;
    if file.metadata().to("look at", path)?.is_file() {
        Ok(file)
    } else {
        // A kind that no failing call has.
        Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file")).to("open", path)
    }
}

/// Whether the process, or the whole machine, may open no more files just now.
pub fn has_no_descriptor() -> bool {
    File::open("/dev/null").is_err_and(|error| lacks_descriptors(&error))
}

fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Renames, never over something that exists; the caller makes the folder durable.
pub fn rename_new(from: &Path, to: &Path) -> Result<(), Error> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without that flag: a link is refused over an existing name just as well.
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::hard_link(from, to).to("name", to)?;
            std::fs::remove_file(from).to("remove", from)
        }
        done => done.to("name", to),
    }
}

/// Removes a file; one that is gone already is fine.
pub fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.to("remove", path),
    }
}

/// Removes a folder with all that is in it; one that is gone already is fine. A link in it is removed itself, and what it
/// leads to stays.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.to("remove the folder", path),
    }
}

/// Creates a file, 0600, under a name that is free. It belongs to whoever owns the folder.
pub fn create_private(path: &Path) -> Result<File, Error> {
    let file = create_own(path)?;
    hand_over(&file, path);
    Ok(file)
}

/// The same, but it belongs to whoever runs this: who else works there has no business with it.
pub fn create_own(path: &Path) -> Result<File, Error> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).to("create", path)
}

/// Removes a folder that nothing is in; one that others still use stays.
pub fn remove_empty_dir(path: &Path) {
    let _ = std::fs::remove_dir(path);
}

/// Holds a folder for as long as the handle lives, where the file system can (flock(2)): others see that it is in use.
pub fn hold_dir(path: &Path) -> Result<File, Error> {
    let dir = File::open(path).to("open", path)?;
    // Without such locks, only the time in which it is used protects it.
    let _ = rustix::fs::flock(&dir, FlockOperation::NonBlockingLockShared);
    Ok(dir)
}

/// Whether somebody holds a folder just now.
pub fn is_held(path: &Path) -> bool {
    let tried = File::open(path).map(|dir| rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive));
    matches!(tried, Ok(Err(Errno::WOULDBLOCK)))
}

/// Bytes that nobody can guess (getrandom(2)).
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    drawn.to("draw random bytes from", Path::new("/dev/urandom"))?;
    Ok(bytes)
}

/// Whether this process may write a file, if it is there (access(2)); nothing is opened.
pub fn assert_writable(path: &Path) -> Result<(), Error> {
    match rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        done => done.to("write", path),
    }
}

/// Bytes that an unprivileged process may still write on the file system of `path`.
pub fn free_space(path: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(path).to("ask for the free space of", path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A new file, 0600, that isn't under its final name yet. Dropped unpublished, it is removed.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Partial {
    /// Creates `.<name>.partial` beside `target`, exclusively. It belongs to whoever owns the folder.
    pub fn create(target: &Path) -> Result<Self, Error> {
        let partial = Self::create_own(target)?;
        hand_over(&partial.file, &partial.path);
        Ok(partial)
    }

    /// The same where a caller wants it, or beside a live database: it belongs to whoever runs this, unless it is given to somebody.
    pub fn create_own(target: &Path) -> Result<Self, Error> {
        let path = partial_path(target);
        let file = create_own(&path)?;
        Ok(Self { file, path, target: target.to_owned(), done: false })
    }

    /// One that was made elsewhere in the same file system. It belongs to whoever owns the folder of the target.
    pub fn made(file: File, path: PathBuf, target: PathBuf) -> Self {
        hand_over(&file, &target);
        Self { file, path, target, done: false }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it lies now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it will lie.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives it an owner and a mode.
    pub fn give_to(&self, owner: (u32, u32), mode: u32) -> Result<(), Error> {
        let meta = self.file.metadata().to("look at", &self.path)?;
        if (meta.uid(), meta.gid()) != owner {
            std::os::unix::fs::fchown(&self.file, Some(owner.0), Some(owner.1)).to("give an owner to", &self.path)?;
        }
        self.file.set_permissions(std::fs::Permissions::from_mode(mode)).to("set the mode of", &self.path)
    }

    /// Gives it to the owner of its folder, with the rights to read and write that others have there. A folder where everybody makes files
    /// of their own, as a new volume of a container is, says nothing of that: there it stays private, and whose it is.
    pub fn give_to_folder(&self) -> Result<(), Error> {
        let path = parent(&self.path);
        let folder = path.metadata().to("look at", path)?;
        hand_over(&self.file, &self.path);
        let own = self.file.metadata().to("look at", &self.path)?;
        if own.uid() != folder.uid() || folder.mode() & STICKY != 0 {
            return Ok(());
        }
        // The folder may be of a group that whoever runs this isn't in.
        let _ = std::os::unix::fs::fchown(&self.file, None, Some(folder.gid()));
        let mode = std::fs::Permissions::from_mode(folder.mode() & 0o666);
        self.file.set_permissions(mode).to("set the mode of", &self.path)
    }

    /// Makes the bytes durable. A failed fsync is never tried again: the file is discarded by whoever gets the error.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().to("sync", &self.path)
    }

    /// Gives it its final name, which must be free. The caller has synced it and makes the folder durable.
    pub fn publish_new(mut self) -> Result<(), Error> {
        rename_new(&self.path, &self.target)?;
        self.done = true;
        Ok(())
    }

    /// Gives it another name than it was meant to have, which must be free.
    pub fn publish_as(mut self, target: &Path) -> Result<(), Error> {
        self.target = target.to_owned();
        self.publish_new()
    }

    /// Gives it its final name in place of what was there. The caller has synced it and makes the folder durable.
    pub fn publish_over(mut self) -> Result<(), Error> {
        std::fs::rename(&self.path, &self.target).to("name", &self.target)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            // A leftover is swept by whoever next holds the directory.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// `.<name>.partial` in the same folder.
pub fn partial_path(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.partial"))
}

/// Replaces a file by `bytes`: written aside, fsynced, renamed, the folder fsynced. A crash leaves the old or the new.
pub fn write_durable(target: &Path, bytes: &[u8]) -> Result<(), Error> {
    // A leftover of a crash; whoever writes holds the lock that this file's writers share.
    remove(&partial_path(target))?;
    let partial = Partial::create(target)?;
    (&partial.file).write_all(bytes).to("write", &partial.path)?;
    partial.sync()?;
    partial.publish_over()?;
    sync_dir(parent(target))
}

/// Makes a file, 0600, under a name that is free, with these bytes, durable. It belongs to whoever runs this.
pub fn write_new(target: &Path, bytes: &[u8]) -> Result<(), Error> {
    let partial = Partial::create_own(target)?;
    (&partial.file).write_all(bytes).to("write", &partial.path)?;
    partial.sync()?;
    partial.publish_new()?;
    sync_dir(parent(target))
}

/// Gives a file that is there a second name in place of `target`, durable once the folder is synced.
pub fn link_over(from: &Path, target: &Path) -> Result<(), Error> {
    let aside = partial_path(target);
    remove(&aside)?;
    if std::fs::hard_link(from, &aside).is_err() {
        // Neither is a link followed that somebody put there meanwhile.
        let copy = create_private(&aside)?;
        io::copy(&mut open_regular(from)?, &mut &copy).to("copy", from)?;
        copy.sync_all().to("sync", &aside)?;
    }
    std::fs::rename(&aside, target).to("name", target)?;
    // rename(2) does nothing, and says that all is well, when both names are of one file already: a crash between
    // this and what follows it leaves just that.
    remove(&aside)
}

/// Opens (creating it, 0600) a file that processes lock or append to. One that is made belongs to whoever owns the folder; one that was
/// there, perhaps by a link of somebody else's, is nobody's to give away.
pub fn open_shared(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened.to("open", path),
    }
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            hand_over(&file, path);
            Ok(file)
        }
        // Another was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.create(true).open(path).to("open", path),
        Err(error) => Err(error).to("open", path),
    }
}
