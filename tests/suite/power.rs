//! A disk in a file: a copy of the file is what a power cut would leave, since it holds only what was made durable, or was written
//! back by chance.

use std::path::Path;
use std::process::Command;

use crate::disk_full::mount;

pub struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// Nothing where nobody may mount such a disk.
    pub fn new() -> Option<Self> {
        let disk = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(disk.mounted()).unwrap();
        let (image, mounted) = (disk.image("live"), disk.mounted());
        done("truncate", &["-s", "48M", &image]);
        done("mkfs.ext4", &["-q", "-F", &image]);
        let tried = Command::new("mount").args(["-o", "loop", &image, &mounted]).status().unwrap();
        tried.success().then_some(disk)
    }

    pub fn image(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub fn mounted(&self) -> String {
        self.image("mounted")
    }

    /// A new file each time: a device may still have the one before in mind for a while.
    pub fn copy(&self, from: &str, to: &str) {
        done("cp", &["--remove-destination", "--sparse=always", &self.image(from), &self.image(to)]);
    }

    /// Puts another image in the place of the one that is mounted.
    pub fn swap(&self, image: &str) {
        done("umount", &[&self.mounted()]);
        mount(&["-o", "loop", &self.image(image)], Path::new(&self.mounted()));
    }
}

fn done(program: &str, args: &[&str]) {
    assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
}
