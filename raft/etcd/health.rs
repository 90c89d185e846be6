//! gRPC's health service: serving while there is a leader. Like etcd it knows the server as a whole only, by the
//! empty name.

use super::{
    Member,
    pb::health::{
        HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
    },
};
use futures::{StreamExt, stream::BoxStream};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

fn answer(leader: Option<u64>) -> HealthCheckResponse {
    let status = if leader.is_some() { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Member {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(answer(self.node.leader())))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if !request.get_ref().service.is_empty() {
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            let endless =
                futures::stream::once(std::future::ready(Ok(unknown))).chain(futures::stream::pending());
            let stop = self.stop.clone();
            return Ok(Response::new(endless.take_until(async move { stop.cancelled().await }).boxed()));
        }
        let changes = WatchStream::new(self.node.leadership()).map(|leader| Ok(answer(leader)));
        let stop = self.stop.clone();
        Ok(Response::new(changes.take_until(async move { stop.cancelled().await }).boxed()))
    }
}
