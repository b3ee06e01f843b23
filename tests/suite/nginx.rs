//! A real reverse proxy.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::patience::PATIENCE;
use crate::ports::free_address;

/// It runs until it is dropped.
pub struct Nginx {
    child: Child,
    pub address: SocketAddr,
    _dir: TempDir,
}

impl Nginx {
    /// In front of a service, at the root.
    pub fn before(service: SocketAddr) -> Self {
        let location = format!(
            "location / {{ proxy_pass http://{service}; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }}"
        );
        Self::with(free_address(), &location)
    }

    /// With these locations.
    pub fn with(address: SocketAddr, locations: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let temp = |name: &str| dir.path().join(name).display().to_string();
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {};", temp(name)))
            .join(" ");
        let config = format!(
            "daemon off; master_process off; pid {}; error_log stderr; events {{}}\n\
             http {{ access_log off; {paths}\nserver {{ listen {address};\n{locations}\n}} }}",
            temp("pid")
        );
        std::fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-e").arg("stderr").arg("-c").arg(dir.path().join("nginx.conf"));
        let mut child = command.stderr(Stdio::null()).spawn().expect("nginx is needed");
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "nginx has ended");
            assert!(begun.elapsed() < PATIENCE, "nginx doesn't listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, address, _dir: dir }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
