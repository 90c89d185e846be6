//! The Cluster service: who the members are, and changing that.

use super::{Member, errors, pb};
use crate::{
    members::{self, Change},
    network::is_peer_url,
    types::PeerNode,
};
use tonic::{Request, Response, Status};

impl Member {
    fn member_list(&self) -> Vec<pb::Member> {
        let told = self.node.local.machine.members();
        let list = members::known(&self.node.local.membership()).into_iter().map(|known| {
            let told = told.iter().find(|member| member.id == known.id);
            pb::Member {
                id: known.id,
                // As in etcd, a member that has not started has no name.
                name: told.map(|member| member.name.clone()).unwrap_or_default(),
                peer_ur_ls: known.urls,
                client_ur_ls: told.map(|member| member.client_urls.clone()).unwrap_or_default(),
                is_learner: known.learner,
            }
        });
        list.collect()
    }

    /// Changes the members, and returns them as this member sees them then.
    async fn change(&self, change: Change) -> Result<Vec<pb::Member>, Status> {
        self.node.change(change).await?;
        self.node.linearize().await?;
        Ok(Member::member_list(self))
    }
}

/// Peer URLs as the group keeps them.
fn urls(given: Vec<String>) -> Result<Vec<String>, Status> {
    let mut urls = given;
    urls.sort();
    urls.dedup();
    if urls.is_empty() || !urls.iter().all(|url| is_peer_url(url)) {
        Err(errors::BAD_URLS.into())
    } else {
        Ok(urls)
    }
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Member {
    /// A member that is to vote is a learner until it has caught up, and then becomes a voter by itself.
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.require_leader(request.metadata())?;
        let request = request.into_inner();
        let urls = urls(request.peer_ur_ls)?;
        let id = self.config.new_number(&urls);
        let node = PeerNode { urls, joining: !request.is_learner };
        let members = self.change(Change::Add { id, node }).await?;
        let member = members.iter().find(|member| member.id == id).cloned();
        Ok(Response::new(pb::MemberAddResponse { header: self.header_now(), member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.require_leader(request.metadata())?;
        let members = self.change(Change::Remove(request.into_inner().id)).await?;
        Ok(Response::new(pb::MemberRemoveResponse { header: self.header_now(), members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.require_leader(request.metadata())?;
        let request = request.into_inner();
        let urls = urls(request.peer_ur_ls)?;
        let members = self.change(Change::Update { id: request.id, urls }).await?;
        Ok(Response::new(pb::MemberUpdateResponse { header: self.header_now(), members }))
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
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.require_leader(request.metadata())?;
        let members = self.change(Change::Promote(request.into_inner().id)).await?;
        Ok(Response::new(pb::MemberPromoteResponse { header: self.header_now(), members }))
    }
}
