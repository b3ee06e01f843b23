//! A proxy on loopback before a store's server: it spoils the requests that it is told to, and keeps a record of all.

use std::io::{BufReader, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, Weak};

use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::fault::{Act, Fault, Reply, When};
use crate::message::{Head, pass};

/// It runs until it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    /// Bound and never listening: nobody else gets the port while the server is gone.
    _port: OwnedFd,
}

/// A request as it came in. Bytes are those of the bodies.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub up: u64,
    pub down: u64,
    /// None while there is no answer.
    pub status: Option<u16>,
}

struct Shared {
    upstream: SocketAddr,
    rules: Mutex<Vec<Rule>>,
    watch: Mutex<Option<Act>>,
    seen: Mutex<Vec<Seen>>,
    listener: Mutex<Option<Arc<TcpListener>>>,
    /// Connections, to cut them.
    open: Mutex<Vec<Weak<TcpStream>>>,
    /// How often the server has gone: what waits, waits until then.
    gone: Mutex<usize>,
    changed: Condvar,
}

struct Rule {
    when: When,
    fault: Fault,
    matched: usize,
}

impl Proxy {
    pub fn before(upstream: SocketAddr) -> Self {
        let port = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&port, true).unwrap();
        rustix::net::bind(&port, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = rustix::net::getsockname(&port).unwrap().try_into().unwrap();
        let shared = Shared {
            upstream,
            rules: Mutex::default(),
            watch: Mutex::default(),
            seen: Mutex::default(),
            listener: Mutex::default(),
            open: Mutex::default(),
            gone: Mutex::default(),
            changed: Condvar::new(),
        };
        let proxy = Self { address, shared: Arc::new(shared), _port: port };
        proxy.come_back();
        proxy
    }

    /// Each request that `when` means is spoilt from now on; the first rule that means it counts.
    pub fn spoil(&self, when: When, fault: Fault) -> &Self {
        self.shared.rules.lock().unwrap().push(Rule { when, fault, matched: 0 });
        self
    }

    /// This happens with each request that the server has answered, before the client hears so.
    pub fn watch(&self, act: impl Fn(&str) + Send + Sync + 'static) {
        *self.shared.watch.lock().unwrap() = Some(Arc::new(act));
    }

    /// No more faults.
    pub fn heal(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Nobody listens any more, and whoever is connected is cut off.
    pub fn go(&self) {
        if let Some(listener) = self.shared.listener.lock().unwrap().take() {
            rustix::net::shutdown(&listener, rustix::net::Shutdown::Read).unwrap();
        }
        *self.shared.gone.lock().unwrap() += 1;
        self.shared.changed.notify_all();
        for stream in self.shared.open.lock().unwrap().drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn come_back(&self) {
        let listener = Arc::new(TcpListener::bind(self.address).unwrap());
        let former = self.shared.listener.lock().unwrap().replace(listener.clone());
        assert!(former.is_none(), "it isn't gone");
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(client));
            }
        });
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Begins a new record.
    pub fn forget(&self) {
        self.shared.seen.lock().unwrap().clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.go();
    }
}

/// Both sides of a connection.
struct Sides {
    client: Arc<TcpStream>,
    from_client: BufReader<Half>,
    server: Option<(Arc<TcpStream>, BufReader<Half>)>,
}

/// A stream that is closed when the last one lets it go.
struct Half(Arc<TcpStream>);

impl Read for Half {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        (&*self.0).read(bytes)
    }
}

/// What becomes of a connection after a request.
enum Then {
    Goes,
    Ends,
}

impl Shared {
    fn serve(&self, client: TcpStream) {
        let client = self.opened(client);
        let mut sides = Sides { from_client: BufReader::new(Half(client.clone())), client, server: None };
        while let Ok(Some(head)) = Head::read(&mut sides.from_client) {
            let number = self.note(&head);
            let fault = self.fault_of(&head);
            match self.exchange(&mut sides, &head, number, &fault) {
                Ok(Then::Goes) => {}
                Ok(Then::Ends) | Err(_) => break,
            }
        }
    }

    fn opened(&self, stream: TcpStream) -> Arc<TcpStream> {
        stream.set_nodelay(true).unwrap();
        let stream = Arc::new(stream);
        let mut open = self.open.lock().unwrap();
        open.retain(|stream| stream.strong_count() > 0);
        open.push(Arc::downgrade(&stream));
        stream
    }

    fn note(&self, head: &Head) -> usize {
        let mut seen = self.seen.lock().unwrap();
        let (method, target) = (head.word(0), head.word(1));
        seen.push(Seen { method, target, up: 0, down: 0, status: None });
        seen.len() - 1
    }

    /// What the record says of a request, unless it has been forgotten.
    fn amend(&self, number: usize, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.seen.lock().unwrap().get_mut(number) {
            change(seen);
        }
    }

