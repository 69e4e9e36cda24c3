//! Log lines between nodes: those of this one for others, and those of others for this one.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use narvana_proto::v1;
use narvana_proto::v1::log_request;
use narvana_proto::v1::logs_client::LogsClient;
use narvana_proto::v1::logs_server::Logs;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::caller::{member, while_member};
use super::peers::{answers, reason};
use super::{Admit, Peers};
use crate::consensus::{Peer, View};
use crate::logs::{self, Away, Elsewhere, Entry, Followed, LogKey, LogLine, LogStore, LogStream, LogTime, Start};
use crate::model::{BuildId, InstanceId, NodeId};

/// Lines of one message. With the longest lines it has two mebibytes.
const BATCH_LINES: usize = 128;
/// Lines that are read at once at most.
const READ_LINES_MAX: usize = 1_000;

/// Gives lines of this node's logs to other members.
pub(super) struct LogService {
    pub(super) logs: LogStore,
    pub(super) admit: Admit,
    pub(super) stop: CancellationToken,
}

type Lines = BoxStream<'static, Result<v1::LogLines, Status>>;

#[tonic::async_trait]
impl Logs for LogService {
    type ReadStream = Lines;
    type FollowStream = Lines;

    async fn read(&self, request: Request<v1::LogRequest>) -> Result<Response<Lines>, Status> {
        let (key, start) = asked(request.into_inner())?;
        let entries = match start {
            Start::At(seq) => self.logs.read(key, seq, READ_LINES_MAX).await,
            Start::Last(count) => self.logs.tail(key, count.min(READ_LINES_MAX)).await,
        };
        let items: Vec<_> =
            entries.map_err(|error| failed(&error))?.into_iter().map(|e| Ok(Followed::Entry(e))).collect();
        Ok(Response::new(batches(stream::iter(items).boxed())))
    }

    async fn follow(&self, request: Request<v1::LogRequest>) -> Result<Response<Lines>, Status> {
        let caller = member(&request)?;
        let (key, start) = asked(request.into_inner())?;
        let start = match start {
            Start::Last(count) => Start::Last(count.min(READ_LINES_MAX)),
            at @ Start::At(_) => at,
        };
        let lines = batches(self.logs.follow_from(key, start).await.map_err(|error| failed(&error))?);
        Ok(Response::new(while_member(lines, caller, self.admit.clone(), self.stop.clone())))
    }
}

/// As many items in each message as are there: nothing is read ahead of a caller who is slow.
fn batches(lines: BoxStream<'static, Result<Followed, logs::Error>>) -> Lines {
    let batches = lines.ready_chunks(BATCH_LINES).map(|items| {
        let mut batches = Vec::new();
        let mut batch = v1::LogLines::default();
        for item in items {
            match item {
                Ok(Followed::Entry(entry)) => batch.lines.push(line(&entry)),
                Ok(Followed::Begins { seq }) => batch.begins = Some(seq),
                Ok(Followed::Skipped { count }) => {
                    if !batch.lines.is_empty() {
                        batches.push(Ok(std::mem::take(&mut batch)));
                    }
                    batch.skipped += count;
                }
                Err(error) => {
                    batches.push(Ok(std::mem::take(&mut batch)));
                    batches.push(Err(failed(&error)));
                }
            }
        }
        batches.push(Ok(batch));
        stream::iter(batches)
    });
    batches.flatten().boxed()
}

fn failed(error: &logs::Error) -> Status {
    Status::internal(error.to_string())
}

fn asked(request: v1::LogRequest) -> Result<(LogKey, Start), Status> {
    let id = |bytes: &[u8]| Uuid::from_slice(bytes).map_err(|_| Status::invalid_argument("an id has 16 bytes"));
    let key = match request.log {
        Some(log_request::Log::Build(bytes)) => LogKey::Build(BuildId(id(&bytes)?)),
        Some(log_request::Log::Instance(bytes)) => LogKey::Instance(InstanceId(id(&bytes)?)),
        None => return Err(Status::invalid_argument("no log is named")),
    };
    let start = match request.start {
        Some(log_request::Start::At(seq)) => Start::At(seq),
        Some(log_request::Start::Last(count)) => Start::Last(usize::try_from(count).unwrap_or(usize::MAX)),
        None => return Err(Status::invalid_argument("the request does not say where to begin")),
    };
    Ok((key, start))
}

