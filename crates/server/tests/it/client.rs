//! A server for a test, and a client that says exactly what it is told to.

use allod_server::{Catalog, Origin, Server, Settings, Spec};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;

/// The model that the program has built in; it has a chat template.
pub(crate) fn stories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../allod/assets/allod-stories.gguf")
}

/// A server that ends with the value.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) data: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = |l: &&str| l.to_ascii_lowercase().starts_with(&format!("{name}:"));
        self.head.lines().find(line).map(|l| l[name.len() + 1..].trim())
    }

    /// The objects of a stream of server-sent events, without `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = self.text();
        let data = text.lines().filter_map(|l| l.strip_prefix("data: ")).filter(|d| *d != "[DONE]");
        data.map(|d| serde_json::from_str(d).unwrap()).collect()
    }

    /// The objects of a stream of lines.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

pub(crate) fn settings(models: &[(&str, PathBuf)]) -> Settings {
    let mut catalog = Catalog::default();
    for (name, path) in models {
        let mut spec = Spec::new(Origin::Path(path.clone()));
        spec.sizing.context = Some(512);
        spec.sizing.parallel = Some(8);
        catalog.insert(*name, spec);
    }
    Settings { catalog, threads: 2, ..Settings::default() }
}

/// A server with the built-in model.
pub(crate) fn serve() -> Served {
    serve_with(settings(&[("stories", stories())]))
}

pub(crate) fn serve_with(settings: Settings) -> Served {
    serve_in(tempfile::tempdir().unwrap(), settings)
}

/// A server whose data lie in a folder that may hold some already.
pub(crate) fn serve_in(data: tempfile::TempDir, settings: Settings) -> Served {
    let settings = Settings { data: Some(data.path().into()), grace: Some(Duration::from_secs(2)), ..settings };
    let (stop, stopped) = oneshot::channel::<()>();
    let (told, address) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            Server::new(settings).serve(listener, async move { drop(stopped.await) }).await;
        });
    });
    Served { address: address.recv().unwrap(), data, stop: Some(stop), thread: Some(thread) }
}

impl Served {
    /// Ends the server and gives its data back.
    pub(crate) fn end(mut self) -> tempfile::TempDir {
        self.stop_and_wait();
        std::mem::replace(&mut self.data, tempfile::tempdir().unwrap())
    }

    fn stop_and_wait(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.ask("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("host: {}\r\n", self.address));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(&[head.as_bytes(), body].concat())
    }

    /// Sends bytes as they are and reads until the server closes.
    pub(crate) fn send(&self, bytes: &[u8]) -> Response {
        let mut stream = self.connect();
        // A server that has heard enough closes before everything is sent.
        drop(stream.write_all(bytes));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        parse(&answer)
    }

    /// The sum of a metric over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let lines = text.lines().filter(|l| l.starts_with(name) && !l.starts_with('#'));
        lines.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop_and_wait();
    }
}

fn parse(answer: &[u8]) -> Response {
    let split = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..split]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let raw = answer.get(split + 4..).unwrap_or_default();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Response { status, body: if chunked { unchunked(raw) } else { raw.to_vec() }, head }
}

fn unchunked(mut raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = raw.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&raw[..end]).unwrap(), 16).unwrap();
        if size == 0 || raw.len() < end + 2 + size {
            break;
        }
        body.extend_from_slice(&raw[end + 2..end + 2 + size]);
        raw = &raw[end + 4 + size..];
    }
    body
}

pub(crate) fn user(text: &str) -> Value {
    json!([{ "role": "user", "content": text }])
}