    fn fault_of(&self, head: &Head) -> Fault {
        let (method, target) = (head.word(0), head.word(1));
        for rule in self.rules.lock().unwrap().iter_mut().filter(|rule| rule.when.means(&method, &target)) {
            rule.matched += 1;
            if rule.when.is_due(rule.matched) {
                return rule.fault.clone();
            }
        }
        Fault::None
    }

    fn exchange(&self, sides: &mut Sides, head: &Head, number: usize, fault: &Fault) -> Result<Then> {
        match fault {
            Fault::Silence => return self.wait(),
            Fault::Instead(reply) => return self.reply(sides, head, number, reply),
            Fault::Before(act) => act(&head.word(1)),
            Fault::InPlace(act) => {
                act(&head.word(1));
                return Ok(Then::Ends);
            }
            Fault::Twice => return self.deliver_twice(sides, head, number),
            _ => {}
        }
        let limit = match fault {
            Fault::StallUp(bytes) | Fault::ResetUp(bytes) => Some(*bytes),
            _ => None,
        };
        let mut server = self.connect(sides)?;
        server.write_all(&head.bytes)?;
        let up = pass(&mut sides.from_client, head.framing_of_request(), limit, &mut server)?;
        self.amend(number, |seen| seen.up = up);
        match fault {
            Fault::StallUp(_) => self.wait(),
            Fault::ResetUp(_) => reset(sides),
            _ => self.answer(sides, head, number, fault),
        }
    }

    /// The server's answer, whole or not.
    fn answer(&self, sides: &mut Sides, head: &Head, number: usize, fault: &Fault) -> Result<Then> {
        let (_, from_server) = sides.server.as_mut().expect("it was asked");
        let answer = Head::read(from_server)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        self.amend(number, |seen| seen.status = answer.word(1).parse().ok());
        let watch = self.watch.lock().unwrap().clone();
        watch.into_iter().for_each(|act| act(&head.word(1)));
        let framing = answer.framing_of_answer(&head.word(0));
        let mut client = &*sides.client;
        let limit = match fault {
            Fault::Lost => {
                pass(from_server, framing, None, &mut std::io::sink())?;
                return reset(sides);
            }
            Fault::After(act) => {
                act(&head.word(1));
                None
            }
            Fault::StallDown(bytes) | Fault::ResetDown(bytes) | Fault::CutDown(bytes) => Some(*bytes),
            _ => None,
        };
        client.write_all(&answer.bytes)?;
        let down = pass(from_server, framing, limit, &mut client)?;
        self.amend(number, |seen| seen.down = down);
        match fault {
            Fault::StallDown(_) => self.wait(),
            Fault::ResetDown(_) => reset(sides),
            Fault::CutDown(_) => Ok(Then::Ends),
            _ if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) => Ok(Then::Ends),
            _ => Ok(Then::Goes),
        }
    }

    /// Takes the whole request and answers it without the server.
    fn reply(&self, sides: &mut Sides, head: &Head, number: usize, reply: &Reply) -> Result<Then> {
        let up = pass(&mut sides.from_client, head.framing_of_request(), None, &mut std::io::sink())?;
        let (status, bytes) = reply.bytes(&head.word(0), &head.word(1));
        self.amend(number, |seen| (seen.up, seen.status) = (up, Some(status)));
        (&*sides.client).write_all(&bytes)?;
        Ok(Then::Goes)
    }

    /// The server gets it two times; the client gets the second answer.
    fn deliver_twice(&self, sides: &mut Sides, head: &Head, number: usize) -> Result<Then> {
        let mut body = Vec::new();
        let up = pass(&mut sides.from_client, head.framing_of_request(), None, &mut body)?;
        self.amend(number, |seen| seen.up = 2 * up);
        let mut server = self.connect(sides)?;
        server.write_all(&[&head.bytes[..], &body].concat())?;
        let (_, from_server) = sides.server.as_mut().expect("it was asked");
        let first = Head::read(from_server)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        pass(from_server, first.framing_of_answer(&head.word(0)), None, &mut std::io::sink())?;
        server.write_all(&[&head.bytes[..], &body].concat())?;
        self.answer(sides, head, number, &Fault::None)
    }

    fn connect(&self, sides: &mut Sides) -> Result<Half> {
        if sides.server.is_none() {
            let server = self.opened(TcpStream::connect(self.upstream)?);
            sides.server = Some((server.clone(), BufReader::new(Half(server))));
        }
        let (server, _) = sides.server.as_ref().expect("it was just opened");
        Ok(Half(server.clone()))
    }

    /// Until the server goes, or the proxy ends.
    fn wait(&self) -> Result<Then> {
        let gone = self.gone.lock().unwrap();
        let now = *gone;
        drop(self.changed.wait_while(gone, |gone| *gone == now).unwrap());
        Ok(Then::Ends)
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The client's connection is closed the hard way.
fn reset(sides: &Sides) -> Result<Then> {
    sockopt::set_socket_linger(&*sides.client, Some(std::time::Duration::ZERO))?;
    Ok(Then::Ends)
}