fn request(key: LogKey, start: Start) -> v1::LogRequest {
    let log = match key {
        LogKey::Build(id) => log_request::Log::Build(id.0.as_bytes().to_vec().into()),
        LogKey::Instance(id) => log_request::Log::Instance(id.0.as_bytes().to_vec().into()),
    };
    let start = match start {
        Start::At(seq) => log_request::Start::At(seq),
        Start::Last(count) => log_request::Start::Last(count as u64),
    };
    v1::LogRequest { log: Some(log), start: Some(start) }
}

fn line(entry: &Entry) -> v1::LogLine {
    let origin = match entry.line.stream {
        LogStream::System => v1::LogOrigin::System,
        LogStream::Stdout => v1::LogOrigin::Stdout,
        LogStream::Stderr => v1::LogOrigin::Stderr,
    };
    v1::LogLine { seq: entry.seq, at: entry.line.at.0, origin: origin.into(), text: entry.line.text().to_owned() }
}

/// Made harmless again: what another node says is not taken for clean.
fn entry(line: &v1::LogLine) -> Entry {
    let origin = match line.origin() {
        v1::LogOrigin::System => LogStream::System,
        v1::LogOrigin::Stdout => LogStream::Stdout,
        v1::LogOrigin::Stderr => LogStream::Stderr,
    };
    Entry { seq: line.seq, line: LogLine::new(LogTime(line.at), origin, &line.text) }
}

/// The logs that other nodes hold.
#[derive(Clone)]
pub struct FarLogs {
    peers: Peers,
    views: watch::Receiver<View>,
}

impl FarLogs {
    /// Over these connections ([`Peers::for_traffic`]), to the addresses that the state knows.
    pub fn new(peers: Peers, views: watch::Receiver<View>) -> Self {
        Self { peers, views }
    }

    fn client(&self, node: NodeId) -> Result<LogsClient<tonic::transport::Channel>, Away> {
        let state = self.views.borrow().state.clone();
        let away = |reason: String| Away { node, reason, for_good: false };
        let gone = || Away { for_good: true, ..away("it is no member any more".to_owned()) };
        let member = state.node(node).ok_or_else(gone)?;
        let peer = Peer { node, address: member.peer_address() };
        let channel = self.peers.channel(&peer).map_err(|error| away(error.to_string()))?;
        Ok(LogsClient::new(channel))
    }
}

fn items(node: NodeId, lines: Streaming<v1::LogLines>) -> BoxStream<'static, Result<Followed, Away>> {
    let items = answers(lines).map(move |batch| {
        let items = match batch {
            Ok(batch) => {
                let begins = batch.begins.map(|seq| Ok(Followed::Begins { seq }));
                let skipped = (batch.skipped > 0).then_some(Ok(Followed::Skipped { count: batch.skipped }));
                let lines = batch.lines.iter().map(|line| Ok(Followed::Entry(entry(line))));
                begins.into_iter().chain(skipped).chain(lines).collect()
            }
            Err(status) => vec![Err(Away { node, reason: reason(&status), for_good: false })],
        };
        stream::iter(items)
    });
    items.flatten().boxed()
}

impl Elsewhere for FarLogs {
    fn read(&self, node: NodeId, key: LogKey, start: Start) -> BoxFuture<'static, Result<Vec<Entry>, Away>> {
        let client = self.client(node);
        async move {
            let answer = client?.read(request(key, start)).await;
            let lines = answer.map_err(|status| Away { node, reason: reason(&status), for_good: false })?.into_inner();
            let mut entries = Vec::new();
            let mut items = items(node, lines);
            while let Some(item) = items.next().await {
                if let Followed::Entry(entry) = item? {
                    entries.push(entry);
                }
                // It was asked for no more, whatever it sends.
                if entries.len() == READ_LINES_MAX {
                    break;
                }
            }
            Ok(entries)
        }
        .boxed()
    }

    fn follow(&self, node: NodeId, key: LogKey, start: Start) -> BoxStream<'static, Result<Followed, Away>> {
        let client = self.client(node);
        let lines = async move {
            let answer = match client {
                Ok(mut client) => client.follow(request(key, start)).await,
                Err(away) => return stream::iter([Err(away)]).boxed(),
            };
            match answer {
                Ok(answer) => items(node, answer.into_inner()),
                Err(status) => stream::iter([Err(Away { node, reason: reason(&status), for_good: false })]).boxed(),
            }
        };
        lines.flatten_stream().boxed()
    }
}
