//! Session tokens: JWT, one algorithm, signed with the cluster's key.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use crate::model::{Cluster, ClusterId, Secret, Session, SessionId, Timestamp, UserId};

use super::Error;

/// Longest token that is looked at, in bytes; ours have some 400.
const TOKEN_BYTES_MAX: usize = 4_096;
/// The one algorithm. What a token says of itself is never asked.
const ALGORITHM: Algorithm = Algorithm::HS256;

/// How tokens are signed and how long they last.
#[derive(Clone, Debug)]
pub struct Tokens {
    key: Option<Secret>,
    lasting: Duration,
}

impl Default for Tokens {
    fn default() -> Self {
        Self::new(None, Duration::from_secs(24 * 3_600))
    }
}

/// What a token says, and nothing else: a claim that is not checked here must not look as if it were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The cluster that made it.
    pub iss: ClusterId,
    /// The user.
    pub sub: UserId,
    /// The session; the token dies with it.
    pub sid: SessionId,
    /// When it was made, in seconds since 1970.
    pub iat: i64,
    /// From when it is refused, in seconds since 1970.
    pub exp: i64,
}

impl Tokens {
    /// `key` is the operator's own (`JWT_SECRET`), the cluster's when absent; tokens are good for `lasting` from the
    /// log-in on (`JWT_EXPIRY`).
    pub fn new(key: Option<Secret>, lasting: Duration) -> Self {
        Self { key, lasting }
    }

    /// From log-in to expiry.
    pub fn lasting(&self) -> Duration {
        self.lasting
    }

    /// The token of a session.
    pub fn issue(&self, cluster: &Cluster, session: &Session) -> String {
        let claims = Claims {
            iss: cluster.id,
            sub: session.user,
            sid: session.id,
            iat: session.created_at.0 / 1_000,
            exp: session.expires_at.0 / 1_000,
        };
        let key = EncodingKey::from_secret(self.secret(cluster));
        encode(&Header::new(ALGORITHM), &claims, &key).expect("an HMAC key signs plain claims")
    }

    /// What a token says, if it is one of ours and has not expired.
    pub fn verify(&self, cluster: &Cluster, token: &str, now: Timestamp) -> Result<Claims, Error> {
        const BAD: Error = Error::Unauthenticated("the token is not valid");
        if token.len() > TOKEN_BYTES_MAX {
            return Err(BAD);
        }
        let mut rules = Validation::new(ALGORITHM);
        // Expiry is checked below, by the one clock of the program and without leeway.
        rules.validate_exp = false;
        rules.set_required_spec_claims(&["iss", "sub", "exp"]);
        rules.set_issuer(&[cluster.id]);
        let key = DecodingKey::from_secret(self.secret(cluster));
        let decoded = decode::<Claims>(token, &key, &rules).map_err(|error| {
            tracing::debug!(%error, "a token was refused");
            BAD
        })?;
        // Ours name no key: `kid`, `jku`, `x5u`, `jwk` are never followed, and not passed over either.
        if decoded.header != Header::new(ALGORITHM) {
            tracing::debug!("a token was refused: its header is not one that is made here");
            return Err(BAD);
        }
        let claims = decoded.claims;
        if claims.exp.saturating_mul(1_000) <= now.0 {
            return Err(Error::Unauthenticated("the token has expired"));
        }
        Ok(claims)
    }

    fn secret<'a>(&'a self, cluster: &'a Cluster) -> &'a [u8] {
        self.key.as_ref().unwrap_or(&cluster.token_key).expose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    const NOW: Timestamp = Timestamp(1_750_000_000_000);

    fn cluster() -> Cluster {
        Cluster {
            id: random::id(),
            token_key: Secret::new([7; 32]),
            ca_certificate: String::new(),
            ca_key: Secret::new([]),
            rotation: None,
            rebalance: 0,
            cluster_version: 1,
            created_at: NOW,
        }
    }

    fn session() -> Session {
        let expires_at = NOW.plus(Duration::from_secs(60));
        Session { id: random::id(), user: random::id(), created_at: NOW, expires_at }
    }

    #[test]
    fn a_token_names_its_session_until_it_expires() {
        let (cluster, session, tokens) = (cluster(), session(), Tokens::default());
        let token = tokens.issue(&cluster, &session);
        let claims = tokens.verify(&cluster, &token, NOW).expect("valid");
        assert_eq!((claims.sub, claims.sid, claims.iss), (session.user, session.id, cluster.id));
        assert!(tokens.verify(&cluster, &token, session.expires_at).is_err());
    }

    #[test]
    fn other_keys_clusters_algorithms_and_damage_are_refused() {
        let (cluster, session, tokens) = (cluster(), session(), Tokens::default());
        let good = tokens.issue(&cluster, &session);
        let own = Tokens::new(Some(Secret::new(*b"0123456789abcdef0123456789abcdef")), Duration::from_secs(60));
        assert!(own.verify(&cluster, &good, NOW).is_err());
        assert!(own.verify(&cluster, &own.issue(&cluster, &session), NOW).is_ok());
        let other = Cluster { id: random::id(), ..cluster.clone() };
        assert!(tokens.verify(&other, &good, NOW).is_err());

        let claims = tokens.verify(&cluster, &good, NOW).expect("valid");
        let stronger =
            encode(&Header::new(Algorithm::HS512), &claims, &EncodingKey::from_secret(&[7; 32])).expect("sign");
        assert!(tokens.verify(&cluster, &stronger, NOW).is_err(), "an algorithm of the token's choice");
        let parts: Vec<&str> = good.split('.').collect();
        // {"alg":"none","typ":"JWT"}
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
        for bad in ["", "a.b.c", &good[..good.len() - 2], &unsigned, &"x".repeat(10_000)] {
            assert!(tokens.verify(&cluster, bad, NOW).is_err(), "{bad}");
        }
    }
}
