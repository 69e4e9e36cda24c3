//! What stands between the nodes: every connection to a node's port goes through its proxy, which may be slow, pass nothing
//! on, or break.
//!
//! It gets into the path by a rule of the machine's packet filter, so that no node knows of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::dice::Dice;
use super::line::enter;

/// Where the proxy listens, on every machine.
const PORT: u16 = 9191;
/// Between nodes.
pub(super) const PEER_PORT: u16 = 9090;

/// What it does to what it passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    Fine,
    /// Up to twice this long for every piece.
    Slow(Duration),
    /// Nothing is passed on, and nothing refused.
    Hole,
    /// Each connection breaks after so many bytes more.
    Breaks(u64),
    /// The proxy ends.
    Over,
}

pub(super) struct Proxy {
    weather: watch::Sender<Weather>,
    touched: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Passage {
    weather: watch::Receiver<Weather>,
    touched: Arc<AtomicU64>,
    dice: Dice,
}

impl Proxy {
    /// In front of the node on this network.
    pub(super) fn start(network: PathBuf, dice: Dice) -> Self {
        let weather = watch::Sender::new(Weather::Fine);
        let touched = Arc::new(AtomicU64::new(0));
        let passage = Passage { weather: weather.subscribe(), touched: Arc::clone(&touched), dice };
        let thread = std::thread::spawn(move || {
            // Before there is a socket: each belongs to the network it was made on.
            enter(&network);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve(passage));
        });
        Self { weather, touched, thread: Some(thread) }
    }

    /// What the packet filter is told to bring connections here.
    pub(super) fn rule() -> [String; 14] {
        [
            "iptables",
            "-w",
            "-t",
            "nat",
            "-A",
            "PREROUTING",
            "-i",
            "eth0",
            "-p",
            "tcp",
            "--dport",
            &PEER_PORT.to_string(),
            "-j",
            "REDIRECT",
        ]
        .map(str::to_owned)
    }

    /// The rest of that.
    pub(super) fn rule_end() -> [String; 2] {
        ["--to-ports".to_owned(), PORT.to_string()]
    }

    pub(super) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Pieces and connections that something was done to.
    pub(super) fn touched(&self) -> u64 {
        self.touched.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Weather::Over);
        if let Some(thread) = self.thread.take() {
            let _it_panicked = thread.join();
        }
    }
}

async fn serve(passage: Passage) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await.expect("a machine of our own");
    let mut over = passage.weather.clone();
    let (mut open, mut connections) = (JoinSet::new(), 0);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = over.wait_for(|weather| *weather == Weather::Over) => return,
        };
        let Ok((near, _)) = accepted else { continue };
        connections += 1;
        let mut passage = passage.clone();
        passage.dice = Dice::of(passage.dice.next(), connections);
        open.spawn(pass(near, passage));
        while open.try_join_next().is_some() {}
    }
}

async fn pass(near: TcpStream, passage: Passage) {
    let node = SocketAddr::from((Ipv4Addr::LOCALHOST, PEER_PORT));
    let Ok(far) = TcpStream::connect(node).await else { return };
    for stream in [&near, &far] {
        let _best_effort = stream.set_nodelay(true);
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // Either end breaks both.
    tokio::select! {
        () = pump(near_in, far_out, passage.clone()) => {}
        () = pump(far_in, near_out, passage) => {}
    }
}

/// Passes on until an end is gone or the weather breaks it.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut passage: Passage) {
    let mut piece = vec![0; 16 * 1024];
    let mut since_it_breaks = 0;
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        let weather = *passage.weather.borrow_and_update();
        if weather != Weather::Fine {
            passage.touched.fetch_add(1, Ordering::Relaxed);
        }
        match weather {
            Weather::Fine => since_it_breaks = 0,
            Weather::Slow(usual) => {
                let millis = u64::try_from(usual.as_millis()).unwrap_or(u64::MAX);
                let late = passage.dice.millis(millis / 2..=millis * 2);
                tokio::time::sleep(late).await; // poll: this is the delay itself
            }
            Weather::Hole => {
                if passage.weather.wait_for(|weather| *weather != Weather::Hole).await.is_err() {
                    return;
                }
            }
            Weather::Breaks(after) => {
                since_it_breaks += count as u64;
                if since_it_breaks > after {
                    return;
                }
            }
            Weather::Over => return,
        }
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}
