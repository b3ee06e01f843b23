//! A real WebDAV server, with a password, whose objects are files.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::eventually;
use crate::ports::free_address;

pub const USERNAME: &str = "backup-user";
pub const PASSWORD: &str = "p4ssw0rd/of+the-share";

/// It runs until it is dropped.
pub struct WebDav {
    child: Child,
    pub address: SocketAddr,
    dir: TempDir,
}

impl WebDav {
    pub fn start() -> Self {
        let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
        let share = dir.path().join("share");
        std::fs::create_dir(&share).unwrap();
        let config = format!(
            "host: {}\nport: {}\nserver: cheroot\nprovider_mapping: {{ '/': '{}' }}\n\
             http_authenticator: {{ accept_basic: true, accept_digest: false, default_to_digest: false }}\n\
             simple_dc: {{ user_mapping: {{ '*': {{ '{USERNAME}': {{ password: '{PASSWORD}' }} }} }} }}\n\
             verbose: 0\nlogging: {{ enable: false }}\n",
            address.ip(),
            address.port(),
            share.display()
        );
        std::fs::write(dir.path().join("wsgidav.yaml"), config).unwrap();
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python3");
        let mut command = Command::new(program);
        command.args(["-m", "wsgidav.server.server_cli", "-c"]).arg(dir.path().join("wsgidav.yaml"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut server = Self { child: child.expect("`scripts/setup test` makes target/venv"), address, dir };
        eventually("WebDAV", || {
            assert!(server.child.try_wait().unwrap().is_none(), "the WebDAV server has ended");
            TcpStream::connect(address).ok()
        });
        server
    }

    /// Where the objects lie, each as a file of its key.
    pub fn share(&self) -> PathBuf {
        self.dir.path().join("share")
    }
}

impl Drop for WebDav {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
