//! HTTP as a client of one node speaks it: on that node's own network, with nothing between, so that what became of each
//! request is known as well as it can be.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

/// Of the API, on every machine.
pub(super) const API_PORT: u16 = 8080;
/// Longest wait for an answer; a node says within five seconds that it has none.
const PATIENCE: Duration = Duration::from_secs(8);

/// A connection, made when it is needed.
pub(super) struct Line {
    network: PathBuf,
    token: String,
    stream: Option<TcpStream>,
    patience: Duration,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// `X-Narvana-Index`.
    pub(super) index: u64,
    pub(super) body: Value,
}

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum Silence {
    /// Nobody was there: the request was not sent.
    NotSent,
    /// It was sent, or a part of it.
    NoAnswer,
}

/// Brings this thread onto the network of a machine.
pub(super) fn enter(network: &Path) {
    let file = File::open(network).expect("the network of a machine");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
}

impl Line {
    pub(super) fn to(network: &Path, token: &str) -> Self {
        Self { network: network.to_owned(), token: token.to_owned(), stream: None, patience: PATIENCE }
    }

    /// The same for somebody who does not wait for long.
    pub(super) fn hasty(network: &Path, token: &str) -> Self {
        Self { patience: Duration::from_secs(2), ..Self::to(network, token) }
    }

    pub(super) fn get(&mut self, path: &str) -> Result<Reply, Silence> {
        self.ask("GET", path, None, None)
    }

    pub(super) fn ask(
        &mut self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Reply, Silence> {
        let deadline = Instant::now() + self.patience;
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        let body = body.map(Value::to_string).unwrap_or_default();
        let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {}\r\n{key}Content-Type: \
             application/json\r\nContent-Length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        let sent = stream.write_all(&[head.as_bytes(), body.as_bytes()].concat());
        let reply = sent.ok().and_then(|()| receive(&mut stream, deadline)).ok_or(Silence::NoAnswer)?;
        self.stream = Some(stream);
        Ok(reply)
    }

    fn connect(&self) -> Result<TcpStream, Silence> {
        enter(&self.network);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).map_err(|_| Silence::NotSent)?;
        stream.set_nodelay(true).map_err(|_| Silence::NotSent)?;
        stream.set_write_timeout(Some(self.patience)).map_err(|_| Silence::NotSent)?;
        Ok(stream)
    }
}

fn receive(stream: &mut TcpStream, deadline: Instant) -> Option<Reply> {
    let mut bytes = Vec::new();
    let end_of_head = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        more(stream, &mut bytes, deadline)?;
    };
    let head = String::from_utf8_lossy(&bytes[..end_of_head]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let (mut length, mut index) = (0, 0);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "x-narvana-index" => index = value.trim().parse().ok()?,
            _ => {}
        }
    }
    let mut body = bytes.split_off(end_of_head + 4);
    while body.len() < length {
        more(stream, &mut body, deadline)?;
    }
    Some(Reply { status, index, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>, deadline: Instant) -> Option<()> {
    let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
    stream.set_read_timeout(Some(left)).ok()?;
    let mut piece = [0; 16 * 1024];
    match stream.read(&mut piece) {
        Ok(0) | Err(_) => None,
        Ok(count) => {
            bytes.extend_from_slice(&piece[..count]);
            Some(())
        }
    }
}
