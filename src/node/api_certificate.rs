//! The certificate of this node's API. It follows the cluster's authority while the API serves; connections that exist go on.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use rustls::crypto::ring::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::clock;
use crate::cluster::{Authority, Identity};
use crate::model::Cluster;

/// What the API shows at present.
#[derive(Debug)]
pub(super) struct ApiCertificate {
    identity: Identity,
    /// What people call this machine.
    names: [String; 2],
    shown: RwLock<Option<Arc<CertifiedKey>>>,
}

impl ApiCertificate {
    /// None yet.
    pub(super) fn new(identity: Identity, names: [String; 2]) -> Self {
        Self { identity, names, shown: RwLock::default() }
    }

    /// Makes one under the authority that signs at present, to be shown from now on.
    pub(super) fn make(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let (authority, key) = cluster.signer();
        let names = self.names.each_ref().map(String::as_str);
        let identity = (self.identity.cluster, self.identity.node);
        let made = Authority::server_certificate(authority, key, identity, &names, clock::now()).context(
            "cannot make the certificate of the API; --name and --advertise must be host names or addresses",
        )?;
        let made = CertifiedKey::from_der(made.chain, made.key, &default_provider())?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(made));
        Ok(())
    }
}

impl ResolvesServerCert for ApiCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
