//! The whole state, for a backup. For administrators of the cluster.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::{HeaderMap, header};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::clock;
use crate::store::{BackupHeader, Unencodable, write_backup};

use super::context::Context;
use super::extract::Reader;
use super::gate::Gate;
use super::{Error, Peer, health};

/// Blocks of a quarter of a mebibyte that wait for whoever downloads.
const BLOCKS_WAITING: usize = 2;

/// Why no more blocks are made.
enum Ended {
    /// Nobody takes them.
    Left,
    /// One cannot be made.
    Failed(Unencodable),
}

impl From<Unencodable> for Ended {
    fn from(error: Unencodable) -> Self {
        Self::Failed(error)
    }
}

/// Download everything the cluster knows
///
/// Apps, services, variables, users and the keys of the cluster, as of one moment, not encrypted: `narvana backup create`
/// encrypts it before it reaches a disk. Complete when its last block is. Over TLS or from this machine only, whatever
/// else is allowed. For administrators of the cluster.
#[utoipa::path(get, path = "/v1/backup", tag = "cluster",
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
pub(super) async fn download(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    context: Context,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let view = gate.everything(&caller)?;
    // A proxy on this machine may pass it on in the open: it says for whom it asks.
    let proxied = ["forwarded", "x-forwarded-for", "via"].iter().any(|name| headers.contains_key(*name));
    let local = |peer: &Peer| peer.address.ip().to_canonical().is_loopback() && !proxied;
    if !context.peer().is_some_and(|peer| peer.tls || local(&peer)) {
        return Err(Error::Conflict(
            "a backup holds the keys of the cluster and is sent over TLS only, or to its own machine without a proxy between; use \
             the https:// address of the node"
                .to_owned(),
        ));
    }
    let header = BackupHeader {
        cluster: gate.cluster()?.id,
        created_at: clock::now(),
        index: view.index,
        term: gate.status().term,
        version: health::VERSION.to_owned(),
        bytes: 0,
    };
    tracing::info!(user = %caller.user().id, index = view.index, "the whole state is downloaded");
    let (sender, blocks) = mpsc::channel(BLOCKS_WAITING);
    tokio::task::spawn_blocking(move || {
        let sent = write_backup(&view.state, header, |block| sender.blocking_send(block).map_err(|_| Ended::Left));
        // The download ends without its end then, which is noticed there.
        if let Err(Ended::Failed(error)) = sent {
            tracing::error!(%error, "the state cannot be written into a backup");
        }
    });
    let body = Body::from_stream(ReceiverStream::new(blocks).map(Ok::<_, Infallible>));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-store")], body)
        .into_response())
}
