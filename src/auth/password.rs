//! Checking and hashing passwords: slow by design, so at a bounded pace and never on the async threads.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::PasswordHash;
use crate::random;
use crate::task::blocking;

/// Hashes at once: each takes 19 MiB and a core for some 30 ms, which must not starve the node.
const HASHES_MAX: usize = 2;
/// Longest wait for a turn. Whoever waits longer is better told to come back.
const TURN_WAIT: Duration = Duration::from_secs(5);
/// OWASP's floor for argon2id.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
/// Checked when the user does not exist, so that the answer takes as long as for one who does. No password has it.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Too many passwords are being checked; try again in a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many log-ins at once; try again in a few seconds")]
pub struct Busy;

/// Hashes and checks passwords. Clones share the same pace.
#[derive(Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(HASHES_MAX)) }
    }
}

impl Passwords {
    /// A new hash with a salt of its own, in PHC form.
    pub async fn hash(&self, password: String) -> Result<PasswordHash, Busy> {
        let turn = self.turn().await?;
        Ok(blocking(move || {
            let _turn = turn;
            let salt: [u8; SALT_BYTES] = random::bytes();
            let hash = argon2().hash_password_with_salt(password.as_bytes(), &salt);
            PasswordHash(hash.expect("parameters, salt and password are within argon2's limits").to_string())
        })
        .await)
    }

    /// Whether this is the password. `None` stands for a user who does not exist: takes as long, and is never true.
    pub async fn verify(&self, hash: Option<PasswordHash>, password: String) -> Result<bool, Busy> {
        let turn = self.turn().await?;
        Ok(blocking(move || {
            let _turn = turn;
            let known = hash.as_ref().map_or(NOBODY, |hash| hash.0.as_str());
            // The parameters in the hash are used, so that hashes made with others stay valid.
            let matches = argon2().verify_password(password.as_bytes(), known).is_ok();
            matches && hash.is_some()
        })
        .await)
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Busy> {
        match tokio::time::timeout(TURN_WAIT, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(Busy),
        }
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("constant parameters within argon2's limits");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_password_is_its_own_and_no_other() {
        let passwords = Passwords::default();
        let hash = passwords.hash("correct horse".to_owned()).await.expect("idle");
        assert!(hash.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.0);
        assert!(passwords.verify(Some(hash.clone()), "correct horse".to_owned()).await.expect("idle"));
        assert!(!passwords.verify(Some(hash.clone()), "correct horsf".to_owned()).await.expect("idle"));
        assert!(!passwords.verify(None, "correct horse".to_owned()).await.expect("idle"));
        assert_ne!(hash, passwords.hash("correct horse".to_owned()).await.expect("idle"));
    }

    #[tokio::test]
    async fn an_unknown_user_takes_as_long() {
        let passwords = Passwords::default();
        let hash = passwords.hash("correct horse".to_owned()).await.expect("idle");
        let mut known = Duration::MAX;
        let mut unknown = Duration::MAX;
        for _ in 0..3 {
            let begin = Instant::now();
            passwords.verify(Some(hash.clone()), "wrong".to_owned()).await.expect("idle");
            known = known.min(begin.elapsed());
            let begin = Instant::now();
            passwords.verify(None, "wrong".to_owned()).await.expect("idle");
            unknown = unknown.min(begin.elapsed());
        }
        assert!(unknown > known / 3 && known > unknown / 3, "known {known:?}, unknown {unknown:?}");
    }
}
