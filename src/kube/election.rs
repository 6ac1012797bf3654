//! Reads and writes the Lease, as the [`Elector`] decides.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atlas_core::kubernetes::lease::{
    ElectionAction, Elector, Epoch, LeaderElectionRecord, LeaseTiming, ResourceVersion, Term,
    WriteResult,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::MANAGER;
use super::errors::error_with_causes;
use crate::process::lock::lock;

/// This process as a candidate. Each write asks it first.
pub struct Candidate {
    elector: Mutex<Elector>,
    /// A term was observed.
    observed_term: Notify,
    /// The term in which this process leads.
    leads: watch::Sender<Option<Term>>,
    /// See [`LeaseStatus`].
    status: watch::Sender<LeaseStatus>,
}

/// What is known of the Lease, for people.
#[derive(Clone, Debug, Default)]
pub struct LeaseStatus {
    pub holder: Option<String>,
    /// When the API server last answered, on the clock of [`now`].
    pub answered: Option<Duration>,
}

/// The time since the machine's start, with the time that it was suspended.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl Candidate {
    /// `name`: the pod's. Random letters make the identity unique to this process.
    pub fn new(name: &str, timing: LeaseTiming) -> Arc<Self> {
        let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(6).collect();
        Arc::new(Self {
            elector: Mutex::new(Elector::new(format!("{name}_{random}"), timing)),
            observed_term: Notify::new(),
            leads: watch::Sender::new(None),
            status: watch::Sender::default(),
        })
    }

    /// The term in which this process leads now; `None`: it doesn't.
    pub fn leads(&self) -> Option<Term> {
        lock(&self.elector).leads(now()).cloned()
    }

    /// Notifies when [`Candidate::leads`] may have changed. Its value may be outdated: ask again
    /// before each write.
    pub fn changes(&self) -> watch::Receiver<Option<Term>> {
        self.leads.subscribe()
    }

    /// Notifies when the status of the Lease has changed.
    pub fn lease_status(&self) -> watch::Receiver<LeaseStatus> {
        self.status.subscribe()
    }

    /// An object that the lease guards was written in this term, see [`Elector::observe_term`].
    pub fn observe_term(&self, term: &Term) {
        lock(&self.elector).observe_term(term);
        self.observed_term.notify_one();
    }

    fn publish(&self) {
        let (leads, holder) = {
            let elector = lock(&self.elector);
            if elector.has_no_epoch_left() {
                tracing::error!(
                    "the Lease, or an annotation {} of Atlas's Secrets, says a number that leaves none to count on: delete the Lease, and \
                     correct the annotation; until then nobody leads",
                    super::pki_secret::TERM
                );
            }
            (elector.leads(now()).cloned(), elector.holder().map(str::to_owned))
        };
        self.status.send_if_modified(|status| {
            std::mem::replace(&mut status.holder, holder.clone()) != holder
        });
        self.leads.send_if_modified(|before| {
            let differs = *before != leads;
            if differs {
                match &leads {
                    Some(term) => tracing::info!(%term, "this Atlas leads: it writes"),
                    None => tracing::info!("this Atlas no longer leads"),
                }
                *before = leads;
            }
            differs
        });
    }

    fn answered(&self) {
        self.status.send_modify(|status| status.answered = Some(now()));
    }

    /// Takes part in the election until cancelled, then gives the Lease back. `observe`: only reads
    /// the Lease.
    pub async fn run(
        self: Arc<Self>,
        client: Client,
        namespace: String,
        lease: String,
        timing: LeaseTiming,
        observe: bool,
        stop: CancellationToken,
    ) {
        let lease_object = LeaseObject {
            api: Api::namespaced(client, &namespace),
            lease,
            timeout: timing.request_timeout(),
        };
        if observe {
            return self.observe(&lease_object, &timing, stop).await;
        }
        let mut released = false;
        loop {
            if stop.is_cancelled() && !released {
                lock(&self.elector).release();
                released = true;
            }
            let action = lock(&self.elector).next_action(now());
            self.publish();
            match action {
                ElectionAction::Stop => return,
                ElectionAction::Wait { until } => {
                    let leads_until = lock(&self.elector).leads_until(now());
                    let wake =
                        leads_until.map_or(until, |end| end.min(until)).saturating_sub(now());
                    tokio::select! {
                        () = tokio::time::sleep(wake) => {}
                        () = self.observed_term.notified() => {}
                        () = stop.cancelled(), if !released => {}
                    }
                }
                ElectionAction::Read { attempt } => {
                    let read = lease_object.read().await;
                    let mut elector = lock(&self.elector);
                    match read {
                        Ok(lease) => {
                            elector.on_read(now(), attempt, lease);
                            drop(elector);
                            self.answered();
                        }
                        Err(error) => {
                            elector.on_read_failed(now(), attempt);
                            drop(elector);
                            tracing::debug!(error, "cannot read the Lease");
                        }
                    }
                }
                ElectionAction::Write { attempt, record, expected, acquires } => {
                    let result = lease_object.write(&record, expected, acquires).await;
                    if result != WriteResult::Unknown {
                        self.answered();
                    }
                    lock(&self.elector).on_write(now(), attempt, result);
                }
            }
            self.publish();
        }
    }

    async fn observe(
        &self,
        lease_object: &LeaseObject,
        timing: &LeaseTiming,
        stop: CancellationToken,
    ) {
        loop {
            if let Ok(lease) = lease_object.read().await {
                self.status.send_modify(|status| {
                    status.holder =
                        lease.map(|(_, record)| record.holder).filter(|holder| !holder.is_empty());
                    status.answered = Some(now());
                });
            }
            tokio::select! {
                () = tokio::time::sleep(timing.retry()) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

struct LeaseObject {
    api: Api<Lease>,
    lease: String,
    timeout: Duration,
}

impl LeaseObject {
    async fn read(&self) -> Result<Option<(ResourceVersion, LeaderElectionRecord)>, String> {
        let answer = tokio::time::timeout(self.timeout, self.api.get_opt(&self.lease)).await;
        let lease = answer
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|error| error_with_causes(&error))?;
        Ok(lease.map(|lease| {
            let version = ResourceVersion(lease.metadata.resource_version.unwrap_or_default());
            let spec = lease.spec.unwrap_or_default();
            let duration = spec
                .lease_duration_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map(Duration::from_secs);
            let transitions = Epoch(
                spec.lease_transitions.and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
            );
            (
                version,
                LeaderElectionRecord {
                    holder: spec.holder_identity.unwrap_or_default(),
                    duration,
                    transitions,
                },
            )
        }))
    }

    async fn write(
        &self,
        record: &LeaderElectionRecord,
        expected: Option<ResourceVersion>,
        acquires: bool,
    ) -> WriteResult {
        let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let mut spec = json!({
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.duration.map_or(1, |duration| duration.as_secs()),
            "leaseTransitions": record.transitions.0,
            "renewTime": time,
        });
        if acquires {
            spec["acquireTime"] = time.into();
        }
        let labels =
            json!({atlas_core::object_names::MANAGED_BY.0: atlas_core::object_names::MANAGED_BY.1});
        let written = async {
            match &expected {
                None => {
                    let lease =
                        json!({"metadata": {"name": self.lease, "labels": labels}, "spec": spec});
                    let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
                    self.api
                        .create(
                            &PostParams {
                                field_manager: Some(MANAGER.into()),
                                ..Default::default()
                            },
                            &lease,
                        )
                        .await
                }
                Some(version) => {
                    let patch = json!({"metadata": {"resourceVersion": version.0}, "spec": spec});
                    let params =
                        PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
                    self.api.patch(&self.lease, &params, &Patch::Merge(patch)).await
                }
            }
        };
        write_result(tokio::time::timeout(self.timeout, written).await, expected.is_some())
    }
}

/// `updates`: the request was an update, no creation.
fn write_result(
    answer: Result<kube::Result<Lease>, tokio::time::error::Elapsed>,
    updates: bool,
) -> WriteResult {
    match answer {
        Ok(Ok(lease)) => {
            WriteResult::Done(ResourceVersion(lease.metadata.resource_version.unwrap_or_default()))
        }
        Ok(Err(kube::Error::Api(status)))
            if status.code == 409 || updates && status.code == 404 =>
        {
            WriteResult::Conflict
        }
        Ok(Err(error)) => {
            tracing::warn!(error = error_with_causes(&error), "cannot write the Lease");
            WriteResult::Unknown
        }
        Err(_) => WriteResult::Unknown,
    }
}
