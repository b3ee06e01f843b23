//! A real S3 server over HTTP, with keys, whose objects are files that a test can look at and damage.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The one bucket there is.
pub const BUCKET: &str = "school";
pub const ACCESS_KEY: &str = "AKIA5CH00L0FFS1TE";
pub const SECRET_KEY: &str = "s3cr3t/of+the-store=5ch00l";

/// It runs until it is dropped.
pub struct S3 {
    pub address: SocketAddr,
    root: TempDir,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl S3 {
    /// It lets in whose clock is wrong.
    pub fn start() -> Self {
        Self::that_bears(u32::MAX)
    }

    /// It lets in whose clock is wrong by so many seconds at most.
    pub fn that_bears(seconds: u32) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let mut config = S3Config::default();
        config.presigned_url_max_skew_time_secs = seconds;
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        let (service, (end, ended), (tell, told)) = (builder.build(), oneshot::channel(), std::sync::mpsc::channel());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! { () = serve(&listener, &service) => (), _ = ended => () }
            });
        });
        Self { address: told.recv().unwrap(), root, end: Some(end), thread: Some(thread) }
    }

    /// Where the objects of the bucket lie, each as a file of its key.
    pub fn bucket(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }

    /// Pieces of uploads that were begun and neither completed nor aborted.
    pub fn unfinished(&self) -> Vec<String> {
        names_in(self.root.path()).into_iter().filter(|name| name.starts_with(".upload")).collect()
    }
}

/// Each connection by itself.
async fn serve(listener: &TcpListener, service: &S3Service) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service.clone());
        tokio::spawn(async move { drop(connection.await) });
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.end.take().map(|end| end.send(()));
        drop(self.thread.take().map(JoinHandle::join));
    }
}
