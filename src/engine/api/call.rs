//! One call to an engine: its time limit, and what its errors mean.

use std::future::Future;
use std::time::Duration;

use bollard::errors::Error as ApiError;

use super::CALL_TIME;
use crate::engine::Error;

/// A call under way: who is asked, and for what, for the words of errors.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) engine: String,
    /// A verb and its object: `start container x`.
    pub(super) action: String,
}

impl Call {
    /// The answer, within the usual time.
    pub(super) async fn run<T>(&self, call: impl Future<Output = Result<T, ApiError>>) -> Result<T, Error> {
        self.within(CALL_TIME, call).await
    }

    /// The answer, within a time of its own.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(|error| self.error(error)),
            Err(_) => Err(self.late(limit)),
        }
    }

    /// The same for a call whose errors have been sorted already.
    pub(super) async fn in_time<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(self.late(limit)))
    }

    fn late(&self, limit: Duration) -> Error {
        self.unreachable(format!("no answer within {} s", limit.as_secs()))
    }

    /// The answer of a removal: what is not there is removed.
    pub(super) async fn gone(&self, call: impl Future<Output = Result<(), ApiError>>) -> Result<(), Error> {
        match self.run(call).await {
            Err(Error::NotFound { .. }) => Ok(()),
            answer => answer,
        }
    }

    pub(super) fn unreachable(&self, cause: String) -> Error {
        Error::Unreachable { engine: self.engine.clone(), action: self.action.clone(), cause }
    }

    pub(super) fn garbled(&self, cause: String) -> Error {
        Error::Garbled { action: self.action.clone(), cause }
    }

    pub(super) fn rejected(&self, reason: String) -> Error {
        Error::Rejected { action: self.action.clone(), reason }
    }

    /// What an error of the API means to the caller.
    pub(super) fn error(&self, error: ApiError) -> Error {
        match error {
            ApiError::DockerResponseServerError { status_code, message } => self.refusal(status_code, message),
            ApiError::DockerStreamError { error } => self.rejected(error),
            ApiError::JsonDataError { .. }
            | ApiError::JsonSerdeError { .. }
            | ApiError::APIVersionParseError {}
            | ApiError::StrParseError { .. } => self.garbled(chain(&error)),
            ApiError::RequestTimeoutError => self.unreachable("no answer in time".to_owned()),
            error => self.unreachable(chain(&error)),
        }
    }

    /// What a refusal means. Podman answers 500 where Docker answers 409, so its words decide; and 500 with these words where
    /// a container goes away between two steps of one call.
    pub(super) fn refusal(&self, status: u16, message: String) -> Error {
        let conflict = [
            "already in use",
            "being used",
            "is using",
            "image is in use",
            "has active endpoints",
            "can only kill running",
            "is not running",
            "exec sessions on running containers",
            "already exists",
        ];
        match status {
            404 => Error::NotFound { what: self.object() },
            500 if message.contains("does not exist in database: no such container") => {
                Error::NotFound { what: self.object() }
            }
            409 => Error::Conflict { action: self.action.clone(), reason: message },
            _ if conflict.iter().any(|words| message.contains(words)) => {
                Error::Conflict { action: self.action.clone(), reason: message }
            }
            _ => self.rejected(message),
        }
    }

    /// The action without its verb.
    fn object(&self) -> String {
        self.action.split_once(' ').map_or_else(|| self.action.clone(), |(_, object)| object.to_owned())
    }
}

/// An error and its causes in one line; hyper's own words say only that a connect failed.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !words.ends_with(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        source = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status_code: u16, message: &str) -> Error {
        let call = Call { engine: "unix:///e".into(), action: "remove container web".into() };
        call.error(ApiError::DockerResponseServerError { status_code, message: message.into() })
    }

    #[test]
    fn refusals_of_both_engines_mean_the_same() {
        let gone = "container 6d does not exist in database: no such container";
        for (status, message) in [(404, "no such"), (500, gone)] {
            assert_eq!(meaning(status, message), Error::NotFound { what: "container web".into() });
        }
        for (status, message) in [
            (409, "Conflict. The container name \"/one\" is already in use by container \"2\"."),
            (500, "container create: creating container storage: the container name \"one\" is already in use by 6"),
            (500, "\"net\" has associated containers with it: network is being used"),
            (500, "can only kill running containers. 6d is in state exited: container state improper"),
            (500, "can only create exec sessions on running containers: container state improper"),
        ] {
            assert!(matches!(meaning(status, message), Error::Conflict { .. }), "{status} {message}");
        }
        assert!(matches!(meaning(400, "bad parameter"), Error::Rejected { .. }));
        assert!(matches!(meaning(500, "runc create failed"), Error::Rejected { .. }));
    }

    #[test]
    fn a_broken_connection_says_nothing_about_containers() {
        let call = Call { engine: "unix:///e".into(), action: "ping".into() };
        let error = call.error(ApiError::IOError { err: std::io::Error::other("reset") });
        assert!(error.is_unreachable(), "{error}");
        assert!(call.error(ApiError::RequestTimeoutError).is_unreachable());
    }
}
