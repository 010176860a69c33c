//! The way to the other members of a Raft group. There is none yet: a group has one member, and
//! every attempt to reach another one is refused with a reason.

use super::types::{NodeId, Types};
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend, Vote};
use quarry_common::{Code, Error};
use std::future::Future;

/// Makes [`NoPeer`]s.
pub(crate) struct NoPeers;

/// Another member, which can not be reached.
pub(crate) struct NoPeer {
    node: NodeId,
    address: String,
}

impl NoPeer {
    fn refuse(&self) -> Unreachable {
        Unreachable::new(&Error::new(
            Code::NotSupported,
            format!(
                "metaserver {} at {} can not be reached: only one metaserver is supported yet",
                self.node, self.address
            ),
        ))
    }
}

impl RaftNetworkFactory<Types> for NoPeers {
    type Network = NoPeer;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> NoPeer {
        NoPeer {
            node: target,
            address: node.addr.clone(),
        }
    }
}

impl RaftNetwork<Types> for NoPeer {
    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RPCError<NodeId, BasicNode, RaftError<NodeId>>> {
        Err(self.refuse().into())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<NodeId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RPCError<NodeId, BasicNode, RaftError<NodeId>>> {
        Err(self.refuse().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote<NodeId>,
        _snapshot: openraft::Snapshot<Types>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<Types, Fatal<NodeId>>> {
        Err(self.refuse().into())
    }
}
