//! The Cluster service: who the members are. Changing them is not served yet.

use super::{Member, pb};
use tonic::{Request, Response, Status};

fn fixed<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("etcdserver: this store's members cannot be changed while it runs"))
}

impl Member {
    fn member_list(&self) -> Vec<pb::Member> {
        let told = self.node.local.machine.members();
        let list = self.config.peers.iter().map(|(id, peer)| {
            let told = told.iter().find(|member| member.id == *id);
            pb::Member {
                id: *id,
                // As in etcd, a member that has not started has no name.
                name: told.map(|member| member.name.clone()).unwrap_or_default(),
                peer_ur_ls: peer.urls.clone(),
                client_ur_ls: told.map(|member| member.client_urls.clone()).unwrap_or_default(),
                is_learner: false,
            }
        });
        list.collect()
    }
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Member {
    async fn member_add(
        &self,
        _: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        fixed()
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        fixed()
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        fixed()
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.require_leader(request.metadata())?;
        if request.into_inner().linearizable {
            self.node.linearize().await?;
        }
        let members = Member::member_list(self);
        Ok(Response::new(pb::MemberListResponse { header: self.header_now(), members }))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        fixed()
    }
}
