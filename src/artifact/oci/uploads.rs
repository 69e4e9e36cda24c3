//! Uploads that have begun and not ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use uuid::Uuid;

use super::answer::Refusal;
use crate::artifact::{ArtifactStore, Upload};
use crate::model::Repository;

/// Uploads that may be open at once: an engine sends five layers of one image together.
const OPEN_MAX: usize = 64;
/// An upload that nobody adds to for so long was given up.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);
/// How long a request waits for the one before it, which the client may have given up, to let go of the upload.
const TURN_WAIT: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Uploads {
    open: Mutex<BTreeMap<Uuid, Session>>,
}

struct Session {
    repository: Repository,
    upload: Upload,
    turn: Arc<tokio::sync::Mutex<()>>,
    used_at: Instant,
}

/// An upload whose turn it is: nobody else adds to it meanwhile.
pub(super) struct Turn {
    pub(super) upload: Upload,
    _turn: OwnedMutexGuard<()>,
}

impl Uploads {
    pub(super) async fn begin(&self, store: &ArtifactStore, repository: Repository) -> Result<Uuid, Refusal> {
        self.drop_idle();
        let full = || {
            let message = format!("{OPEN_MAX} uploads are open; wait until one has ended");
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message)
        };
        if self.lock().len() >= OPEN_MAX {
            return Err(full());
        }
        let upload = store.upload().await?;
        let id = crate::random::id();
        let session = Session { repository, upload, turn: Arc::default(), used_at: Instant::now() };
        let mut open = self.lock();
        if open.len() >= OPEN_MAX {
            return Err(full());
        }
        open.insert(id, session);
        Ok(id)
    }

    pub(super) async fn turn(&self, id: Uuid, repository: Repository) -> Result<Turn, Refusal> {
        let unknown = || Refusal::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "there is no such upload");
        let turn = {
            let mut open = self.lock();
            let session = open.get_mut(&id).filter(|session| session.repository == repository).ok_or_else(unknown)?;
            session.used_at = Instant::now();
            Arc::clone(&session.turn)
        };
        let turn = tokio::time::timeout(TURN_WAIT, turn.lock_owned()).await.map_err(|_| {
            Refusal::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", "another request adds to this upload")
        })?;
        let upload = self.lock().get(&id).map(|session| session.upload.clone()).ok_or_else(unknown)?;
        Ok(Turn { upload, _turn: turn })
    }

    /// Ends an upload: its bytes are gone unless they have a name by now.
    pub(super) fn end(&self, id: Uuid) -> bool {
        self.lock().remove(&id).is_some()
    }

    /// Those that somebody adds to right now are not idle, however long that takes.
    fn drop_idle(&self) {
        self.lock().retain(|_, session| session.used_at.elapsed() < IDLE_MAX || session.turn.try_lock().is_err());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
