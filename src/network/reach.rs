//! How instances of other nodes are reached. Defined here, implemented by `rpc`.

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::model::{InstanceId, NodeId};

/// Bytes to and from an instance.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Wire for T {}

/// What a connection to an instance carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Requests from outside, which an instance that is to stop is left to finish.
    Requests,
    /// What another service of its app has to say, for as long as it likes: nothing waits for the end of that.
    Service,
}

/// Opens connections to instances of other nodes.
#[async_trait]
pub trait Reach: Send + Sync + 'static {
    /// A connection to a port of an instance's container. After an error the instance has seen nothing.
    async fn reach(
        &self,
        node: NodeId,
        instance: InstanceId,
        port: u16,
        carries: Carries,
    ) -> Result<Box<dyn Wire>, ReachError>;
}

/// Why there is no connection to an instance of another node.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReachError {
    /// The node does not answer: nothing that runs there can be reached.
    #[error("{0}")]
    Node(String),
    /// The node answers, and the instance takes no connection.
    #[error("{0}")]
    Instance(String),
    /// The instance has ended or is about to: the routes that name it are old, and new ones are on their way.
    #[error("{0}")]
    Gone(String),
}
