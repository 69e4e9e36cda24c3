//! The authority that signs the certificates of nodes, and its replacement.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::clock;
use crate::cluster::{Authority, fingerprints, pin_of};
use crate::model::{Cluster, RotationStep};
use crate::state::Command;

use super::Error;
use super::extract::{Glance, Write};
use super::gate::Gate;
use super::session::Empty;

/// The cluster's authority.
#[derive(Serialize, ToSchema)]
#[schema(as = Authority)]
pub(super) struct AuthorityView {
    /// SHA-256 of its key, in hex; join tokens name it.
    fingerprint: String,
    /// SHA-256 of its certificate, as `openssl x509 -fingerprint -sha256` prints it.
    certificate_fingerprint: String,
    /// Certificates of all authorities that are trusted, PEM; that which signs first.
    certificates: String,
    /// Its replacement, while that goes on.
    rotation: Option<RotationView>,
}

/// Another authority on its way.
#[derive(Serialize, ToSchema)]
#[schema(as = AuthorityRotation)]
pub(super) struct RotationView {
    /// SHA-256 of the new key, in hex.
    fingerprint: String,
    /// SHA-256 of the new certificate, as `openssl x509 -fingerprint -sha256` prints it.
    certificate_fingerprint: String,
    /// `trust`: members begin to trust the new one beside the old one. `show`: they show certificates of the new one. After
    /// that the old one is gone.
    step: &'static str,
    begun_at: String,
    /// Members that have not done this step yet. Each of them has to, or to be removed.
    waits_for: Vec<AwaitedView>,
}

/// A member that a rotation waits for.
#[derive(Serialize, ToSchema)]
#[schema(as = AwaitedMember)]
pub(super) struct AwaitedView {
    node_id: u64,
    name: String,
    /// Since when it does not answer, if it does not.
    absent_since: Option<String>,
}

fn of_key(certificate: &str) -> String {
    pin_of(certificate).map(hex::encode).unwrap_or_default()
}

fn of_certificate(certificate: &str) -> String {
    fingerprints(certificate).into_iter().next().unwrap_or_default()
}

fn view(cluster: &Cluster, caller: &Caller) -> AuthorityView {
    AuthorityView {
        fingerprint: of_key(&cluster.ca_certificate),
        certificate_fingerprint: of_certificate(&cluster.ca_certificate),
        certificates: cluster.trusted(),
        rotation: rotation(cluster, caller),
    }
}

/// What a rotation waits for, if there is one.
pub(super) fn rotation(cluster: &Cluster, caller: &Caller) -> Option<RotationView> {
    let rotation = cluster.rotation.as_ref()?;
    let awaited = caller.members().map(|(member, _)| member).filter(|member| !rotation.done.contains(&member.node));
    let awaited = awaited.map(|member| AwaitedView {
        node_id: member.node.0,
        name: member.name.clone(),
        absent_since: caller.absent_since(member.node).map(|since| since.to_string()),
    });
    Some(RotationView {
        fingerprint: of_key(&rotation.certificate),
        certificate_fingerprint: of_certificate(&rotation.certificate),
        step: RotationStep::as_str(rotation.step),
        begun_at: rotation.begun_at.to_string(),
        waits_for: awaited.collect(),
    })
}

/// The cluster's authority
///
/// As the node that answers knows it.
#[utoipa::path(get, path = "/v1/authority", tag = "cluster", responses((status = 200, body = AuthorityView)))]
pub(super) async fn show(State(gate): State<Gate>, Glance(caller): Glance) -> Result<Json<AuthorityView>, Error> {
    Ok(Json(view(&*gate.cluster()?, &caller)))
}

/// Rotate the cluster's authority
///
/// Makes another one. Members first trust both, then show certificates of the new one, then drop the old one; each step begins
/// when all members have taken the one before. Join tokens that were made before are revoked. For administrators of the
/// cluster.
#[utoipa::path(post, path = "/v1/authority/rotate", tag = "cluster", request_body = Empty,
    responses((status = 202, body = AuthorityView)))]
pub(super) async fn rotate(
    State(gate): State<Gate>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<(StatusCode, Json<AuthorityView>), Error> {
    let new = Authority::new(gate.cluster()?.id, clock::now()).map_err(Error::internal)?;
    let (_, caller) = change
        .commit(|caller| {
            caller.require_admin()?;
            Ok(Command::RotateAuthority { certificate: new.certificate, key: new.key })
        })
        .await?;
    Ok((StatusCode::ACCEPTED, Json(view(&*gate.cluster()?, &caller))))
}
