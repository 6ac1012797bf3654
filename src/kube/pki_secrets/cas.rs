//! The single reads and writes of the pki_store: compare-and-swap, with an end to waiting.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use atlas_core::kubernetes::lease::fence::{Claim, Fence, KnownVersion, WritePermit};
use atlas_core::kubernetes::lease::{ResourceVersion, Term, WriteResult};
use atlas_core::name::TrustDomain;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::time::timeout;

use crate::kube::MANAGER;
use crate::kube::election::Candidate;
use crate::kube::errors::error_with_causes;
use crate::kube::record::{Record, Stored};

/// How long an answer may take: a round waits for it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A root that this process has seen the use of is there: where it isn't, the API server has lost its memory, and a new root
/// would end every Envoy's trust. Nothing is written before this is known.
pub async fn ensure_remembered(api: &Api<Secret>) -> anyhow::Result<()> {
    let name = Record::Root.secret();
    let root = timeout(PATIENCE, api.get_opt(&name))
        .await
        .context("no answer")?
        .context("cannot read the Secret with the root")?;
    ensure!(
        root.is_some(),
        "the API server no longer has the Secret {name}, below which everything that is in force was issued: it has lost its memory, or \
         somebody deleted it. Nothing is written, and everything stays as it was: restore the backup and restart Atlas. To start anew \
         instead, delete every Secret with the label goatlas.io/part in (issuers, pki) and restart Atlas; then each cluster needs new values"
    );
    Ok(())
}

/// Writes nothing but the term into the issuers, so that no earlier leader can write them any more.
pub async fn claim(
    api: &Api<Secret>,
    candidate: &Candidate,
    term: Term,
    domain: &TrustDomain,
) -> anyhow::Result<Fence> {
    let read =
        timeout(PATIENCE, api.get_opt(&Record::Issuers.secret())).await.context("no answer")?;
    let read = read.context("cannot read the Secret with the issuing authorities")?;
    let stored = read.map(|secret| Stored::read(secret, domain));
    if let Some(by) = stored.as_ref().and_then(|stored| stored.term.as_ref()) {
        candidate.observe_term(by);
    }
    let known = stored.as_ref().map_or(KnownVersion::Absent, Stored::known);
    let claim = Claim::new(term);
    let permit = claim.permit_write(&known, candidate.leads().as_ref())?;
    let outcome = match write(api, &Record::Issuers, &BTreeMap::new(), &permit).await {
        Ok(version) => WriteResult::Done(version),
        Err((_, error)) => return Err(error.context("cannot take over as leader")),
    };
    claim.written(&outcome).map_err(|_| anyhow!("BUG: a claim that was written was not"))
}

/// One compare-and-swap.
pub async fn write(
    api: &Api<Secret>,
    record: &Record,
    data: &BTreeMap<&'static str, Option<String>>,
    permit: &WritePermit,
) -> Result<ResourceVersion, (WriteResult, anyhow::Error)> {
    let name = record.secret();
    let manifest = record.manifest(data, &permit.term, permit.expected.as_ref());
    let written = async {
        match &permit.expected {
            None => {
                let secret: Secret =
                    serde_json::from_value(manifest).map_err(kube::Error::SerdeError)?;
                api.create(
                    &PostParams { field_manager: Some(MANAGER.into()), ..Default::default() },
                    &secret,
                )
                .await
            }
            Some(_) => {
                let params =
                    PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
                api.patch(&name, &params, &Patch::Merge(manifest)).await
            }
        }
    };
    let Ok(written) = timeout(PATIENCE, written).await else {
        return Err((
            WriteResult::Unknown,
            anyhow!("no answer to the write of the Secret {name}: it is read again"),
        ));
    };
    match written {
        Ok(secret) => Ok(ResourceVersion(secret.metadata.resource_version.unwrap_or_default())),
        Err(kube::Error::Api(status))
            if status.code == 409 || permit.expected.is_some() && status.code == 404 =>
        {
            Err((
                WriteResult::Conflict,
                anyhow!(
                    "the Secret {name} is not as it was read: somebody else wrote it; it is read again"
                ),
            ))
        }
        Err(error) => Err((
            WriteResult::Unknown,
            anyhow!("cannot write the Secret {name}: {}", error_with_causes(&error)),
        )),
    }
}
