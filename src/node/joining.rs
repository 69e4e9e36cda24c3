//! What `join` does before the node runs: it finds a member, looks at itself, is let in, and becomes a node on disk.
//!
//! Dying at any line leaves a folder in which the same `join` goes on: the request to be let in has an identity that is
//! kept before it is sent, so that asking again is answered with the same node and uses the token once.

use std::time::{Duration, Instant};

use anyhow::Context;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::cluster::{DataDir, Identity, NodeCertificate, SigningRequest, TokenText, key_pin};
use crate::config::{NodeConfig, cluster_versions};
use crate::consensus::Peer;
use crate::model::{NodeId, RequestId};
use crate::rpc::{Admitted, Door, JoinError, Newcomer, Request, Tls};
use crate::store::{self, SealKey, Store};
use crate::{clock, random};

use super::address::Address;
use super::checkup::Checkup;
use super::founding::AUTHORITY_FILE;
use super::options::engine_options;
use super::peer_port::{KEPT_CERTIFICATE, KEPT_KEY};
use super::preflight;

/// How long a cluster that cannot decide at the moment is asked again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before all members are asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Members and where they are: first the one that let this node in, later as many as `memory` keeps.
pub(super) const DOORS: &str = "doors";

/// Who can say who leads. Nobody for a founder that is alone.
pub(super) fn doors(dir: &DataDir) -> anyhow::Result<Vec<Peer>> {
    Ok(doors_in(&dir.read(DOORS)?.unwrap_or_default()))
}

/// The same from the bytes of that file.
pub(super) fn doors_in(file: &[u8]) -> Vec<Peer> {
    let text = String::from_utf8_lossy(file);
    let door = |line: &str| {
        let (node, address) = line.split_once(' ')?;
        Some(Peer { node: NodeId(node.parse().ok()?), address: address.to_owned() })
    };
    text.lines().filter_map(door).collect()
}

/// Makes the folder a node of the cluster that the token is for.
pub(super) async fn join(
    dir: &DataDir,
    config: &NodeConfig,
    token: &TokenText,
    report: impl FnOnce(&Checkup),
) -> anyhow::Result<()> {
    let newcomer = Newcomer::new(token.cluster, token.pin)?;
    let door = find_door(&newcomer, token).await?;
    let address = Address::of(config, dir, Some(door.from))?.settle()?;
    // The name of the node is not known yet; this only tells a Podman service of its own from others.
    let engine = engine_options(config, dir.path(), "joining".to_owned());
    let checkup = preflight::look(config, &address, &door, engine).await;
    report(&checkup);
    if let Some(refusal) = checkup.refusal() {
        anyhow::bail!("this node cannot join like that: {refusal}");
    }
    let own = SigningRequest::new().context("cannot make a key for this node")?;
    let request = kept_request(dir, token)?;
    let begun = Instant::now();
    let mut door = Ok(door);
    let admitted = loop {
        let asked = match door {
            Ok(door) => door.knock(question(config, token, request, &own, &address)).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(admitted) => break admitted,
            Err(error @ (JoinError::Busy { .. } | JoinError::Unreachable { .. })) if begun.elapsed() < PATIENCE => {
                tracing::warn!("{error}; asking again");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            Err(error) => {
                // Nothing came of this request, or only a node that was removed since: the next one is another one.
                if matches!(error, JoinError::Refused { .. }) {
                    dir.forget_joining()?;
                }
                return Err(error.into());
            }
        }
        door = find_door(&newcomer, token).await;
    };
    settle_in(dir, token, &own, admitted, &address).await
}

/// Whether a member of the token's cluster answers.
pub(super) async fn reach(token: &TokenText) -> anyhow::Result<()> {
    let newcomer = Newcomer::new(token.cluster, token.pin)?;
    find_door(&newcomer, token).await?;
    Ok(())
}

fn question(
    config: &NodeConfig,
    token: &TokenText,
    request: RequestId,
    own: &SigningRequest,
    address: &Address,
) -> Request {
    Request {
        token: token.id,
        secret: token.secret.clone(),
        request,
        signing_request: own.request.clone(),
        name: config.name.clone(),
        address: address.to_string(),
        cluster_version_max: *cluster_versions().end(),
    }
}

/// The first member that answers and proves to be one.
async fn find_door(newcomer: &Newcomer, token: &TokenText) -> Result<Door, JoinError> {
    let mut first = None;
    for address in &token.addresses {
        match newcomer.reach(address, clock::now).await {
            Ok(door) => return Ok(door),
            Err(error) => {
                tracing::warn!("{error}");
                // A stranger in a member's place is what people have to hear of.
                if first.is_none() || matches!(error, JoinError::Stranger { .. } | JoinError::Clock { .. }) {
                    first = Some(error);
                }
            }
        }
    }
    Err(first.expect("a token names at least one member"))
}

/// The identity of this folder's request to be let in with this token.
fn kept_request(dir: &DataDir, token: &TokenText) -> anyhow::Result<RequestId> {
    let kept = dir.joining()?;
    let known = kept.as_deref().and_then(|text| text.trim().split_once(' '));
    if let Some((id, request)) = known
        && id == token.id.to_string()
        && let Ok(request) = request.parse()
    {
        return Ok(request);
    }
    let request: RequestId = random::id();
    dir.write_joining(&format!("{} {request}\n", token.id))?;
    Ok(request)
}

/// Puts everything on disk that makes the folder a node; the identity comes last.
async fn settle_in(
    dir: &DataDir,
    token: &TokenText,
    own: &SigningRequest,
    admitted: Admitted,
    address: &Address,
) -> anyhow::Result<()> {
    let identity = Identity::joined(token.cluster, admitted.node);
    let authority = CertificateDer::from_pem_slice(admitted.authority.as_bytes());
    let authority = authority.context("the member sent an authority that cannot be read")?;
    anyhow::ensure!(
        key_pin(&authority) == Some(token.pin),
        "the member that let this node in sent another authority than the one that the join token names"
    );
    let certificate = NodeCertificate::kept(admitted.certificate.clone(), authority.clone(), own.key.expose())
        .context("the certificate of this node cannot be used")?;
    Tls::new(token.cluster, &[authority], &certificate).context("the certificate of this node cannot be used")?;
    address.keep(dir)?;
    dir.write(DOORS, format!("{} {}\n", admitted.by.node, admitted.by.address).as_bytes())?;
    dir.write(AUTHORITY_FILE, admitted.authority.as_bytes())?;
    dir.write(KEPT_CERTIFICATE, &admitted.certificate)?;
    dir.write(KEPT_KEY, own.key.expose())?;
    let options = store::Options {
        folder: dir.path().to_owned(),
        cluster: identity.cluster,
        node: identity.node,
        key: SealKey::create(&dir.path().join(store::KEY_FILE))?,
        fatal: tokio_util::sync::CancellationToken::new(),
    };
    let store = tokio::task::spawn_blocking(|| Store::open(options)).await??;
    store.close().await?;
    dir.finish_init(&identity)?;
    Ok(())
}
